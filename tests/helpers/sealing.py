"""A version whose files were changed, sealed again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builder.store.files import digest, sha256_file
from builder.store.history import HISTORY
from builder.store.index import contents_of, join_index, rows_of_shard, write_part
from builder.store.manifest import CLAIM, Manifest, id_of, read_manifest, write_manifest


def seal(folder: Path, **changes: Any) -> None:
    """The manifest as a wrong builder would have written it: all sizes and hashes are those of the files."""
    manifest = read_manifest(folder)
    shards, parts = [], []
    for shard in manifest.shards:
        path = folder / "data" / shard.name
        rows = rows_of_shard(path)
        update: dict[str, Any] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        update |= {"contents": contents_of(rows)} if shard.contents else {}
        shards.append(shard.model_copy(update=update))
        write_part(part := folder / f".part-{shard.name}", rows)
        parts.append(part)
    if "index.parquet" in manifest.files:
        join_index(folder / "index.parquet", parts)
    for part in parts:
        part.unlink()
    files = {name: sha256_file(folder / name) for name in manifest.files}
    reseal(folder, manifest, **({"shards": shards, "files": files} | changes))


def reseal(folder: Path, manifest: Manifest | None = None, **changes: Any) -> Manifest:
    """Other fields in a manifest, with its id, its digest and the claim made right, in a store that knows no history."""
    manifest = (manifest or read_manifest(folder)).model_copy(update=changes)
    if gone := changes.get("tombstones"):  # of the first shard, as its numbers say
        shards = [shard.model_copy(update={"tombstones": 0}) for shard in manifest.shards]
        shards[0] = shards[0].model_copy(update={"tombstones": len(gone)})
        images = manifest.images | {"tombstone": len(gone)}
        images["written"] = manifest.stored - len(gone)
        images["pool"] = sum(n for state, n in images.items() if state != "pool")
        manifest = manifest.model_copy(update={"shards": shards, "images": images})
    manifest = manifest.model_copy(update={"id": id_of(manifest)})
    (folder.parents[2] / HISTORY).unlink(missing_ok=True)
    if (folder / CLAIM).exists():
        (folder / CLAIM).write_text(digest(manifest.provenance.inputs.claimed()))
    write_manifest(folder, manifest)
    return manifest
