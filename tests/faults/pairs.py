"""Two commands at a time on one store: each works, or says who is at it; nothing is lost, and in the end all is as if
they had run one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.faults.commands import start
from tests.faults.verdict import Verdict, judge
from tests.faults.workplace import JOBS, SECONDS, Job, Workplace, contents, evenly

ROW = "two commands at a time on one store, at 4 delays"
SMALL = 0.015
DELAYS = (0.0, 0.25, 0.5, 0.75)
"""Of the first one's time, until the second one begins."""
BY_NAME = {job.name: job for job in JOBS}
OTHERS = {
    "build pets": Job("build pets", ("build", "recipe.yaml"), "fresh"),
    "gc": Job("gc", ("gc", "--predictions"), "littered"),
    "rm": Job("rm", ("rm", "pets@v2"), "two", once=True),
    "recut v2": Job("recut v2", ("recut", "pets@v2", "--set", "keep.score=0.8"), "two"),
    "export v2": Job("export v2", ("export", "pets@v2", "out", "--format", "coco"), "two"),
    "verify": Job("verify", ("verify", "pets@v1"), "built"),
    "log": Job("log", ("log", "pets"), "built"),
}
PAIRS = (
    *(("scan", "scan"), ("scan", "build"), ("build", "build"), ("scan", "gc"), ("build", "gc")),
    *(("label", "label"), ("label", "build"), ("label", "gc")),
    *((("build with other rules",) * 2), ("build with other rules", "recut"), ("build with other rules", "gc")),
    *(("recut", "recut"), ("recut", "tag"), ("recut", "gc"), ("recut", "export coco"), ("recut", "verify")),
    *(("tag", "tag"), ("export coco", "export coco"), ("export coco", "export yolo"), ("export yolo", "export yolo")),
    *(("review queue", "review queue"), ("review audit", "review audit"), ("train", "train"), ("train", "gc")),
    *(("rm", "rm"), ("rm", "gc"), ("rm", "recut v2"), ("rm", "export v2"), ("move a tag", "rm")),
    *(("move a tag", "delete a tag"), ("delete a tag", "delete a tag")),
    *(("review pull", "review pull"), ("review pull", "recut"), ("review pull", "gc")),
    *(("repair", "repair"), ("repair", "gc"), ("report", "report"), ("build with other rules", "log")),
)
"""Names of commands; both begin in the state of the first."""


def inject(folder: Path, share: float) -> Iterator[tuple[str, Verdict, str]]:
    """Each pair, the second one begun at each of the delays."""
    with Workplace(folder) as place:
        yield from _each(place, evenly([(delay, names) for delay in DELAYS for names in PAIRS], share))


def _each(place: Workplace, pairs: Iterable[tuple[float, tuple[str, str]]]) -> Iterator[tuple[str, Verdict, str]]:
    ends: dict[tuple[str, str], list[dict[str, bytes]]] = {}
    for delay, names in pairs:
        one, other = ((BY_NAME | OTHERS)[name] for name in names)
        if names not in ends:
            ends[names] = [_in_turn(place, one.state, (*order, one, other)) for order in ((one, other), (other, one))]
        moment = delay * place.undisturbed(one)[0].seconds
        place.enter(one.state)
        first = start(*one.args, cwd=place.work, env=place.env)
        time.sleep(moment)
        second = start(*other.args, cwd=place.work, env=place.env)
        said = [first.wait(SECONDS), second.wait(SECONDS)]
        verdicts = [judge(ran) for ran in said]
        name = f"{one.name} and {other.name} after {moment:.2f} s"
        if bad := [(verdict, ran.stderr) for verdict, ran in zip(verdicts, said, strict=True) if not verdict.good]:
            yield name, *bad[0]
        else:
            yield name, *_afterwards(place, (one, other), ends[names])


def _in_turn(place: Workplace, state: str, order: tuple[Job, ...]) -> dict[str, bytes]:
    """What commands leave that run one after the other; both again, as `_afterwards` has them: corrections that came
    after a version was cut again make another one then."""
    place.enter(state)
    for job in order:
        place.run(*job.args)
    return _without_history(place.work)


def _afterwards(place: Workplace, pair: tuple[Job, Job], ends: list[dict[str, bytes]]) -> tuple[Verdict, str]:
    """Both again, in turn: whoever was refused does its work now, and nothing else changes. All that one order of them
    leaves must be there; what only the other one leaves, as a pool that both were the first to scan, may be."""
    for job in pair:
        again = place.run(*job.args)
        if not judge(again).good:
            return judge(again), again.stderr
    if unsound := list(place.unsound()):
        return Verdict.SILENT, "; ".join(unsound)
    found = _without_history(place.work)
    other = [name for name in found if all(found[name] != end.get(name) for end in ends)]
    wrong = other + min(([name for name in end if found.get(name) != end[name]] for end in ends), key=len)
    return (Verdict.LOST, f"other than one after the other: {', '.join(wrong)}") if wrong else (Verdict.SURVIVED, "")


def _without_history(folder: Path) -> dict[str, bytes]:
    """The order of what happened is another each time."""
    return {name: data for name, data in contents(folder).items() if not name.endswith("history.json")}
