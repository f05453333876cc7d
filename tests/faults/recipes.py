"""Keys of recipes with values that mean nothing there: each is valid by what the key means, or refused in a sentence that
names it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.faults.commands import run
from tests.faults.verdict import Verdict, judge
from tests.faults.workplace import NETWORK, SCHEDULE, evenly
from tests.helpers.pools import write_images, write_recipe, write_results
from tests.helpers.rectangles import write_rectangles

ROW = "recipes: keys x values, names"
SMALL = 0.005
VALUES = {
    "null": "null", "NaN": ".nan", "inf": ".inf", "-inf": "-.inf", "-1": "-1", "0": "0", "10^30": "1" + "0" * 30, "empty": "''",
    "NUL": '"a\\0b"', "a list": "[1, [2]]", "a mapping": "{a: 1}", "a date": "2026-02-30", "true": "true",
    "long": "'" + "x" * 90_000 + "'", "deep": "[" * 3_000 + "]" * 3_000, "unicode": '"\\u202e\\u65e5\\u672c\\e[2J"',
    "outside": "'../../../../etc/passwd'", "hub": "'hf://no/such@v1'", "1e400": "1e400",
}  # fmt: skip
"""Name -> as it stands in a YAML file."""
TEXTS = frozenset(("empty", "a date", "long", "unicode", "outside", "hub", "1e400"))
"""What is text to YAML; what a text may be, only the reading shows."""
FREE = frozenset((*TEXTS, "null"))
"""What a key may hold that nobody reads but people."""
NONE: frozenset[str] = frozenset()
OFF = frozenset(("null",))
SHARE = frozenset(("0",))
SHARE_OFF = SHARE | OFF
FLAG = frozenset(("true", "0"))
SIGNED = frozenset(("-1", "0", "10^30"))
BUILD: dict[str, frozenset[str]] = {
    "name": frozenset(("a date", "1e400")), "pool": NONE, "pool.source": NONE, "pool.images": OFF, "pool.limit": OFF, "pool.member": OFF, "pool.max_pixels": NONE,
    "pool.chunk": NONE, "pool.license": TEXTS, "teacher": NONE, "teacher.spec": NONE, "teacher.images": NONE, "teacher.floor": SHARE,
    "teacher.nms_iou": SHARE_OFF, "teacher.top_k": OFF, "teacher.max_detections": OFF, "teacher.min_size": OFF, "teacher.dtype": NONE,
    "teacher.weights": OFF, "teacher.classes": OFF, "teacher.batch_size": NONE, "teacher.threads": OFF, "teacher.tta": OFF,
    "teacher.license": TEXTS, "teacher.alarm": FLAG, "teacher.format": OFF, "teacher.ensemble": OFF, "truth": OFF, "truth.source": NONE,
    "truth.format": OFF, "truth.group": OFF, "truth.split": OFF, "truth.certify": OFF, "test": OFF, "labelled": OFF, "keep": NONE,
    "keep.score": SHARE_OFF | {"a mapping"}, "keep.precision": OFF, "keep.density": OFF, "keep.balance": OFF, "keep.mixture": OFF, "keep.top_box": SHARE_OFF,
    "keep.ignore": SHARE_OFF | {"a mapping"}, "keep.calibration": NONE, "keep.nms": SHARE_OFF, "keep.max_per_image": OFF, "keep.min_size": frozenset(("null", "0", "10^30")),
    "keep.uncertainty": frozenset(("null", "0", "10^30")), "keep.where": OFF | {"true"}, "keep.refused": NONE, "keep.classes": OFF,
    "gates": NONE, "gates.on_leak": NONE, "gates.min_precision": OFF, "gates.density": OFF, "parent": OFF, "resolve": frozenset(("0",)), "review": FLAG,
    "images": NONE, "images.drop_empty": FLAG, "images.near_duplicates": SHARE_OFF, "shards": NONE, "shards.max_mb": NONE, "shards.max_images": NONE,
    "shards.image_format": NONE, "shards.strip_metadata": FLAG, "shards.images": NONE, "max_failure_rate": SHARE, "unknown": NONE,
}  # fmt: skip
"""Key of a build recipe -> the values that are valid there, whatever else they lead to."""
TRAIN: dict[str, frozenset[str]] = {
    "labelled": NONE, "labelled.path": NONE, "labelled.images": OFF, "labelled.limit": OFF, "labelled.counted_from": OFF | {"0"}, "pseudo": NONE,
    "network": NONE, "network.arch": OFF, "network.backbone": NONE, "network.size": NONE, "network.channels": NONE, "network.head_depth": NONE,
    "network.levels": NONE, "network.norm": NONE, "network.freeze": OFF, "network.mean": NONE, "network.std": NONE, "network.pretrained": OFF, "network.classes": NONE,
    "init": OFF, "steps": NONE, "batch": NONE, "lr": frozenset(("10^30",)), "weight_decay": frozenset(("0", "10^30")), "warmup": SHARE,
    "clip_norm": frozenset(("10^30",)), "augment": NONE, "flip": FLAG, "ema": SHARE, "alpha": frozenset(("0", "10^30")), "alpha_ramp": SHARE, "doubly_robust": NONE, "decay": SHARE, "clip": NONE,
    "per_term": FLAG, "normalise": FLAG, "soft": FLAG, "seed": frozenset(("0",)), "precision": NONE, "workers": frozenset(("0",)), "save_every": NONE,
    "val": OFF, "track": OFF, "rounds": OFF, "unknown": NONE,
}  # fmt: skip
PRETRAIN: dict[str, frozenset[str]] = {
    "pool": TEXTS, "steps": NONE, "batch": NONE, "lr": frozenset(("10^30",)), "temperature": frozenset(("10^30",)), "projection": NONE,
    "min_scale": NONE, "flip": FLAG, "colour": SHARE, "blur": FLAG, "seed": frozenset(("0",)), "workers": frozenset(("0",)), "network.size": NONE,
}  # fmt: skip
STUDY: dict[str, frozenset[str]] = {
    "name": frozenset(("a date", "1e400")), "labelled": NONE, "test": NONE, "val": OFF, "measure": NONE, "pool": OFF, "train": NONE, "train.steps": NONE, "train.batch": NONE,
    "train.network": NONE, "teacher": NONE, "teacher.steps": NONE, "teacher.augment": OFF, "teacher.folds": NONE, "build": NONE, "build.keep": NONE, "grid": NONE, "grid.augment": NONE, "grid.init": NONE,
    "grid.fractions": NONE, "grid.arms": NONE, "grid.alpha": NONE, "grid.rounds": NONE, "seeds": NONE, "primary": NONE, "others": NONE, "unknown": NONE,
}  # fmt: skip
NAMES = (
    "../x", "/etc", "a/b", ".", "..", ".hidden", "a.b", "a b", "a\nb", "-x", "--help", "a@v1", "v1", "con", "x" * 64, "x" * 65, "\u65e5\u672c", "a\u202eb",
    "~", "*", "%s", "a;b", "$(id)", "`id`", "a\\b", "a\tb", "1", "0x10", "_", "A-1_b",
)  # fmt: skip
GOOD_NAMES = frozenset(("v1", "con", "x" * 64, "A-1_b", "1", "0x10"))


def inject(folder: Path, share: float) -> Iterator[tuple[str, Verdict, str]]:
    """A recipe with one key changed, and `--dry-run` of the command that reads it."""
    names = write_images(folder / "pool", 2)
    write_results(folder, names)
    write_recipe(folder)
    write_rectangles(folder / "scenes", 4)
    for command, recipe, name, text, is_valid in evenly(list(_cases()), share):
        (folder / "case.yaml").write_text(text)
        ran = run(command, "case.yaml", "--dry-run", cwd=folder, seconds=30)
        yield f"{recipe}: {name}", judge(ran, lambda is_valid=is_valid: is_valid), ran.stderr or ran.stdout


def _cases() -> Iterator[tuple[str, str, str, str, bool]]:
    scenes = "scenes/labels.json"
    train = {"labelled": {"path": scenes}, "network": NETWORK, **SCHEDULE}
    in_study = {key: value for key, value in SCHEDULE.items() if key != "steps"}
    bases: dict[str, tuple[str, dict[str, Any], dict[str, frozenset[str]]]] = {
        "build": (
            "build",
            {
                "name": "pets", "pool": {"source": "pool"}, "teacher": {"spec": "replay:results.json", "images": "listing.json"},
                "keep": {"score": 0.5},
            },
            BUILD,
        ),
        "train": ("train", train, TRAIN),
        "pretrain": ("pretrain", {"pool": "pool", "network": {"backbone": "timm:test_resnet", "size": 64, "levels": [8, 16]}, "steps": 2, "batch": 2}, PRETRAIN),
        "study": (
            "study",
            {
                "name": "s", "labelled": {"path": scenes}, "test": {"path": scenes}, "train": {"steps": 2, "network": NETWORK, **in_study},
                "teacher": {"steps": 2}, "grid": {"arms": ["supervised"]}, "seeds": 1,
            },
            STUDY,
        ),
    }  # fmt: skip
    for recipe, (command, base, keys) in bases.items():
        for key, valid in keys.items():
            for name, text in VALUES.items():
                yield (
                    command,
                    recipe,
                    f"{key} = {name}",
                    _text(base, key, text),
                    name in valid or key == "teacher.images",
                )
    for name in NAMES:
        text = _text(bases["build"][1], "name", json.dumps(name))
        yield "build", "build", f"the name {name[:20]!r}", text, name in GOOD_NAMES


def _text(base: dict[str, Any], key: str, value: str) -> str:
    content = json.loads(json.dumps(base))
    place, (*above, last) = content, key.split(".")
    for part in above:
        inner = place.setdefault(part, {})
        place = inner if isinstance(inner, dict) else place.__setitem__(part, {}) or place[part]
    if key.startswith("truth."):
        place["source"] = "scenes/labels.json"
    if key.startswith("keep.") and last in ("precision", "density", "balance", "mixture", "top_box"):
        place.pop("score", None)
    place[last] = "@value@"
    return json.dumps(content).replace('"@value@"', value)
