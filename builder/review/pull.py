"""Take over people's corrections of a version: read them, keep them as overrides and verdicts, build a new version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from builder.cut.recall import adopt_overrides, check_cut_again, new_version
from builder.cut.version import Cut
from builder.engine import Track, silent
from builder.kinds import kind_of
from builder.review import audits
from builder.review.audits import Audited
from builder.review.exchange import AnnotationError, Returned, collect
from builder.review.objects import check_reviewable, overrides_of
from builder.review.ranking import remember
from builder.review.read import read_annotations
from builder.rules.overrides import (
    Action,
    Added,
    Override,
    add_overrides,
    check_labels,
    load_overrides,
    overrides_digest,
    read_overrides,
)
from builder.store.manifest import Manifest
from builder.store.store import Store, check_store
from builder.store.version import OVERRIDES, Version, check_version

ACTIONS: tuple[Action, ...] = ("accept", "reject", "relabel", "move", "add")


@dataclass(frozen=True)
class TakenOver:
    """What came of a review of a version.

    images, changed_images: how many came back, and with a change. actions: changes by kind. lost_masks: boxes that
    people moved or drew in a version of masks: they have no mask, and become ignore regions. overrides: how the changes
    joined those in force; None in a dry run. audits: those that the review says something of. cut: the new version;
    None where none was asked for, or this one has all corrections already (not `is_news`).
    """

    version: Version
    images: int
    changed_images: int
    actions: Mapping[Action, int]
    lost_masks: int
    overrides: Added | None
    audits: tuple[Audited, ...]
    is_news: bool
    cut: Cut | None
    refused: Mapping[str, str] = field(default_factory=dict)


def read_answers(path: Path | str, version: Version, author: str | None = None) -> Returned:
    """Read people's corrections of a version out of the file of an annotation tool.

    Args:
        path: Label Studio's JSON export, or CVAT's XML or ZIP.
        version: the one that was reviewed.
        author: who reviewed, as they want to be called wherever the version goes; None for nobody's name. What the tool
            knows of them stays in its file.

    Returns:
        The images that came back, with their objects.

    Raises:
        AnnotationError: the file is no such export, or not one of this version.
        BuildError: the version holds maps, or its labels cannot be read.
    """
    check_version(version)
    check_reviewable(version.manifest)
    return collect(read_annotations(Path(path), author or ""), version)


def take_over(
    returned: Returned,
    version: Version,
    store: Store,
    *,
    build: bool = True,
    dry_run: bool = False,
    message: str = "",
    workers: int | None = None,
    track: Track = silent,
    note: Callable[[str], None] = lambda sentence: None,
) -> TakenOver:
    """Keep people's corrections of a version for later builds of its dataset, and build a new version with them.

    Args:
        returned: what came back: of `read_answers`, or of builder.browse.answers.read_app_answers.
        version: the one that was reviewed.
        store: holds the version, and gets the overrides, the verdicts and the new version.
        build: make a new version, if this one lacks anything that is in force.
        dry_run: check it all, and write nothing.
        message: what the new version is for, in the store's history.
        workers: threads; None for one a core.
        track: reports progress.
        note: is given, before the build, a sentence for each thing that people should know of their corrections.

    Returns:
        What came back, and what became of it.

    Raises:
        AnnotationError: what came back was read for another version.
        BuildError: an unknown label, an object that was never shown, or a version that cannot be made here again.
    """
    check_version(version)
    check_store(store)
    manifest = version.manifest
    _check_is_of(returned, version)
    if build:
        check_cut_again(store, version)
    changes = overrides_of(returned.shown, returned.edited, returned.images, returned.authors)
    added = None
    if dry_run:
        check_labels(changes, manifest.classes, "correct it where it was given, then pull again")
    else:
        added = _put_into_force(returned, changes, version, store)
    judged = _judge_audits(store, version, returned, write=not dry_run)
    is_news = not dry_run and _is_news(manifest, read_overrides(store, version.dataset))
    actions = Counter(change.action for change in changes)
    lost_masks = actions["move"] + actions["add"] if kind_of(manifest.kind).outlines else 0
    for remark in _remarks(lost_masks, added.changed if added else 0):
        note(remark)
    return TakenOver(
        version,
        images=len(returned.images),
        changed_images=len({change.sha256 for change in changes}),
        actions={action: actions[action] for action in ACTIONS},
        lost_masks=lost_masks,
        overrides=added,
        audits=judged,
        is_news=is_news,
        cut=new_version(store, version, workers, track, message=message) if build and is_news else None,
        refused=returned.refused,
    )


def _check_is_of(returned: Returned, version: Version) -> None:
    if returned.version != version.manifest.id:
        raise AnnotationError(
            f"the answers were read for a version with id {returned.version[:12]}, and {version.ref} has "
            f"{version.manifest.id[:12]}: give the version that they were read for"
        )
    check_reviewable(version.manifest)


def _put_into_force(returned: Returned, changes: Sequence[Override], version: Version, store: Store) -> Added:
    """Keep changes, and which images people went through, for later builds of the version's dataset."""
    known = load_overrides(version.overrides) if version.has(OVERRIDES) else []
    adopt_overrides(store, version)
    added = add_overrides(store, version.dataset, changes, version.manifest.classes, known)
    remember(store, version.dataset, [returned.images[key] for key in returned.touched])
    return added


def _remarks(lost_masks: int, changed: int) -> Iterator[str]:
    if lost_masks:
        masks = "1 mask is" if lost_masks == 1 else f"{lost_masks} masks are"
        yield f"{masks} lost: boxes that people moved or drew have none, and become ignore regions"
    if changed:
        yield f"{changed} verdicts differ from earlier ones: the later ones apply"


def _judge_audits(store: Store, version: Version, returned: Returned, write: bool) -> tuple[Audited, ...]:
    """The audits of the version that this review says something of, with what it says."""
    judged = []
    for audited in audits.read(store, version.manifest, version.dataset):
        verdicts = audits.judge(audited.audit, returned.edited, returned.images, returned.looked_at)
        if verdicts:
            authors = {id: returned.authors[id.partition("#")[0]] for id in verdicts}
            record = partial(audits.record, store) if write else audits.joined
            judged.append(record(audited, verdicts, authors))
    return tuple(judged)


def _is_news(manifest: Manifest, overrides: Sequence[Override]) -> bool:
    """Whether a version lacks some of the overrides that are in force."""
    applied = manifest.provenance.overrides
    return overrides_digest(overrides) != (applied.digest if applied else None)
