"""What a model of someone else's may take: memory while it is loaded and tried, and time for its first image.

An ONNX file is a program: it may ask for a terabyte, or turn in a loop for ever.
"""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from teachers.base import TeacherError

FIRST_SECONDS = 60.0
"""For the first image: a model that is slower labels no pool."""
MEMORY_GIB = 3.0
"""For loading and the first image, beside what this process has already and the weights' share below."""
WEIGHTS_COPIES = 4
"""How often ONNX Runtime may hold the weights while it loads them: file, parse, a copy, one in another order."""
VARIABLE = "TUTELAGE_MODEL_GIB"
"""The environment variable that allows a model more than MEMORY_GIB."""


@contextmanager
def limited_memory(model: Path, weights: int) -> Iterator[None]:
    """In the block this process may take MEMORY_GIB, and WEIGHTS_COPIES times the `weights` in bytes, beyond what it
    has: an allocation beyond that fails, which is a TeacherError. Without /proc there is no limit."""
    gib = _allowed()
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = (_held() or 0) + int(gib * 2**30) + WEIGHTS_COPIES * weights
    is_limited = _held() is not None and all(
        limit == resource.RLIM_INFINITY or allowed < limit for limit in (before, hard)
    )
    try:
        if is_limited:
            resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))
        yield
    except MemoryError as error:
        raise too_large(model, gib) from error
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


def too_large(model: Path, gib: float | None = None) -> TeacherError:
    """What is said of a model that asks for more memory than it may have."""
    return TeacherError(
        f"{model} asks for more memory than the {gib or _allowed():g} GiB that a model may take for one image: make "
        f"input.size smaller, or set {VARIABLE} to allow more"
    )


def run_watched(
    session: ort.InferenceSession, names: Sequence[str], feed: Mapping[str, np.ndarray], seconds: float | None
) -> list[Any]:
    """`session.run`, in a thread of its own, so that Ctrl-C ends it. seconds: after which it is ended, too, with a
    TimeoutError; None for no limit. Raises what ONNX Runtime raises."""
    options = ort.RunOptions()
    outcome: dict[str, Any] = {}
    options.log_severity_level = 4

    def run() -> None:
        try:
            outcome["outputs"] = session.run(list(names), dict(feed), options)
        except Exception as error:  # handed on below
            outcome["error"] = error

    thread = threading.Thread(target=run, name="onnx", daemon=True)
    thread.start()
    try:
        thread.join(seconds)
        if thread.is_alive():
            raise TimeoutError
    except BaseException:
        options.terminate = True  # asked between two operations, those in a loop included
        thread.join()
        raise
    if "error" in outcome:
        raise outcome["error"]
    return outcome["outputs"]


def _allowed() -> float:
    try:
        return float(os.environ.get(VARIABLE, MEMORY_GIB))
    except ValueError:
        raise TeacherError(f"{VARIABLE} is {os.environ[VARIABLE][:40]!r}: give a number, such as 8") from None


def _held() -> int | None:
    """Bytes of memory that count towards RLIMIT_DATA; None where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmData:")[2].split()[0]) << 10
    except (OSError, IndexError, ValueError):
        return None
