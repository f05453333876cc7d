"""Names in Unicode's two forms, and the files that they mean."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.store.names import Folder, canonical, first_repeated

NFC, NFD = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))


@given(st.text(max_size=20))
def test_all_forms_of_a_name_are_one(name: str) -> None:
    assert len({canonical(unicodedata.normalize(form, name)) for form in ("NFC", "NFD")}) == 1


@pytest.mark.parametrize("there", [NFC, NFD])
@pytest.mark.parametrize("asked", [NFC, NFD])
def test_a_file_is_found_by_either_form_of_its_path(tmp_path: Path, there: str, asked: str) -> None:
    file = tmp_path / f"caf{there}" / "deep" / f"1{there}.txt"
    file.parent.mkdir(parents=True)
    file.touch()
    assert Folder(tmp_path).find(f"caf{asked}/deep/1{asked}.txt") == file
    assert Folder(tmp_path).find(str(tmp_path / f"caf{asked}/deep/1{asked}.txt")) == file
    assert Folder(tmp_path / "other").find(f"../caf{asked}/deep/1{asked}.txt") is None  # no such folder to leave
    assert Folder(tmp_path).find(f"caf{asked}/deep") is None  # no file
    assert Folder(tmp_path).find(f"caf{asked}/2{asked}.txt") is None


def test_two_files_that_differ_in_form_are_found_as_written(tmp_path: Path) -> None:
    for form in (NFC, NFD):
        (tmp_path / form).touch()
    folder = Folder(tmp_path)
    assert [folder.find(form) for form in (NFC, NFD)] == [tmp_path / NFC, tmp_path / NFD]
    assert first_repeated([NFC, "a", NFD]) == NFD
    assert first_repeated([NFC, "a"]) is None
