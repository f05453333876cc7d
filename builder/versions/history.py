"""The versions of a store and where each came from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BuildError
from builder.evidence.claims import claims, keep_section
from builder.report.headline import headline, short_headline
from builder.rules.keep import RULES
from builder.store.history import Event, read_history
from builder.store.manifest import MANIFEST, Manifest, read_manifest
from builder.store.store import NAME, Store, Tag, tags_of
from builder.store.version import Version
from teachers.errors import warn

COMPLETE, UNFINISHED, DAMAGED = "complete", "unfinished", "damaged"


@dataclass(frozen=True)
class Entry:
    """One version. state: complete, unfinished (claimed by a build that has not ended) or damaged (`note` says how);
    what is not known of it is "" or None. parent: the version it was built on, "" for none.
    standing, certified, alone, together, flagged: what may be said of its precision (builder.evidence.claims.Claims):
    certified is the lowest guaranteed one, None for none, alone and together the classes it holds for; quality: the
    same as a headline, certificate: in a few characters. samples, kept: without tombstones, images that still lie in
    the shards, to be skipped. bytes: of all its files. rule: where its thresholds come from, in words. when,
    what, author, message: what became of it in this store (builder.store.history.Event)."""

    dataset: str
    version: str
    state: str
    bytes: int
    id: str = ""
    parent: str = ""
    pool: str = ""
    teacher: str = ""
    samples: int | None = None
    kept: int | None = None
    tombstones: int = 0
    standing: str = ""
    quality: str = ""
    certificate: str = "-"
    certified: float | None = None
    alone: tuple[str, ...] = ()
    together: tuple[str, ...] = ()
    flagged: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    note: str = ""
    rule: str = ""
    when: str = ""
    what: str = ""
    author: str = ""
    message: str = ""


def log(store: Store, name: str | None = None) -> list[Entry]:
    """All versions of a dataset, or of all datasets, by name, oldest first. Raises BuildError if there is no such
    dataset."""
    names = store.names()
    if name is not None and (not NAME.fullmatch(name) or name not in names):
        known = f"it holds {', '.join(names)}" if names else "it holds none yet: run `tutelage build` first"
        raise BuildError(f"no dataset {name!r} in {store.root}: {known}")
    return [entry for each in ([name] if name else names) for entry in _entries(store, each)]


def version_before(version: Version, store: Store) -> Version | None:
    """What a version is compared with: its parent where the store holds it, else the complete version before it."""
    complete = [path for path in store.versions(version.dataset) if (path / MANIFEST).is_file()]
    if parent := version.manifest.provenance.parent:
        for path in complete:
            candidate = Version.open(path)
            if candidate.manifest.id == parent.id:
                return candidate
    earlier = [path for path in complete if int(path.name[1:]) < int(version.manifest.version[1:])]
    return Version.open(earlier[-1]) if earlier else None


def _entries(store: Store, name: str) -> Iterator[Entry]:
    history, tags = read_history(store.root), list[Tag]()
    try:
        tags = store.tags(name)
    except BuildError as error:  # neither is one bad tag
        warn(f"no tag of {name} is shown: {error}")
    for folder in store.versions(name):
        size = folder_bytes(folder)
        if not (folder / MANIFEST).is_file():
            yield Entry(name, folder.name, UNFINISHED, size)
            continue
        try:
            version = Version(folder, read_manifest(folder))
            version.check_files()
            yield _entry(version.manifest, name, folder.name, size, tags, history.get(f"{name}@{folder.name}"))
        except BuildError as error:  # one bad version is no reason to hide the others
            yield Entry(name, folder.name, DAMAGED, size, note=str(error))


def _entry(manifest: Manifest, name: str, version: str, size: int, tags: list[Tag], event: Event | None) -> Entry:
    provenance = manifest.provenance
    judged = claims(manifest)
    told = event if event and event.is_of(manifest) else None
    return Entry(
        name,
        version,
        COMPLETE,
        size,
        id=manifest.id,
        parent=provenance.parent.version if provenance.parent else "",
        pool=provenance.inputs.pool,
        teacher=provenance.teacher.spec,
        samples=manifest.samples,
        kept=manifest.kept,
        tombstones=len(manifest.tombstones),
        standing=judged.standing,
        quality=headline(manifest),
        certificate=short_headline(judged),
        certified=judged.target,
        alone=judged.alone,
        together=judged.together,
        flagged=tuple(claim.name for claim in judged.flagged),
        tags=tuple(tags_of(tags, version, manifest.id)),
        rule=rule_text(manifest),
        when=told.when if told else "",
        what=told.what if told else "",
        author=told.author if told else "",
        message=told.message if told else "",
    )


def rule_text(manifest: Manifest) -> str:
    """The rule that a version's thresholds come from, and what they are: `precision 0.8: 0.42 to 0.7`."""
    keep = keep_section(manifest)
    rule = next((name for name in RULES if keep.get(name) is not None), "")
    asked = keep.get(rule)
    target = asked.get("target") if isinstance(asked, dict) else asked
    kept_from = sorted({round(g.threshold, 4) for g in manifest.provenance.thresholds if g.threshold is not None})
    scores = " to ".join(f"{score:g}" for score in dict.fromkeys(kept_from[:1] + kept_from[-1:]))
    if rule == "score":
        return f"score {scores}".strip()
    name = f"{rule} {target:g}" if isinstance(target, int | float) else rule
    return f"{name}: {scores}" if scores else name


def folder_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; what vanishes meanwhile counts nothing."""
    total = 0
    try:
        if not path.is_dir() or path.is_symlink():
            return path.lstat().st_size
        with os.scandir(path) as entries:
            total = sum(folder_bytes(Path(entry.path)) for entry in entries)
    except FileNotFoundError:
        pass
    return total
