"""The dataset card of a version: YAML that `datasets` obeys, and what a reader should know before using it.

What may be said of its precision is decided in builder.evidence.claims.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from builder.evidence.claims import claims, groups, keep_section
from builder.kinds import kind_of
from builder.report.card_terms import features, head_yaml, licence_terms, size_category
from builder.report.headline import certificate, class_cells, class_note, headline, short_members
from builder.report.quality import expected_quality, licences, used
from builder.rules.fates import describe
from builder.rules.reasons import BY_ACTION
from builder.store.manifest import Manifest
from builder.store.provenance import UNKNOWN
from builder.store.version import CHART
from builder.words import visible


def card(manifest: Manifest) -> str:
    """The dataset card as Markdown with a YAML head that `datasets.load_dataset` obeys."""
    head = head_yaml(_head(manifest))
    people = sum(manifest.objects.get(reason.key, 0) for reason in BY_ACTION.values())
    kind = kind_of(manifest.kind)
    whose = f"; people decided on {people} of them" if people else ", not a person"
    intro = (
        f"{manifest.distinct} images with pseudo-labels: {kind.labels}{whose}.\n"
        f"{manifest.kept} {kind.noun} are kept, {manifest.ignored} are {kind.ignored}."
    )
    if copies := manifest.samples - manifest.distinct:
        intro += f"\n{copies} samples more are copies of images of rare classes."
    if manifest.tombstones:
        intro += (
            f"\nThe shards hold {manifest.stored} images, {len(manifest.tombstones)} of them to be skipped: see "
            "Removed images. All figures below are without those."
        )
    sections = [
        f"# {_text(manifest.name)} {_text(manifest.version)}\n\n{intro}",
        "\n".join(_origin(manifest)),
        "## Expected quality\n" + "\n\n".join(_quality(manifest)),
        *_classes(manifest),
        "## Thresholds\n" + _threshold_table(manifest),
        "## Rules\n" + _rules(manifest),
        f"## Counts\n![{kind.noun.capitalize()} of each class that are kept, ignored and dropped]({CHART})\n\n"
        + _counts(manifest),
        *_gates(manifest),
        "## Known limits\n" + "\n".join(f"- {limit}" for limit in _known_limits(manifest)),
        *_tombstones(manifest),
        _use(manifest),
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(sections) + "\n"


def _head(manifest: Manifest) -> dict[str, Any]:
    size = sum(shard.bytes for shard in manifest.shards)
    split = {"name": "train", "num_examples": manifest.stored, "num_bytes": size}  # load_dataset skips none
    return {
        "pretty_name": f"{manifest.name} {manifest.version}",
        "task_categories": [kind_of(manifest.kind).task],
        "annotations_creators": ["machine-generated"],
        **licence_terms(licences(manifest)["source"]),
        "size_categories": [size_category(manifest.stored)],
        "source_datasets": ["original"],
        "tags": ["pseudo-labels", "webdataset", "tutelage"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.tar"}]}],
        "dataset_info": {
            "features": features(manifest),
            "splits": [split],
            "download_size": size,
            "dataset_size": size,
        },
        "teacher": {
            "spec": manifest.provenance.teacher.spec,
            "revision": manifest.provenance.inputs.predictions or UNKNOWN,
            "license": licences(manifest)["teacher"],
        },
    }


def _origin(manifest: Manifest) -> Iterator[str]:
    provenance = manifest.provenance
    yield f"- version id: `{manifest.id}`"
    if parent := provenance.parent:
        yield f"- parent: {_text(parent.version)}, id `{parent.id}`"
    yield f"- teacher: {_code(provenance.teacher.spec)} (fingerprint `{provenance.inputs.predictions[:12]}`)"
    if truth := provenance.truth:
        yield (
            f"- truth: {truth.images} labelled images ({truth.tune} to tune, {truth.certify} to certify, "
            f"{used(manifest)})"
        )
    if overrides := provenance.overrides:
        yield f"- review: {_text(describe(overrides))}"
    terms = licences(manifest)
    for what, name in (("source", "source images"), ("teacher", "teacher")):
        flag = " (**nobody said: find out before you share this version**)" if terms[what] == UNKNOWN else ""
        yield f"- licence of the {name}: {_text(terms[what])}{flag}"


def _quality(manifest: Manifest) -> Iterator[str]:
    title = headline(manifest)
    yield f"**{_text(title)}.**"
    for paragraph in expected_quality(manifest):
        text = paragraph.removeprefix(f"{title}: ")
        yield _text(text[:1].upper() + text[1:])


def _classes(manifest: Manifest) -> Iterator[str]:
    """Each class by itself, beside what is certified of groups of them."""
    truth, every = manifest.provenance.truth, claims(manifest)
    if truth is None or truth.measured is None or every.level is None:
        return
    cells = class_cells(manifest)
    rows = ["| class | kept | certified | precision | recall | labelled |", "|" + "---|" * 6]
    for claim in sorted(every.classes, key=lambda claim: (not claim.flagged, -claim.kept, claim.name)):
        certified, precision, recall = cells[claim.name]
        precision = f"**{precision}**" if claim.flagged else precision
        labelled = str(claim.estimate.objects) if claim.estimate else "-"
        row = (_text(claim.name), str(claim.kept), certified, precision, recall, labelled)
        rows.append("| " + " | ".join(row) + " |")
    yield f"## Each class by itself\n{class_note(manifest)}\n\n" + "\n".join(rows)


def _threshold_table(manifest: Manifest) -> str:
    rows = ["| classes | rule | keep from | certified | n | K | C | n* | p | lower bound |", "|" + "---|" * 10]
    every = claims(manifest)
    for group in groups(manifest):
        cells = [
            _text(short_members(group.classes)),
            group.rule,
            _number(group.threshold),
            certificate(manifest, every, group),
        ]
        cells += [_number(v) for v in (group.units, group.kept, group.correct, group.effective)]
        cells += [_number(group.p_value), _number(group.lower)]
        rows.append("| " + " | ".join(cells) + " |")
    notes = (
        f"\n\nn: labelled images or units; K, C: {kind_of(manifest.kind).noun} kept and right on them; n\\*: their "
        f"effective number; p and lower bound: of the certified step. Uses of the certify half: {every.uses}."
    )
    return "\n".join(rows) + (notes if manifest.provenance.truth else "")


def _rules(manifest: Manifest) -> str:
    keep = {name: value for name, value in keep_section(manifest).items() if value is not None}
    return "\n".join(f"- {_code(name)}: {_text(_plain(value))}" for name, value in keep.items())


def _plain(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def _counts(manifest: Manifest) -> str:
    classes = "\n".join(
        f"| {_text(c)} | {n['predicted']} | {n['kept']} | {n['ignored']} |" for c, n in manifest.per_class.items()
    )
    reasons = "\n".join(f"| {reason} | {n} |" for reason, n in manifest.objects.items() if n)
    images = "\n".join(f"| {state} | {n} |" for state, n in manifest.images.items() if n)
    kind = kind_of(manifest.kind)
    noun = "objects" if kind.overlaps else kind.noun
    return (
        f"| class | predicted | kept | ignored |\n|---|---|---|---|\n{classes}\n\n"
        f"| why | {noun} |\n|---|---|\n{reasons}\n\n| images | count |\n|---|---|\n{images}"
    )


def _gates(manifest: Manifest) -> Iterator[str]:
    findings = manifest.provenance.gates
    alarms = [finding for finding in findings if finding.status != "ok"]
    if alarms:
        lines = "\n".join(f"- **{gate.status}**, {_text(gate.name)}: {_text(gate.message)}" for gate in alarms)
        yield f"## Gates\n{len(findings) - len(alarms)} of {len(findings)} passed.\n\n{lines}"


def _known_limits(manifest: Manifest) -> Iterator[str]:
    kind = kind_of(manifest.kind)
    yield from kind.limits
    if not claims(manifest).holding:
        yield f"No precision is certified: look at some {kind.noun} before you train on them."
    empty = [name for name, counts in manifest.per_class.items() if not counts["kept"]]
    if empty:
        yield f"Nothing is kept of {len(empty)} of {len(manifest.classes)} classes: {_text(short_members(empty))}."
    lost = {s: n for s, n in manifest.images.items() if n and s not in ("written", "tombstone", "pool")}
    if lost:
        yield "Images of the pool that are not here: " + ", ".join(f"{n} {_text(s)}" for s, n in lost.items()) + "."


def _tombstones(manifest: Manifest) -> Iterator[str]:
    if manifest.tombstones:
        yield (
            f"## Removed images\n{len(manifest.tombstones)} images left the pool after a version before this one. "
            "Their samples still stand in the shards, which are that version's byte for byte: **skip their keys**. "
            f"`load_dataset` and its `num_examples` count all {manifest.stored} samples of the shards.\n"
            "```python\nimport json\nfrom pathlib import Path\n\n"
            'gone = set(json.loads(Path("manifest.json").read_text())["tombstones"])\n'
            'rows = rows.filter(lambda key: key not in gone, input_columns="__key__")  # datasets\n'
            'samples = samples.select(lambda sample: sample["__key__"] not in gone)  # webdataset\n```'
        )


def _use(manifest: Manifest) -> str:
    image, kind = manifest.features[0], kind_of(manifest.kind)
    shown = f'rows[0]["{kind.member}"]' if kind.member else f'rows[0]["json"]["{kind.fields[0]}"]'
    calibrated = (
        "`score` is the teacher's, `calibrated` the same after calibration on labels, on which the thresholds act.\n"
        if manifest.provenance.calibration is not None
        else ""
    )
    return f"""## Use
