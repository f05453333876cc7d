"""The paper in small: a teacher from few labels, its pseudo-labels, a student trained on both. Run it with `make demo`.

It runs the commands a user would run and prints each; the figures go to demo/result.json, the pictures beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from scenes import Counts, make_scenes

from builder.store.files import write_file
from builder.store.store import Store

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent))

from compare import compare  # noqa: E402 - it lies beside the examples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=2, help="of the scenes, the networks and the order of images")
    parser.add_argument("--steps", type=float, default=1.0, help="factor on all training lengths")
    arguments = parser.parse_args()
    started = time.monotonic()
    demo = ROOT / "demo"
    make_scenes(demo / "data", Counts(), seed=arguments.seed)
    run("tutelage", "train", recipe("teacher"), *training("teacher", 1100, arguments))
    run("build-pseudo", recipe("recipe"), "--store", "demo/store")
    run("tutelage", "verify", "digits", "--store", "demo/store")
    run("tutelage", "show", "digits", "--store", "demo/store", "--picture", "demo/boxes.png")
    run("tutelage", "train", recipe("supervised"), *training("supervised", 1500, arguments))
    run("tutelage", "train", recipe("student"), *training("student", 1500, arguments))
    result = measure(demo)
    result["seconds"] = round(time.monotonic() - started, 1)
    write_file(demo / "result.json", json.dumps(result, indent=2).encode() + b"\n")
    report(result, arguments.seed)


def recipe(name: str) -> str:
    return str((HERE / f"{name}.yaml").relative_to(ROOT))


def training(name: str, steps: int, arguments: argparse.Namespace) -> list[str]:
    options = ["--out", f"demo/runs/{name}", "--store", "demo/store"]
    options += ["--seed", str(arguments.seed)]
    return options + (["--set", f"steps={round(steps * arguments.steps)}"] if arguments.steps != 1 else [])


def run(*command: str) -> None:
    """Run one of the installed commands as a user would, from the root of the checkout."""
    print(f"\n$ {shlex.join(command)}", flush=True)
    done = subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def measure(demo: Path) -> dict[str, object]:
    """Every figure of the table; the pool's truth and the test scenes are looked at here for the first time."""
    version = Store(demo / "store").version("digits")
    figures = compare(demo / "runs", version.folder, demo / "data" / "test.json", demo / "data" / "pool_truth.json")
    return figures | {"version": version.ref}


def report(result: dict[str, object], seed: int) -> None:
    """The one table, and how far it may be believed."""
    from rich.console import Console
    from rich.table import Table

    figure = {name: value for name, value in result.items() if isinstance(value, float)}
    table = Table("", "AP on 200 test scenes", title="Self-training on digit scenes", title_justify="left")
    lines: Sequence[tuple[str, str]] = (
        ("teacher, 60 labelled scenes", "teacher_ap"),
        ("supervised, as many steps as the student", "supervised_ap"),
        ("student, labels and pseudo-labels", "student_ap"),
    )
    for text, name in lines:
        table.add_row(text, f"{figure[name]:.3f}")
    console = Console(width=None if sys.stdout.isatty() else 100)
    print()
    console.print(table)
    precision, recall = figure["pseudo_precision"], figure["pseudo_recall"]
    quality = "none were kept" if math.isnan(precision) else f"precision {precision:.3f}, recall {recall:.3f}"
    print(f"pseudo-labels of {result['version']}: {quality} (IoU 0.5, hidden truth)")
    gain = figure["student_ap"] - figure["supervised_ap"]
    low, high = figure["gain_low"], figure["gain_high"]
    print(f"student minus supervised: {gain:+.3f} AP, 90 % interval over test images {low:+.3f} to {high:+.3f}")
    if low > 0:
        verdict = "The student did better on these test scenes"
    elif high < 0:
        verdict = "The student did worse on these test scenes: self-training did not pay here"
    else:
        verdict = "The interval covers 0: no claim that either is better"
    print(f"{verdict}. This is one seed ({seed}): another may come out differently (docs/studies: five seeds).")
    print("figures: demo/result.json   boxes kept, ignored and dropped: demo/boxes.png")


if __name__ == "__main__":
    main()
