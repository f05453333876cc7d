"""Versions that hold nonsense under hashes that fit: what whoever publishes one can make of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from builder.store.manifest import version_id
from builder.store.shards import read_samples, write_shard

Json = Any
Change = Callable[[Path], None]
"""Makes a version in a folder another."""

HUGE = 10**400
"""More than a float holds, and than 64 bits."""
VALUES: tuple[Json, ...] = (
    *(
        None,
        True,
        -1,
        2**31,
        HUGE,
        1e308,
        -0.5,
        "",
        "high",
        "\x1b[2J\u202e<script>alert(1)</script>\n| --- |",
        "x" * 100_000,
    ),
    *([], {}, [None], [[]], {"a": {"b": []}}, ["high", "high"]),
)
"""What is put in the place of a value."""


def digest(value: Json) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def reseal(folder: Path, change: Callable[[Json], None] | None = None) -> None:
    """Change a version's manifest, with all sizes, hashes, its id and its digest those of what lies there."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    for shard in manifest["shards"]:
        data = (folder / "data" / shard["name"]).read_bytes()
        shard |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        if "contents" in shard:
            shard["contents"] = _contents(folder / "data" / shard["name"])
    for name in manifest["files"]:
        if (folder / name).is_file():
            manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    if change:
        change(manifest)
    _identify(manifest)
    path.write_text(json.dumps(manifest))


def _identify(manifest: Json) -> None:
    """The id and the digest of what a manifest says, as far as it says anything."""
    try:
        if manifest.get("format", 1) == 1:
            hashes = [shard["sha256"] for shard in manifest["shards"]]
            parts = (manifest["classes"], manifest["features"], hashes, manifest["tombstones"])
            manifest["id"] = version_id(*parts)
        else:
            about = {key: manifest[key] for key in ("kind", "classes", "features", "tombstones")}
            manifest["id"] = digest(about | {"shards": [shard["contents"] for shard in manifest["shards"]]})
            manifest.pop("digest", None)
            manifest["digest"] = digest(manifest)
    except (KeyError, TypeError, AttributeError):
        pass


def _contents(path: Path) -> str:
    lines = hashlib.sha256()
    try:
        for sample in read_samples(path):
            for extension, member in sample.members.items():
                data = member.read()
                line = f"{sample.key}.{extension} {len(data)} {hashlib.sha256(data).hexdigest()}\n"
                lines.update(line.encode())
    except Exception:
        pass
    return lines.hexdigest()


