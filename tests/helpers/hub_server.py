"""A small Hub: dataset repositories over HTTP as huggingface_hub and datasets speak to them, kept on the disk.

All state lies in a folder, so that a server that was killed goes on where it was: `repos/ORG/NAME.json` (branches, tags,
commits), `blobs/` (small files by git's id), `lfs/` (large files by SHA-256), `log.jsonl` (a line per request that was
answered), `faults.json` (failures to come, see `Fault`). `python -m tests.helpers.hub_server ROOT PORT` runs it by itself.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

WRITER, READER, STRANGER = ("hf_" + letter * 34 for letter in "wrs")
"""Tokens: may write; may read everything; sees only what is public."""
LARGE = ("*.tar", "*.parquet", "*.png", "*.jpg")
PAGE = 3
"""Entries of a list per answer, few, so that pages are turned."""
DATE = "2026-01-01T00:00:00.000Z"
Json = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """What goes wrong with the next `times` requests whose `METHOD path` matches, after `skip` that pass.

    status: answer this, with headers. cut: close the line after so many bytes of the answer's body; of the request's
    for a PUT. die: kill the server, as `kill -9` does, before it answers."""

    match: str
    times: int = 1
    skip: int = 0
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    cut: int = -1
    die: bool = False


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class HubServer(ThreadingHTTPServer):
    """The server; `root` holds its state. `with HubServer.running(root) as server` runs it in a thread."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, root: Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.root, self.guard = root, threading.RLock()
        for name in ("repos", "blobs", "lfs"):
            (root / name).mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def storage(self) -> str:
        """Large files come from another host: a client would follow a redirect to the same one on HEAD."""
        return f"http://localhost:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Quiet: clients go away on purpose here."""

    @classmethod
    @contextmanager
    def running(cls, root: Path) -> Iterator[HubServer]:
        server = cls(root)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str, home: Path, token: str = WRITER) -> None:
    """Let huggingface_hub in this process speak to the server at `url`, keep its files below `home`, and not wait."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    for name in ("HF_HUB_CACHE", "HF_TOKEN_PATH", "HF_STORED_TOKENS_PATH", "AGENT_HARNESSES_PATH"):
        monkeypatch.setattr(constants, name, str(home / name.lower()))
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def set_faults(root: Path, *faults: Fault) -> None:
    write(root / "faults.json", json.dumps([asdict(fault) for fault in faults]).encode())


def requests_log(root: Path) -> list[Json]:
    """The requests that were answered: method, path, status, received and sent (bytes of the bodies), token (sent)."""
    path = root / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def state_of(root: Path, repo: str) -> Json:
    """branches, tags (name -> commit), commits (id -> parent, title, files), private."""
    found: Json = json.loads((root / "repos" / f"{repo}.json").read_bytes())
    return found


def host(root: Path, repo: str, folder: Path, tag: str = "v1") -> str:
    """Put the files of a folder into a public repository of the server at `root`, as one commit with this tag; hidden
    ones and a claim stay behind. The commit."""
    files: dict[str, Json] = {}
    for path in sorted(folder.rglob("*")):
        name, data = path.relative_to(folder).as_posix(), path.read_bytes() if path.is_file() else None
        if data is None or name == "claim" or "/." in f"/{name}":
            continue
        files[name] = {"oid": git_id(data), "size": len(data)}
        if any(fnmatch.fnmatch(name, pattern) for pattern in LARGE):
            files[name]["sha256"] = hashlib.sha256(data).hexdigest()
            write(root / "lfs" / files[name]["sha256"], data)
        else:
            write(root / "blobs" / files[name]["oid"], data)
    commit = hashlib.sha1(json.dumps(files).encode()).hexdigest()
    commits = {commit: {"parent": "", "title": "a version", "files": files}}
    state = {"private": False, "branches": {"main": commit}, "tags": {tag: commit}, "commits": commits}
    write(root / "repos" / f"{repo}.json", json.dumps(state).encode())
    return commit


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{threading.get_ident()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # of a full disk


def git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    # ---- one request

    def _serve(self) -> None:
        self.received, self.url = 0, urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(self.url.query).items()}
        fault = self._fault()
        if fault and fault.die:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault and fault.cut >= 0 and self.command == "PUT":
            self.rfile.read(fault.cut)
            self._hang_up()
            return
        self.body = self._read()
        self.cut = fault.cut if fault else -1
        if fault and fault.status:
            self._answer(fault.status, fault.body.encode(), fault.headers)
            return
        try:
            self._route()
        except Refused as refused:
            headers = {"X-Error-Message": str(refused)} | ({"X-Error-Code": refused.code} if refused.code else {})
            self._json({"error": str(refused)}, refused.status, headers)

    def _hang_up(self) -> None:
        self.close_connection = True
        self._log(0, 0)
        self.connection.shutdown(2)

    def _fault(self) -> Fault | None:
        with self.server.guard:
            path = self.server.root / "faults.json"
            faults = json.loads(path.read_bytes()) if path.exists() else []
            for fault in faults:
                if not re.search(fault["match"], f"{self.command} {self.path}") or not fault["times"]:
                    continue
                field = "skip" if fault["skip"] else "times"
                fault[field] -= 1
                write(path, json.dumps(faults).encode())
                return Fault(**fault) if field == "times" else None
        return None

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            data = b"".join(parts)
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.received = len(data)
        return data

    def _log(self, status: int, sent: int) -> None:
        line = {"method": self.command, "path": self.path, "status": status, "received": self.received, "sent": sent}
        line["token"] = "Authorization" in self.headers
        with self.server.guard, open(self.server.root / "log.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")

    def _answer(
        self, status: int, data: bytes, headers: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        cut = self.cut >= 0
        self._log(status, min(self.cut, len(data)) if cut else len(data))
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: self.cut] if cut else data)
        if cut:
            self.close_connection = True

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def _page(self, items: list[Json]) -> None:
        first = int(self.query.get("cursor", 0))
        headers = {}
        if first + PAGE < len(items):
            query = "&".join(f"{k}={v}" for k, v in {**self.query, "cursor": first + PAGE}.items())
            headers["Link"] = f'<{self.server.url}{self.url.path}?{query}>; rel="next"'
        self._json(items[first : first + PAGE], headers=headers)

    # ---- where it leads

    def _route(self) -> None:
        path = self.url.path
        if path.startswith("/storage/"):
            self._storage(path.rpartition("/")[2])
            return
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.token not in ("", WRITER, READER, STRANGER):
            raise Refused(401, "Invalid credentials in Authorization header")
        if path == "/api/whoami-v2":
            self._may_write(self.token != "")
            self._json({"name": "somebody", "type": "user", "auth": {}})
        elif path == "/api/repos/create":
            self._create(json.loads(self.body))
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/datasets/([^/]+/[^/]+)\.git/info/lfs/(objects/batch|verify)", path):
            self._large(found[1], found[2])
        elif found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(found[1], unquote(found[2]), unquote(found[3]))
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/([a-z-]+)(?:/([^/]+))?(?:/(.+))?)?", path):
            self._repo(found[1], found[2] or "", unquote(found[3] or ""), unquote(found[4] or ""))
        else:
            raise Refused(404, f"no such address: {path}", "EntryNotFound")

    def _repo(self, repo: str, what: str, revision: str, below: str) -> None:
        if what in ("preupload", "commit", "tag", "branch") and self.command == "POST":
            self._may_write()
        state = self._state(repo)
        if what in ("", "revision"):
            self._info(repo, state, self._commit(state, revision or "main"))
        elif what == "refs":
            refs = {k: [{"name": n, "ref": f"refs/{r}/{n}", "targetCommit": c} for n, c in state[k].items()]
                    for k, r in (("branches", "heads"), ("tags", "tags"))}  # fmt: skip
            self._json({**refs, "converts": []})
        elif what == "tree":
            self._tree(state, revision, below)
        elif what == "paths-info":
            form = parse_qs(self.body.decode())
            paths = form.get("paths") or json.loads(self.body)["paths"]
            listed = {entry["path"]: entry for entry in self._entries(state, revision, "", True)}
            self._json([listed[p] for p in paths if p in listed])
        elif what == "commits":
            self._commits(state, revision)
        elif what == "preupload":
            self._preupload(state, revision)
        elif what == "commit":
            self._make_commit(repo, revision)
        elif what in ("tag", "branch"):
            self._make_ref(repo, what, revision)
        else:
            raise Refused(404, f"no {what} here", "EntryNotFound")

    # ---- repositories

    def _may_write(self, may: bool | None = None) -> None:
        if not self.token:
            raise Refused(401, "Invalid username or password.")
        if not (self.token == WRITER if may is None else may):
            raise Refused(403, f"You don't have the rights: token {self.token} cannot write")

    def _state(self, repo: str) -> Json:
        try:
            state = state_of(self.server.root, repo)
        except FileNotFoundError:
            state = {"private": True}
        if state["private"] and ("commits" not in state or self.token not in (WRITER, READER)):
            raise Refused(404 if self.token else 401, "Repository not found", "RepoNotFound")
        return state

    def _save(self, repo: str, state: Json) -> None:
        write(self.server.root / "repos" / f"{repo}.json", json.dumps(state).encode())

    def _create(self, asked: Json) -> None:
        self._may_write()
        repo = f"{asked['organization']}/{asked['name']}"
        with self.server.guard:
            if (self.server.root / "repos" / f"{repo}.json").exists():
                self._json(
                    {"error": "You already created this dataset repo", "url": f"{self.server.url}/datasets/{repo}"}, 409
                )
                return
            attributes = "".join(f"{pattern} filter=lfs\n" for pattern in LARGE).encode()
            files = {".gitattributes": self._blob(attributes)}
            first = {"parent": "", "title": "initial commit", "files": files}
            id = self._id(first)
            private = asked.get("private", False) or asked.get("visibility") == "private"
            self._save(repo, {"private": private, "branches": {"main": id}, "tags": {}, "commits": {id: first}})
        self._json({"url": f"{self.server.url}/datasets/{repo}"})

    @staticmethod
    def _id(commit: Json) -> str:
        return hashlib.sha1(json.dumps(commit).encode()).hexdigest()

    def _blob(self, data: bytes) -> Json:
        write(self.server.root / "blobs" / git_id(data), data)
        return {"oid": git_id(data), "size": len(data)}

    def _commit(self, state: Json, revision: str) -> str:
        commit = state["branches"].get(revision) or state["tags"].get(revision) or revision
        if commit not in state["commits"]:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return str(commit)

    def _files(self, state: Json, revision: str) -> dict[str, Json]:
        files: dict[str, Json] = state["commits"][self._commit(state, revision)]["files"]
        return files

    def _info(self, repo: str, state: Json, commit: str) -> None:
        siblings = [{"rfilename": path} for path in state["commits"][commit]["files"]]
        flags = {"private": state["private"], "disabled": False, "gated": False, "downloads": 0, "likes": 0, "tags": []}
        self._json({"id": repo, "sha": commit, "siblings": siblings, "lastModified": DATE, "createdAt": DATE, **flags})

    def _entries(self, state: Json, revision: str, below: str, recursive: bool) -> list[Json]:
        entries: dict[str, Json] = {}
        for path, file in self._files(state, revision).items():
            parts = path.split("/")
            for depth in range(1, len(parts)):
                folder = "/".join(parts[:depth])
                entries[folder] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": folder}
            entries[path] = {"type": "file", "oid": file["oid"], "size": file["size"], "path": path}
            if "sha256" in file:
                large = {"oid": file["sha256"], "size": file["size"]}
                entries[path]["lfs"] = large | {"pointerSize": len(pointer(file["sha256"], file["size"]))}
        start = f"{below}/" if below else ""
        chosen = [e for p, e in sorted(entries.items()) if p.startswith(start)]
        return chosen if recursive else [e for e in chosen if "/" not in e["path"][len(start) :]]

    def _tree(self, state: Json, revision: str, below: str) -> None:
        entries = self._entries(state, revision, below, self.query.get("recursive", "").lower() in ("1", "true"))
        if below and not entries:
            raise Refused(404, f"{below} does not exist on {revision}", "EntryNotFound")
        self._page(entries)

    def _commits(self, state: Json, revision: str) -> None:
        found, commit = [], self._commit(state, revision or "main")
        while commit:
            title = state["commits"][commit]["title"]
            found.append({"id": commit, "title": title, "message": "", "date": DATE, "authors": [{"user": "somebody"}]})
            commit = state["commits"][commit]["parent"]
        self._page(found)

    # ---- changing them

    def _preupload(self, state: Json, revision: str) -> None:
        asked, files = json.loads(self.body), self._files(state, revision)
        ignored = asked.get("gitIgnore")
        if ignored is None and ".gitignore" in files:
            ignored = (self.server.root / "blobs" / files[".gitignore"]["oid"]).read_text()
        told = []
        for file in asked["files"]:
            path, now = file["path"], files.get(file["path"])
            large = any(fnmatch.fnmatch(path, pattern) for pattern in LARGE)
            ignore = any(fnmatch.fnmatch(path, pattern) for pattern in (ignored or "").split())
            told.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": ignore})
            if now:
                told[-1]["oid"] = now.get("sha256", now["oid"])
        self._json({"files": told})

    def _make_commit(self, repo: str, branch: str) -> None:
        lines = [json.loads(line) for line in self.body.splitlines()]
        with self.server.guard:
            state = self._state(repo)
            if branch not in state["branches"]:
                raise Refused(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            head = state["branches"][branch]
            about = lines[0]["value"]
            if about.get("parentCommit", head) != head:
                raise Refused(412, "A commit has happened since. Please refresh and try again.")
            files = dict(state["commits"][head]["files"])
            for line in lines[1:]:
                self._apply(files, line["key"], line["value"])
            commit = {"parent": head, "title": about["summary"], "files": dict(sorted(files.items()))}
            id = self._id(commit)
            state["commits"][id], state["branches"][branch] = commit, id
            self._save(repo, state)
        url = f"{self.server.url}/datasets/{repo}/commit/{id}"
        self._json({"success": True, "commitOid": id, "commitUrl": url, "pullRequestUrl": None})

    def _apply(self, files: dict[str, Json], key: str, value: Json) -> None:
        path = value["path"]
        if key == "file":
            files[path] = self._blob(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            stored = self.server.root / "lfs" / value["oid"]
            if not stored.exists():
                raise Refused(400, f"large file {value['oid']} of {path} was not uploaded")
            size = stored.stat().st_size
            files[path] = {"oid": git_id(pointer(value["oid"], size)), "size": size, "sha256": value["oid"]}
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        else:
            raise Refused(400, f"unknown operation {key}")

    def _make_ref(self, repo: str, what: str, revision: str) -> None:
        asked = json.loads(self.body or b"{}")
        with self.server.guard:
            state = self._state(repo)
            name = asked["tag"] if what == "tag" else revision
            refs = state["tags" if what == "tag" else "branches"]
            if name in refs:
                raise Refused(409, f"Reference {name} already exists")
            refs[name] = self._commit(state, revision if what == "tag" else asked.get("startingPoint", "main"))
            self._save(repo, state)
        self._json({})

    # ---- contents

    def _large(self, repo: str, what: str) -> None:
        self._may_write()
        self._state(repo)
        asked = json.loads(self.body)
        if what == "verify":
            if not (self.server.root / "lfs" / asked["oid"]).exists():
                raise Refused(404, "not uploaded", "EntryNotFound")
            self._json({})
            return
        told = []
        for item in asked["objects"]:
            one = {"oid": item["oid"], "size": item["size"]}
            if not (self.server.root / "lfs" / item["oid"]).exists():
                upload = {"href": f"{self.server.storage}/storage/{item['oid']}?signature=0123"}
                verify = {"href": f"{self.server.url}/datasets/{repo}.git/info/lfs/verify"}
                one["actions"] = {"upload": upload, "verify": verify}
            told.append(one)
        self._json({"transfer": "basic", "objects": told})

    def _storage(self, sha256: str) -> None:
        path = self.server.root / "lfs" / sha256
        if self.command == "PUT":
            if hashlib.sha256(self.body).hexdigest() != sha256:
                raise Refused(400, "the contents do not have this SHA-256")
            write(path, self.body)
            self._answer(200, b"")
        else:
            self._contents(path.read_bytes(), sha256, {})

    def _resolve(self, repo: str, revision: str, path: str) -> None:
        state = self._state(repo)
        commit = self._commit(state, revision)
        file = state["commits"][commit]["files"].get(path)
        if file is None:
            raise Refused(404, f"{path} does not exist", "EntryNotFound")
        headers = {"X-Repo-Commit": commit}
        if "sha256" not in file:
            self._contents((self.server.root / "blobs" / file["oid"]).read_bytes(), file["oid"], headers)
            return
        headers |= {"X-Linked-ETag": f'"{file["sha256"]}"', "X-Linked-Size": str(file["size"])}
        headers["Location"] = f"{self.server.storage}/storage/{file['sha256']}?name={quote(path)}"
        self._answer(302, b"", headers)

    def _contents(self, data: bytes, etag: str, headers: dict[str, str]) -> None:
        headers = headers | {"ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not found:
            self._answer(200, data, headers)
            return
        first, last = int(found[1]), min(int(found[2] or len(data) - 1), len(data) - 1)
        if first >= len(data):
            self._answer(416, b"", headers | {"Content-Range": f"bytes */{len(data)}"})
            return
        self._answer(206, data[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"})


if __name__ == "__main__":
    HubServer(Path(sys.argv[1]), int(sys.argv[2])).serve_forever()
