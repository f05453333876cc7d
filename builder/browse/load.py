"""Versions as one FiftyOne dataset: its schema, its samples, its evaluation and its views.

Takes the fiftyone module from builder.browse.app, which alone imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from builder.browse.documents import (
    AGREEMENT,
    CHANGES,
    FIGURES,
    REASONS,
    TRUTH_FIELD,
    Names,
    fields_of,
)
from builder.browse.images import pictures
from builder.browse.kinds import ShownKind, below_target, declare, declare_more, evaluate, name_pixels, shown_kind
from builder.browse.maps import pool_planes
from builder.browse.samples import INFO, Change, Entry, Samples, samples_of, untested
from builder.browse.truth import Labelled, truth_pictures
from builder.browse.views import save_views
from builder.engine import Track, silent
from builder.errors import BuildError
from builder.kinds import kind_of
from builder.report.colours import DROPPED, HUMAN, IGNORED, KEPT
from builder.report.headline import headline
from builder.report.quality import expected_quality
from builder.store.files import digest
from builder.store.store import Store
from builder.store.version import LABELS, LEFT_OUT, Version
from builder.versions.diff import diff
from builder.versions.history import version_before
from builder.versions.media import cache_folder, extracted

FORMAT = 2
"""Raised whenever a dataset would be made otherwise, so that an old one is not shown for a new one."""
MOST_CHANGED = 500
"""Images, at most, in the view of those with most changes."""
COLOURS = {"pseudo": KEPT, "ignored": IGNORED, "teacher": DROPPED, TRUTH_FIELD: HUMAN}
"""What of `teacher` is seen, beside what `pseudo` and `ignored` hold, was dropped."""
QUALITY = "quality"
"""Key of `dataset.info`: by version, what may be said of its precision, in a line and in paragraphs."""
HIDDEN = ("teacher", "confidence")
"""Fields that are not drawn until they are asked for."""

Note = Callable[[str], None]
"""Takes a sentence about what cannot be shown."""


def dataset_name(versions: Sequence[Version], limit: int | None = None) -> str:
    """`tutelage-NAME-v3-ID8`; of several versions, all of them."""
    parts = [f"{v.manifest.name}-{v.manifest.version}-{v.manifest.id[:8]}" for v in versions]
    return "-".join(["tutelage", *parts, *([f"limit{limit}"] if limit else [])])


def load(
    fo: Any,
    store: Store,
    versions: Sequence[Version],
    *,
    limit: int | None = None,
    reload: bool = False,
    track: Track = silent,
    note: Note = lambda sentence: None,
) -> str:
    """Put versions into one dataset, unless it is there already, and return its name.

    With several versions each has its fields, tags and views under its number (`pseudo_v1`, `pseudo_v2`). limit: so
    many images of each. reload: make it anew, with which everything that people did in it is lost. Raises BuildError
    if a version cannot be read, or is given twice, and for versions of different kinds.
    """
    suffixes = _suffixes(versions)
    _check_alike(versions)
    kind = shown_kind(versions[0].manifest.kind)
    name = dataset_name(versions, limit)
    info = {
        "format": FORMAT,
        "versions": [
            {"ref": v.ref, "id": v.manifest.id, "suffix": s, "files": digest(v.manifest.files)}
            for v, s in zip(versions, suffixes, strict=True)
        ],
    }
    files = [extracted(store, v, track) for v in versions]
    cache = {"cache": str(cache_folder(store).absolute())}
    if fo.dataset_exists(name):
        dataset = fo.load_dataset(name)
        known = dict(dataset.info.get(INFO) or {})
        if not reload and {**known, **cache} == {**info, **cache}:
            _relocate(samples_of(fo, dataset), known, cache["cache"])
            _describe(dataset, versions)
            return name
        fo.delete_dataset(name)
    dataset = fo.Dataset(name, persistent=True)
    samples = samples_of(fo, dataset)
    if warning := untested(fo):
        note(warning)
    try:
        dataset.media_type = "image"
        dataset.default_classes = list(dict.fromkeys(c for v in versions for c in v.manifest.classes))
        for n, (version, suffix, paths) in enumerate(zip(versions, suffixes, files, strict=True)):
            _load_version(samples, store, version, Names(suffix), paths, limit, n > 0, track, note)
        for n, (version, suffix) in enumerate(zip(versions, suffixes, strict=True)):
            before = versions[n - 1] if n else version_before(version, store) if len(versions) == 1 else None
            changed = _count_changes(samples, before, version, Names(suffix), note) if before else None
            agree = dataset.has_sample_field(Names(suffix)(AGREEMENT[0]))
            borderline = kind.borderline(dataset, Names(suffix))
            labelled = dataset.match_tags("truth")
            errors = [*kind.errors(labelled, Names(suffix))] if len(labelled) else []
            errors += below_target(dataset, kind, Names(suffix), version.manifest)
            save_views(dataset, Names(suffix), borderline, errors, agree=agree, changed=changed)
        _dress(fo, dataset, kind, suffixes)
        _describe(dataset, versions)
        samples.finish()
        dataset.info[INFO] = info | cache  # last: a dataset without it is not complete
        dataset.save()
    except BaseException:
        fo.delete_dataset(name)
        raise
    return name


def _describe(dataset: Any, versions: Sequence[Version]) -> None:
    """Say what may be said of the precision of these versions, in the dataset's description and its info."""
    quality = {version.ref: [headline(version.manifest), *expected_quality(version.manifest)] for version in versions}
    dataset.description = " ".join(f"{ref}: {words[0]}." for ref, words in quality.items())
    dataset.info[QUALITY] = quality
    dataset.save()


