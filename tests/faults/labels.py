"""Hostile labels, replays and review files: each damaged in one way, and read by a real command."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from builder.errors import BuildError
from tests.faults.commands import Ran, run
from tests.faults.label_sets import LabelSet, write_sets
from tests.faults.mutations import Change, changes, of_content
from tests.faults.verdict import Verdict, judge

ROW = "hostile labels, replays, review files"
SMALL = 0.0005
EVERY = 6
"""Of the faults of a kind that a file has by the hundred (another value at each place), one in so many is injected."""
MANY = 25
"""Faults of a file, those that any file has left out, from which on it has them by the hundred."""
SECONDS = 60.0
MEANT = re.compile(
    r"(name|label|rectanglelabels\.0|email|completed_by|id|mark|version|tutelage) is (text|outside|absolute|ESC|long text)"
    r"|(result|annotations|predictions|detections|all|samples|overrides) is (list|null)$"
    r"|(bbox|box|drawn|bounding_box)\.\d is (half|-1)|value\.(x|y|width|height) is (half|-1)|(area|score|confidence) is half"
    r"|category_id is text|completed_by|predictions\.0\.(score|model)|(created|updated)_at|image_rotation is half"
    r"|folders: .*(a folder|gone)$|classes.csv: line 1|truth.csv: .*cell (2|100)|csv: .*(line \d is ''|a line less)"
    r"|no such class"
)
"""Faults that leave what somebody may have meant: another name, another number in its range, one object or image less;
of a mask, a value without a class, which is ignored by intent."""


def inject(folder: Path, share: float) -> Iterator[tuple[str, Verdict, str]]:
    """A fault each: the set, the file, and what is wrong with it."""
    sets = write_sets(folder / "sets")
    faults = [fault for each in sets for fault in _faults(folder / "sets", each)]
    step = round(1 / share)
    read: dict[str, object] = {}
    for number, (each, file, name, change) in enumerate(faults[::step]):
        whole = folder / "sets" / each.name
        if each.name not in read:
            read[each.name] = _read_whole(whole, each, folder / "whole")
        place = folder / str(number)
        shutil.copytree(whole, place, symlinks=True)
        change(place / file)
        ran = run(*each.args, cwd=place, seconds=SECONDS)
        verdict = judge(ran, lambda: _is_right(each, place, ran, read[each.name]))  # noqa: B023 - called at once
        yield f"{each.name}: {file}: {name}", verdict, f"{ran.ended} {ran.code} {ran.stderr}"
        shutil.rmtree(place)


def _faults(root: Path, each: LabelSet) -> Iterator[tuple[LabelSet, str, str, Change]]:
    for file in each.files:
        faults = list(changes(file))
        if file.endswith(".json"):
            faults += of_content(root / each.name / file)
        faults = [fault for fault in faults if not MEANT.search(f"{each.name}: {file}: {fault[0]}")]
        rare, many = faults[:MANY], faults[MANY:]
        for name, change in [*rare, *many[::EVERY]]:
            yield each, file, name, change


def _read_whole(whole: Path, each: LabelSet, place: Path) -> object:
    """What is read of an undamaged set."""
    shutil.copytree(whole, place)
    ran = run(*each.args, cwd=place)
    if ran.code != 0:
        raise RuntimeError(f"{each.name} is not read when it is whole: {ran.stderr}")
    seen = each.seen(place, ran)
    shutil.rmtree(place)
    return seen


def _is_right(each: LabelSet, place: Path, ran: Ran, whole: object) -> bool:
    """Whether a command that ended well read the same as of the undamaged set, or said in a warning what is other."""
    try:
        return each.seen(place, ran) == whole or any(word in ran.stderr for word in ("warning: ", "not taken over: "))
    except (BuildError, OSError, ValueError):
        return False
