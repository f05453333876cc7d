"""Files on a web server, which lists its folders as pages, and what addresses are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from builder.buckets.address import checked_address, join, name_of, parent
from builder.buckets.files import list_files, read_range, stamp_of, stat
from builder.buckets.line import RemoteError
from builder.errors import BuildError
from builder.scan.pool import ImageChanged
from builder.scan.scanner import scan_pool
from builder.store.store import Store
from tests.helpers.hub_server import HubServer, host, use_hub
from tests.helpers.pools import write_images


class Quiet(SimpleHTTPRequestHandler):
    """Python's own server of files, which knows no ranges and no ETags."""

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("site")
    write_images(folder / "pool", 4)
    write_images(folder / "pool/sub ä", 2, start=7)
    (folder / "pool/list.txt").write_text("image_00001.jpg\nsub ä/image_00007.jpg\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("source", ["pool", "pool/list.txt", "pool/image_00002.jpg"])
def test_a_web_server_is_a_source(source: str, site: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = site
    here = scan_pool(folder / source, Store(tmp_path / "here"))
    there = scan_pool(f"{url}/{source}", Store(tmp_path / "there"))
    assert there.id == here.id
    assert [image.read() for image in there.images()] == [image.read() for image in here.images()]


def test_what_changes_on_a_web_server_is_found(site: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = site
    names = write_images(folder / "moving", 3)
    images = {i.name: i for i in scan_pool(f"{url}/moving", Store(tmp_path)).images()}
    (folder / "moving" / names[0]).write_bytes(b"other")
    (folder / "moving" / names[1]).unlink()
    for name, words in zip(names, ("changed", "no such object"), strict=False):
        with pytest.raises(ImageChanged, match=words):
            images[name].read()
    uri = images[names[2]].uri
    assert stat(uri).bytes == images[names[2]].bytes
    with pytest.raises(RemoteError, match="knows no ranges"):
        read_range(uri, 10, 10)
    assert not list(list_files(f"{url}/nowhere"))


def test_a_page_with_links_to_itself_and_upwards_is_listed_once(site: tuple[Path, str]) -> None:
    folder, url = site
    (name,) = write_images(folder / "sorted", 1)
    page = "".join(f'<a href="{link}">x</a>' for link in ("?C=N;O=D", "#top", "/", "./", "../", name))  # as Apache's
    (folder / "sorted/index.html").write_text(page)
    assert [file.uri for file in list_files(f"{url}/sorted")] == [f"{url}/sorted/{name}"]


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("S3://bucket", "s3://bucket"),
        ("hf://org/name/images", "hf://datasets/org/name/images"),
        ("hf://datasets/org/name", "hf://datasets/org/name"),
        ("https://host/a%20b", "https://host/a%20b"),
        ("s3://bucket/what?#.jpg", "s3://bucket/what?#.jpg"),
        ("s3://bucket/a?versionId=3", None),
        ("https://host/a?sig=x", None),
        ("https://host/a?", "https://host/a?"),
        ("gs://me@bucket/a", None),
        ("https://me:word@host/a", None),
        ("s3:///a", None),
        ("file:///etc/passwd", None),
        ("s3://bucket/a/../../b", None),
    ],
)
def test_addresses(given: str, address: str | None) -> None:
    if address:
        assert checked_address(given) == address
        return
    with pytest.raises(BuildError) as raised:
        checked_address(given)
    assert not any(secret in str(raised.value) for secret in ("sig=x", "word@", "me@"))


def test_paths_of_addresses() -> None:
    assert join("s3://bucket/a", "b/../c.jpg") == "s3://bucket/a/c.jpg"
    assert join("s3://bucket", "../../c.jpg") == "s3://bucket/c.jpg"
    assert join("https://host/a", "b c#.jpg") == "https://host/a/b%20c%23.jpg"
    assert parent("s3://bucket/a/b") == "s3://bucket/a"
    assert parent("s3://bucket/a") == parent("s3://bucket") == "s3://bucket"
    assert name_of("https://host/a/b%20c.jpg", "https://host/a") == "b c.jpg"
    assert name_of("s3://bucket/a/b", "s3://other") == "bucket/a/b"


def test_a_stamp_follows_the_contents_where_the_store_tells_them_apart() -> None:
    first = {"ETag": '"abc"', "LastModified": "1"}
    assert stamp_of(first) == stamp_of(first | {"LastModified": "2"}) != stamp_of(first | {"ETag": '"abd"'})
    assert stamp_of({"LastModified": "1"}) != stamp_of({"LastModified": "2"})
    assert stamp_of({}) == 0
    assert -(2**63) <= stamp_of(first) < 2**63


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_dataset_on_the_hub_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "pool/images", 2)
    write_images(tmp_path / "pool/images/sub", 3, start=9)
    with HubServer.running(tmp_path / "hub") as server:
        use_hub(monkeypatch, server.url, tmp_path)
        monkeypatch.setattr("builder.buckets.systems._made", {})
        host(server.root, "org/photos", tmp_path / "pool")
        here = scan_pool(tmp_path / "pool/images", Store(tmp_path / "here"))
        for source in ("hf://org/photos@v1/images", "hf://datasets/org/photos/images"):
            there = scan_pool(source, Store(tmp_path / "there"))
            assert there.id == here.id
            assert [image.read() for image in there.images()] == [image.read() for image in here.images()]