def _check_alike(versions: Sequence[Version]) -> None:
    """Raise BuildError for versions that cannot share fields: of different kinds, or maps of different classes."""
    first = versions[0]
    for other in versions[1:]:
        if other.manifest.kind != first.manifest.kind:
            raise BuildError(
                f"{first.ref} holds {first.manifest.kind} labels and {other.ref} {other.manifest.kind} labels: browse "
                "them one after the other"
            )
        if kind_of(first.manifest.kind).pixels and other.manifest.classes != first.manifest.classes:
            raise BuildError(
                f"the maps of {first.ref} and {other.ref} have different classes: browse them one after the other"
            )


def _suffixes(versions: Sequence[Version]) -> list[str]:
    if len(versions) == 1:
        return [""]
    alike = len({v.manifest.name for v in versions}) == 1
    suffixes = [
        "_" + (v.manifest.version if alike else f"{v.manifest.name}_{v.manifest.version}").replace("-", "_")
        for v in versions
    ]
    for n, suffix in enumerate(suffixes):
        if suffix in suffixes[:n]:
            raise BuildError(f"{versions[n].ref} is given twice: give different versions")
    return suffixes


def _relocate(samples: Samples, known: Mapping[str, Any], cache: str) -> None:
    """Point the samples to the store's files where they are now."""
    if known["cache"] != cache:
        dataset, paths = samples.dataset, ["filepath"]
        for field in dataset.get_field_schema(flat=True):
            if field.endswith((".mask_path", ".map_path")) and ".detections." not in field:
                paths.append(field)
        samples.replace(paths, known["cache"], cache)
        dataset.info[INFO] = {**known, "cache": cache}
        dataset.save()


def _load_version(
    samples: Samples,
    store: Store,
    version: Version,
    names: Names,
    files: Mapping[str, Path],
    limit: int | None,
    merge: bool,
    track: Track,
    note: Note,
) -> None:
    """Declare the fields of a version, and write its samples. merge: into those of other versions, where they are."""
    manifest, kind = version.manifest, shown_kind(version.manifest.kind)
    fo, dataset = samples.fo, samples.dataset
    blocks = pictures(store, version, files, limit)
    for file in filter(version.has, (LABELS, LEFT_OUT)):
        version.file(file)  # fetched, where it lies elsewhere
    maps = kind_of(manifest.kind).pixels
    planes = pool_planes(store, version, track) if maps else lambda media: None
    declare(fo, dataset, kind, names)
    optional: set[str] = set()
    total = manifest.samples if limit is None else min(limit, manifest.samples)
    with track("load", total) as advance, _written(samples, merge) as write:
        for block in blocks:
            for picture in block[:1]:
                optional |= {*picture.objects.optional, *(["calibrated"] if picture.objects.calibrated else [])}
            shown = [replace(picture, planes=planes(picture.media)) for picture in block]
            write([Entry(picture, *fields_of(picture, kind.labels(picture), names, version.ref)) for picture in shown])
            advance(len(block))
        try:
            for block_of_truth in truth_pictures(store, manifest, limit):
                write([_labelled(image, kind, names, version) for image in block_of_truth])
        except BuildError as error:
            note(f"ground truth of {version.ref} is not shown: {error}")
    declare_more(fo, dataset, kind, names, optional)
    if maps:
        name_pixels(dataset, names, manifest.classes, manifest.provenance.teacher.classes or manifest.classes)
    evaluate(dataset, kind, names, manifest.classes)


