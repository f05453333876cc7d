"""Remove a complete version that nothing needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from builder.cut.version import held
from builder.errors import BuildError
from builder.store.files import discard, locked
from builder.store.history import record
from builder.store.manifest import MANIFEST, read_manifest
from builder.store.store import Store, check_store
from builder.store.trust import memory_of
from builder.store.version import Version, check_here, check_version


@dataclass(frozen=True)
class Removed:
    """A version that was removed, or would be. bytes: of its files that no other name on the disk has, which is what
    that frees; shared: of those that lie in other versions, too."""

    version: str
    id: str
    bytes: int
    shared: int


def remove(version: Version, store: Store, *, dry_run: bool = False) -> Removed:
    """Remove a complete version. Its pool, its predictions and what people said of it stay; what of them nothing needs
    any more is for `gc` (builder.versions.garbage). Its number is not used again.

    Args:
        version: the one to remove.
        store: holds it.
        dry_run: only say what it would free.

    Returns:
        What it frees.

    Raises:
        BuildError: a tag stands for it, or a version was made from it; or something runs that may need it.
    """
    check_version(version)
    check_store(store)
    check_here(version)
    name, number = version.dataset, version.folder.resolve().name
    folder = store.datasets / name / number
    if version.folder.resolve() != folder.resolve():
        raise BuildError(f"{version.folder} is no version of {store.root}: remove it by hand")
    if dry_run:
        return _checked(version, store)
    with locked(store.lock, f"store {store.root}", sweep=[folder.parent]), held(folder):
        removed = _checked(version, store)
        record(store.root, removed.version, version.manifest, "removed")
        discard(folder)
        memory_of(folder).unlink(missing_ok=True)
    return removed


def _checked(version: Version, store: Store) -> Removed:
    """Raises BuildError if something needs the version."""
    ref, id = version.ref, version.manifest.id
    if tags := [tag.name for tag in store.tags(version.dataset) if tag.version == version.manifest.version]:
        raise BuildError(
            f"{ref} has the tag {tags[0]}: remove that first, with `tutelage tag --delete {version.dataset} {tags[0]}`"
        )
    if children := list(_children(version, store)):
        raise BuildError(
            f"{', '.join(children)} {'was' if len(children) == 1 else 'were'} made from {ref}, whose thresholds and "
            f"evidence they go on from: remove {'it' if len(children) == 1 else 'them'} first"
        )
    files = [path.stat() for path in version.folder.rglob("*") if path.is_file()]
    alone = sum(status.st_size for status in files if status.st_nlink == 1)
    return Removed(ref, id, alone, sum(status.st_size for status in files) - alone)


def _children(version: Version, store: Store) -> Iterator[str]:
    """The complete versions of the store that were made from this one."""
    for name in store.names():
        for folder in store.versions(name):
            if (folder / MANIFEST).is_file() and folder.resolve() != version.folder.resolve():
                parent = read_manifest(folder).provenance.parent
                if parent and parent.id == version.manifest.id:
                    yield f"{name}@{folder.name}"