def places(value: Json, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every key of a JSON value, and the first of each list."""
    entries = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, part in entries:
        yield (*at, key)
        yield from places(part, (*at, key))


def put(value: Json, place: tuple[str | int, ...], new: Json) -> None:
    """Put a value into its place; `...` takes away what is there."""
    for key in place[:-1]:
        value = value[key]
    if new is ...:
        del value[place[-1]]
    else:
        value[place[-1]] = new


def name_of(new: Json) -> str:
    text = "gone" if new is ... else "10^400" if new == HUGE and new is not True else json.dumps(new)
    return text if len(text) < 40 else f"{text[:37]}…"


def hostile(folder: Path) -> Iterator[tuple[str, Change]]:
    """All nonsense that can be put into the version in a folder, by name."""
    yield from _manifests(json.loads((folder / "manifest.json").read_bytes()))
    yield from _whole_manifests()
    yield from _labels(folder)
    yield from _tables(folder / "labels.parquet")
    yield from _members()
    if (folder / "overrides.json").is_file():
        content = json.loads((folder / "overrides.json").read_bytes())
        for place in places(content):
            for new in (..., *VALUES):
                yield (
                    f"overrides {'.'.join(map(str, place))} {name_of(new)}",
                    partial(_in_json, "overrides.json", place, new),
                )
    texts = {"left_out.csv": ("left_out", (b"\0", b'a,b\n"', b"sha256,state\n" + b"x" * 200_000, b"\xff\xfe"))}
    texts |= {name: (name, (b"", b"\xff\xfe\0")) for name in ("README.md", "report/index.html", "overrides.json")}
    for name, (title, contents) in texts.items():
        for number, content in enumerate(contents):
            yield f"{title} bytes {number}", partial(_as_bytes, name, content)


def _manifests(manifest: Json) -> Iterator[tuple[str, Change]]:
    for place in places(manifest):
        if place[0] in ("id", "digest"):
            continue
        for new in (..., *VALUES):
            title = f"manifest {'.'.join(map(str, place))} {name_of(new)}"
            yield title, lambda folder, place=place, new=new: reseal(folder, lambda m: put(m, place, new))


def _whole_manifests() -> Iterator[tuple[str, Change]]:
    def classes(names: Json) -> Change:
        return lambda folder: reseal(folder, lambda m: put(m, ("classes",), names))

    yield "classes 10^6 of them", classes([f"c{n}" for n in range(10**6)])
    yield "classes a name of 10^6", classes(["x" * 10**6, "dog", "bird"])
    yield "classes twice the same", classes(["dog", "dog", "bird"])
    yield "classes control characters", classes(["\x1b[31m", "\n# dog", "<script>"])
    yield "manifest deep", lambda folder: reseal(folder, lambda m: put(m, ("provenance", "recipe"), _deep(500)))
    yield "manifest as a list", lambda folder: _written(folder, b"[]")
    yield "manifest null", lambda folder: _written(folder, b"null")
    yield "manifest deeper than JSON", lambda folder: _written(folder, b"[" * 100_000)
    yield "manifest not UTF-8", lambda folder: _written(folder, b"\xff\xfe")
    yield "manifest 200 MB", lambda folder: _written(folder, b'{"a": "' + b"x" * (200 << 20) + b'"}')
    for name in ("../../../evil", "/etc/passwd", "data/../../x", "manifest.json", "report"):
        yield (
            f"files names {name}",
            lambda folder, name=name: reseal(folder, lambda m: put(m, ("files", name), "0" * 64)),
        )
    for name in ("../train-000000.tar", "/etc/passwd", ""):
        yield (
            f"shard called {name}",
            lambda folder, name=name: reseal(folder, lambda m: put(m, ("shards", 0, "name"), name)),
        )


def _deep(levels: int) -> Json:
    value: Json = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def _written(folder: Path, data: bytes) -> None:
    (folder / "manifest.json").write_bytes(data)


def _as_bytes(name: str, data: bytes, folder: Path) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    reseal(folder, lambda m: m["files"].setdefault(name, hashlib.sha256(data).hexdigest()))


def _in_json(name: str, place: tuple[str | int, ...], new: Json, folder: Path) -> None:
    value = json.loads((folder / name).read_bytes())
    put(value, place, new)
    (folder / name).write_text(json.dumps(value))
    reseal(folder)


# ---- samples


def _labels(folder: Path) -> Iterator[tuple[str, Change]]:
    shard = folder / "data/train-000000.tar"
    full = max((json.loads(s.members["json"].read()) for s in read_samples(shard)), key=lambda v: len(str(v)))
    for place in places(full):
        for new in (..., *VALUES):
            title = f"label {'.'.join(map(str, place))} {name_of(new)}"
            yield title, partial(resample, lambda members, place=place, new=new: _label(members, place, new))
    for title, data in (("null", b"null"), ("deep", b"[" * 50_000), ("NaN", b'{"key": NaN}'), ("empty", b"")):
        yield f"label is {title}", partial(resample, lambda members, data=data: members | {"json": data})


def _label(members: dict[str, bytes], place: tuple[str | int, ...], new: Json) -> dict[str, bytes]:
    label = json.loads(members["json"])
    try:
        put(label, place, new)
    except (KeyError, IndexError):  # an image without objects
        return members
    return members | {"json": json.dumps(label).encode()}


def resample(change: Callable[[dict[str, bytes]], dict[str, bytes]], folder: Path) -> None:
    """Every sample of the first shard with other members."""
    path = folder / "data/train-000000.tar"
    samples = [(s.key, {e: m.read() for e, m in s.members.items()}) for s in read_samples(path)]
    write_shard(path, [(key, list(change(members).items())) for key, members in samples])
    reseal(folder)


def _members() -> Iterator[tuple[str, Change]]:
    pixel = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\0\0\0\1\0\0\x08\2\0\0\0"
    bodies = {"nothing": b"", "no image": b"x" * 100, "a header of 65536x65536": pixel}
    for title, data in bodies.items():
        yield (
            f"image is {title}",
            partial(resample, lambda m, data=data: {next(iter(m)): data} | dict(list(m.items())[1:])),
        )
    yield "image is missing", partial(resample, lambda m: dict(list(m.items())[1:]))
    yield "label is missing", partial(resample, lambda m: {k: v for k, v in m.items() if k != "json"})
    yield "member too many", partial(resample, lambda m: m | {"pkl": b"cos\nsystem\n."})
    yield "only labels", partial(resample, lambda m: {"json": m["json"]})
    for member in ("cls", "seg.png"):
        yield (
            f"{member} is nonsense",
            partial(resample, lambda m, member=member: m | ({member: b"\xff9"} if member in m else {})),
        )
        yield (
            f"{member} is missing",
            partial(resample, lambda m, member=member: {k: v for k, v in m.items() if k != member}),
        )
    yield "shard is no tar", _no_tar
    yield "shard is empty", _no_samples


def _no_tar(folder: Path) -> None:
    (folder / "data/train-000000.tar").write_bytes(b"x" * 2048)
    reseal(folder)


def _no_samples(folder: Path) -> None:
    write_shard(folder / "data/train-000000.tar", [])
    reseal(folder)


# ---- labels.parquet


def _tables(path: Path) -> Iterator[tuple[str, Change]]:
    schema = pq.read_schema(path)
    for name in schema.names:
        yield f"table {name} gone", partial(retable, lambda t, name=name: t.drop_columns([name]))
        values: tuple[Json, ...] = (None, "x" * 100_000, 5e300, float("nan"), -7, 40_000, [1, 2], "\x1b[2J", b"\xff")
        for value in values:
            shown = "x…" if isinstance(value, str) and len(value) > 99 else repr(value)
            yield f"table {name} {shown}", partial(retable, partial(_filled, name, value))
        yield f"table {name} another type", partial(retable, partial(_as_text, name))
    yield "table empty", partial(retable, lambda t: t.slice(0, 0))
    yield "table twice", partial(retable, lambda t: pa.concat_tables([t, t]))
    yield "table backwards", partial(retable, lambda t: t.take(pa.array(range(len(t) - 1, -1, -1))))
    yield "table one row of none", partial(retable, lambda t: pa.table({"a": [1]}))
    yield "table no Parquet", partial(_as_bytes, "labels.parquet", b"PAR1" + b"\0" * 64 + b"PAR1")
    yield "table cut", _cut_table


def _filled(name: str, value: Json, table: pa.Table) -> pa.Table:
    """A column of one value, of its own type where that holds it."""
    place = table.schema.get_field_index(name)
    try:
        column = pa.array([value] * len(table), table.schema.field(name).type)
    except (pa.ArrowException, OverflowError, TypeError):
        column = pa.array([value] * len(table))
    return table.set_column(place, name, column)


def _as_text(name: str, table: pa.Table) -> pa.Table:
    place, type = table.schema.get_field_index(name), table.schema.field(name).type
    if pa.types.is_string(type):
        column: Any = pa.array(range(len(table)), pa.int64())
    elif pa.types.is_nested(type) or pa.types.is_binary(type):
        column = pa.nulls(len(table), pa.string())
    else:
        column = pc.cast(table[name], pa.string())
    return table.set_column(place, name, column)


def retable(change: Callable[[pa.Table], pa.Table], folder: Path) -> None:
    """labels.parquet with other contents."""
    path = folder / "labels.parquet"
    table = pq.read_table(path)
    pq.write_table(change(table), path)
    reseal(folder)


def _cut_table(folder: Path) -> None:
    path = folder / "labels.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    reseal(folder)
