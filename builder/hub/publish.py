"""Publish a version on the Hub: every blob first, then one commit, then its tag.

So a reader of the branch sees the old version or the new one, and `v3` stands for one version for ever. Whatever is
interrupted goes on: what was uploaded is not sent again, and a commit that lacks its tag gets it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from builder.cluster import Cluster
from builder.engine import Track, silent
from builder.evidence.gates import stop_at_failure
from builder.hub.bucket import is_bucket, publish_to_bucket
from builder.hub.client import Hub
from builder.hub.files import Contents, LocalFile, Published, checked_files, warnings_of
from builder.hub.private import check_private
from builder.hub.remote import remote_manifest
from builder.hub.repository import MAIN, HubError, Outdated, RemoteFile, check_branch, parse_ref
from builder.store.manifest import MANIFEST, Manifest
from builder.store.shared.materialize import plain_manifest
from builder.store.version import DATA, Version, check_here, check_version

SHARDS = "data/train-*.tar"
"""What readers of a repository take for shards, by the card."""


def publish(
    version: Version,
    repo: str,
    *,
    private: bool = False,
    branch: str = MAIN,
    allow_private: bool = False,
    allow_gps: bool = False,
    dry_run: bool = False,
    workers: int | None = None,
    track: Track = silent,
    cluster: Cluster | None = None,
) -> Published:
    """Publish a version as a dataset of the Hugging Face Hub: all its files, one commit, then its tag; or in an object
    store: all its files, then its manifest. An interrupted call is gone on with by the same one; files that are there
    do not travel again.

    Args:
        version: a complete version in a store.
        repo: `org/name`, made if it is not there; or `s3://bucket/prefix`, below which it comes to lie as `NAME/vN/`.
        private: whether a repository that is made is private.
        branch: that the commit goes to, made if need be from main, or from where main began if that is later.
        allow_private: publish although paths of this machine, its user's or its own name stand in the version.
        allow_gps: publish images that say where they were taken.
        dry_run: only compare with what is there.
        workers: threads that hash; None for one a core.
        track: shows how far it is (builder.engine.Track).
        cluster: whose nodes send the shards to an object store; they must see the version's store.

    Returns:
        What travelled, or would.

    Raises:
        GateFailed: a gate failed when the version was built.
        BuildError: files of the version are not those of its manifest, or tell what is private.
        HubError: another version under this tag, a repository with other contents, and all that the Hub refuses.
    """
    check_version(version)
    check_here(version)
    if is_bucket(repo):
        if private or branch != MAIN:
            raise HubError(f"{repo} is no repository on the Hub: leave out --private and --revision")
        stop_at_failure(version.manifest.provenance.gates)
        check_private(version, allow_private=allow_private, allow_gps=allow_gps, workers=workers)
        return publish_to_bucket(version, repo, dry_run=dry_run, workers=workers, track=track, cluster=cluster)
    if cluster is not None:
        raise HubError(f"the nodes of a cluster send to buckets, and {repo} is on the Hub: leave out --engine ray")
    _check_names(repo, branch)
    stop_at_failure(version.manifest.provenance.gates)
    manifest = plain_manifest(version, workers, track)
    files = checked_files(version, manifest, workers, track)
    check_private(version, allow_private=allow_private, allow_gps=allow_gps, workers=workers)
    hub = Hub(repo)
    hub.need_token()
    is_private = hub.private()
    if private and is_private is False:
        raise HubError(f"{repo} is public already: make it private on its page first, or publish without --private")
    warned = list(warnings_of(manifest))
    outcome = Published(version.ref, manifest.id, repo, manifest.version, hub.address, "would", warnings=warned)
    if is_private is None:
        if dry_run:
            return replace(outcome, **_Changes(files, [], 0).fields())
        hub.create(private)
    return _into(hub, branch, manifest, files, outcome, dry_run, track)


def _check_names(repo: str, branch: str) -> None:
    if "@" in repo or parse_ref(repo).repo != repo:
        raise HubError(f"{repo!r} is no dataset on the Hub: write ORG/NAME, without a version")
    check_branch(branch)


def _into(
    hub: Hub,
    branch: str,
    manifest: Manifest,
    files: Sequence[LocalFile],
    outcome: Published,
    dry_run: bool,
    track: Track,
) -> Published:
    refs = hub.refs()
    if manifest.version in refs.tags:
        return replace(outcome, state="there", commit=_same(hub, manifest), unchanged=len(files))
    if branch not in refs.branches:
        if MAIN not in refs.branches:
            raise HubError(f"{hub.repo} has no branch main: publish to another repository")
        refs.branches[branch] = _start(hub, refs.branches[MAIN], manifest)
        if not dry_run:
            hub.create_branch(branch, refs.branches[branch])
    head = refs.branches[branch]
    done = _committed(hub, head, manifest, files)
    if done:
        if not dry_run:
            _tag(hub, manifest, done)
        return replace(outcome, state="would" if dry_run else "finished", commit=done, unchanged=len(files))
    changes = _changes(hub, head, branch, manifest, files)
    if dry_run:
        return replace(outcome, **changes.fields())
    commit = _commit(hub, branch, head, manifest, files, changes, track)
    _tag(hub, manifest, commit)
    return replace(outcome, state="published", commit=commit, **changes.fields())


@dataclass(frozen=True)
class _Changes:
    sent: Sequence[LocalFile]
    deleted: list[str]
    unchanged: int

    def fields(self) -> dict[str, Any]:
        """As fields of Published."""
        size = sum(file.bytes for file in self.sent)
        names = [file.name for file in self.sent]
        return {"sent": names, "bytes": size, "deleted": self.deleted, "unchanged": self.unchanged}


def _same(hub: Hub, manifest: Manifest) -> str:
    """The commit of the version's tag. Raises HubError if it holds another version."""
    tag = manifest.version
    commit = hub.resolve(tag)
    remote = remote_manifest(hub, commit)[1]
    if (remote.name, remote.id) != (manifest.name, manifest.id):
        raise HubError(
            f"{hub.repo}@{tag} is {remote.name} with id {remote.id[:12]}, not {manifest.name} with {manifest.id[:12]}, "
            "and never changes: build the next version, or publish to another repository"
        )
    return commit