`ORG/NAME` stands for this dataset's name on the Hub, `FOLDER` for a copy of it on the disk.
```python
from datasets import load_dataset
rows = load_dataset("ORG/NAME", revision="{manifest.version}", split="train")  # or ("FOLDER", split="train")
rows[0]["{image}"], {shown}

import webdataset
samples = webdataset.WebDataset("FOLDER/data/train-000000.tar", shardshuffle=False).decode("pil")
```
```sh
tutelage pull ORG/NAME@{manifest.version}      # into a store, every file checked
hf download --repo-type dataset --revision {manifest.version} --local-dir FOLDER ORG/NAME
```
To train on it with Tutelage without pulling it, its recipe says `pseudo: ["hf://ORG/NAME@{manifest.version}"]`.

{kind.read}{calibrated}`reencoded` says whether the image bytes are
not those whose SHA-256 is `sha256` (turned upright, brought to one format, or stripped of metadata)."""


def _number(value: float | int | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.4g}"


def _text(text: str) -> str:
    """A text as it may stand in Markdown, a table's cell included: on one line, nothing in it taken for markup."""
    return re.sub(r"([\\`*_<>|&~$]|(?<=\])\()", r"\\\1", visible(" ".join(text.split())))


def _code(text: str) -> str:
    """A text as code in a line of Markdown: between more backticks than stand in a row inside."""
    text = visible(" ".join(text.split()))
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"
