"""What a manifest says of its version's origin: read as it was written, by tools of other ages too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builder.errors import BuildError
from builder.store.manifest import MANIFEST, Manifest, read_manifest, version_id, write_manifest
from builder.store.provenance import Group, Provenance

CONTENT: dict[str, Any] = {
    "name": "pets", "version": "v1", "kind": "detection", "classes": ["cat"], "features": ["jpg", "json"],
    "shards": [], "images": {}, "objects": {}, "per_class": {}, "files": {},
    "id": version_id(["cat"], ["jpg", "json"], [], []),
}  # fmt: skip
GROUP = {"classes": ["cat"], "rule": "score", "threshold": 0.5}


def manifest(folder: Path, provenance: object) -> Manifest:
    (folder / MANIFEST).write_text(json.dumps(CONTENT | {"provenance": provenance}))
    return read_manifest(folder)


@pytest.mark.parametrize(
    "provenance",
    [
        {},
        {"inputs": {"pool": "ab", "keep": {"score": 0.5}}, "teacher": {"spec": "onnx:m.onnx"}},
        {"thresholds": [GROUP], "gates": [{"name": "leak", "status": "ok", "message": "none"}], "parent": None},
        {"truth": {"images": 2, "tune": 1, "certify": 1, "uses": 1}, "plan": [[0, 2], [2, 3]], "balance": [3]},
        {"of_a_later_tool": [1], "inputs": {"of_a_later_tool": {"a": None}}},
    ],
)
def test_what_was_read_is_written_again(tmp_path: Path, provenance: dict[str, Any]) -> None:
    read = manifest(tmp_path, provenance)
    write_manifest(tmp_path, read)
    assert json.loads((tmp_path / MANIFEST).read_bytes())["provenance"] == provenance
    assert json.loads(read.model_dump_json())["provenance"] == provenance
    assert read_manifest(tmp_path) == read


def test_what_an_older_manifest_lacks_is_as_the_defaults_say(tmp_path: Path) -> None:
    provenance = manifest(tmp_path, {"parent": {"version": "pets@v1", "thresholds": "taken over"}}).provenance
    assert (provenance.teacher.spec, provenance.inputs.pool, provenance.inputs.images.near_duplicates) == (
        "unknown",
        "",
        None,
    )
    assert provenance.parent and provenance.parent.taken_over
    assert (provenance.thresholds, provenance.plan, provenance.truth, provenance.balance) == ([], [], None, None)


@pytest.mark.parametrize(
    "provenance",
    [None, [], {"thresholds": [{"classes": "cat"}]}, {"inputs": "ab"}, {"truth": {}}, {"plan": [[0]]}, {"gates": [{}]}],
)
def test_what_is_no_provenance_is_refused_in_one_sentence(tmp_path: Path, provenance: object) -> None:
    with pytest.raises(BuildError, match="is damaged") as error:
        manifest(tmp_path, provenance)
    assert "\n" not in str(error.value)


def test_a_new_record_is_stored_with_all_its_keys() -> None:
    whole = Provenance(thresholds=[Group.model_validate(GROUP).whole()]).stored()
    assert whole["thresholds"][0].keys() == Group.model_fields.keys() and whole.keys() == {"thresholds"}