def _labelled(labelled: Labelled, kind: ShownKind, names: Names, version: Version) -> Entry:
    picture = labelled.picture
    fields, tags = fields_of(picture, kind.labels(picture), names, version.ref)
    truth = kind.mark(labelled.image, labelled.truth, version.manifest.classes, picture.media)
    return Entry(picture, fields | ({TRUTH_FIELD: truth} if truth else {}), tags)


@contextmanager
def _written(samples: Samples, merge: bool) -> Iterator[Callable[[Sequence[Entry]], None]]:
    """A function that writes samples while the next ones are made. merge: it looks for samples that are there."""
    if merge:
        samples.dataset.create_index("key")
    put = samples.merge if merge else samples.add
    waiting: list[Future[None]] = []
    with ThreadPoolExecutor(1) as thread:

        def write(entries: Sequence[Entry]) -> None:
            if waiting:
                waiting.pop().result()
            if entries:
                waiting.append(thread.submit(put, entries))

        yield write
        write([])


def _count_changes(samples: Samples, before: Version, version: Version, names: Names, note: Note) -> str | None:
    """Note at each of the images with most changes how many of its labels changed since `before`; its name."""
    try:
        most_changed = diff(before, version, limit=MOST_CHANGED).most_changed
    except BuildError as error:
        note(f"what changed since {before.ref} is not shown: {error}")
        return None
    dataset = samples.dataset
    dataset.add_sample_field(names(CHANGES[0]), samples.fo.IntField, description=CHANGES[1])
    dataset.create_index("key")
    counts = {key: changes.weight[0] for key, changes in most_changed.items() if changes.weight[0]}
    condition = {"key": {"$in": list(counts)}, names("shard"): {"$ne": None}}
    documents = list(samples.find(condition, ("key",)))
    samples.update({document["_id"]: Change({names(CHANGES[0]): counts[document["key"]]}) for document in documents})
    return before.ref


def _dress(fo: Any, dataset: Any, kind: ShownKind, suffixes: Sequence[str]) -> None:
    """Colours as in Tutelage's reports, every raw prediction hidden until asked for, and what matters on top."""
    shown = [field + suffix for suffix in suffixes for field in kind.fields if field not in HIDDEN]
    colours = {field + suffix: COLOURS[field] for suffix in suffixes for field in kind.fields if field in COLOURS}
    colours[TRUTH_FIELD] = COLOURS[TRUTH_FIELD]
    if len(suffixes) > 1:  # in one colour they could not be told apart: FiftyOne finds one for each
        colours = {path: colour for path, colour in colours.items() if not path.startswith("pseudo")}
    config = dataset.app_config
    config.color_scheme = fo.ColorScheme(
        color_by="field" if kind.truth == "Detections" else "value",
        fields=[{"path": path, "fieldColor": colour} for path, colour in colours.items()],
    )
    config.active_fields = fo.ActiveFields(exclude=False, paths=[TRUTH_FIELD, *shown])
    groups = {group.name: group for group in fo.DatasetAppConfig.default_sidebar_groups(dataset)}
    ours = [*FIGURES, REASONS[0], AGREEMENT[0], CHANGES[0], "why"]
    mine = [field + suffix for suffix in suffixes for field in ours if dataset.has_sample_field(field + suffix)]
    first = [groups.pop(name) for name in ("tags", "labels")]
    for group in groups.values():
        group.expanded, group.paths = False, [path for path in group.paths if path not in mine]
    rest = [group for group in groups.values() if group.paths]
    config.sidebar_groups = [*first, fo.SidebarGroupDocument(name="scores", paths=mine), *rest]