def _title(manifest: Manifest) -> str:
    return f"{manifest.name}@{manifest.version}, id {manifest.id[:12]}"


def _committed(hub: Hub, head: str, manifest: Manifest, files: Sequence[LocalFile]) -> str:
    """A commit up to `head` that holds this version whole, of a run that was killed before the tag; "" for none."""
    for commit, title in hub.commits(head):
        if title == _title(manifest) and not _missing(hub.tree(commit), files):
            return commit
    return ""


def _start(hub: Hub, main: str, manifest: Manifest) -> str:
    """The commit that a new branch for this version begins at: that of main, or, if main holds a later version, the
    one that main began at."""
    if MANIFEST in hub.tree(main) and _number(remote_manifest(hub, main)[1]) > _number(manifest):
        *_, (main, _) = hub.commits(main)
    return main


def _number(manifest: Manifest) -> int:
    return int(manifest.version[1:])


def _changes(hub: Hub, head: str, branch: str, manifest: Manifest, files: Sequence[LocalFile]) -> _Changes:
    """What the commit has to bring about. Raises HubError for a repository that holds something else, or a later
    version of the same, which readers of the branch are not to lose."""
    tree = hub.tree(head)
    names = {file.name for file in files}
    gone: set[str] = set()
    if MANIFEST in tree:
        remote = remote_manifest(hub, head)[1]
        if remote.name != manifest.name:
            raise HubError(
                f"{hub.repo} holds versions of {remote.name}, not of {manifest.name}: publish to another one"
            )
        if _number(remote) > _number(manifest):
            raise HubError(
                f"{branch} of {hub.repo} holds {remote.version}, which is later than {manifest.version}: publish to a "
                "new branch with --revision"
            )
        gone = {*remote.files, *(f"{DATA}/{shard.name}" for shard in remote.shards)}
    elif other := [path for path in tree if path.startswith("data/") or path.endswith((".tar", ".parquet"))]:
        raise HubError(f"{hub.repo} holds {other[0]}, and no version of Tutelage: publish to a repository of its own")
    gone |= {path for path in tree if fnmatchcase(path, SHARDS)}
    changed = _missing(tree, files)
    return _Changes(changed, sorted(gone & set(tree) - names), len(files) - len(changed))


def _missing(tree: Mapping[str, RemoteFile], files: Sequence[LocalFile]) -> list[LocalFile]:
    """The files that a tree does not hold as they are."""
    return [file for file in files if file.name not in tree or not _equal(file, tree[file.name])]


def _equal(file: LocalFile, remote: RemoteFile) -> bool:
    if remote.sha256 or remote.bytes != file.bytes:
        return remote.sha256 == file.sha256
    data = _read(file.contents)
    return (
        hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == remote.blob
    )  # git's id of a small file


def _read(contents: Contents) -> bytes:
    if isinstance(contents, bytes):
        return contents
    if isinstance(contents, Path):
        return contents.read_bytes()
    contents.seek(0)
    return contents.read()


def _commit(
    hub: Hub,
    branch: str,
    head: str,
    manifest: Manifest,
    files: Sequence[LocalFile],
    changes: _Changes,
    track: Track,
) -> str:
    additions = hub.additions([(file.name, file.contents, file.sha256) for file in changes.sent])
    with track("upload", sum(file.bytes for file in changes.sent)) as advance:
        hub.upload(additions, branch, advance)
    try:
        commit = hub.commit(additions, changes.deleted, title=_title(manifest), branch=branch, parent=head)
    except Outdated:  # by ourselves, if the answer to our commit was lost
        commit = _committed(hub, hub.refs().branches[branch], manifest, files)
        if not commit:
            raise
    if missing := _missing(hub.tree(commit), files):
        raise HubError(
            f"{hub.repo} did not take {missing[0].name}: remove the .gitignore that keeps it out, then run this again"
        )
    return commit


def _tag(hub: Hub, manifest: Manifest, commit: str) -> None:
    if not hub.tag(manifest.version, commit):  # another process was faster
        _same(hub, manifest)
