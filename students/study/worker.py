"""A process that does jobs of a study one after the other: `python -m students.study.worker OUT`.

A line of JSON on standard input is a job, a line on standard output what became of it, `{"error": ""}` if all is well.
What libraries print goes to standard error. It ends at once when its input does, so that none outlives a study that was
killed; the job it was at goes on from its last save.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

RECIPE = "study.json"


def main(out: Path) -> None:
    """Do what comes in until nothing more can come."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the study's, which then closes our input
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    lines: SimpleQueue[str] = SimpleQueue()
    Thread(target=_listen, args=(lines,), daemon=True).start()
    while True:
        print(json.dumps({"error": _do(out, lines.get())}), file=answers, flush=True)


def _listen(lines: SimpleQueue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def _do(out: Path, line: str) -> str:
    """The error of a job, a sentence, or nothing."""
    from builder.errors import BuildError
    from students.study.cell import run_job
    from students.study.grid import from_json
    from students.study.recipe import StudyRecipe
    from teachers.base import TeacherError

    try:
        study = StudyRecipe.model_validate_json((out / RECIPE).read_bytes())
        run_job(study, out, from_json(json.loads(line)))
    except (BuildError, TeacherError) as error:
        return " ".join(str(error).split())
    except Exception as error:  # whatever it is, the other cells go on
        traceback.print_exc()
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return ""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
