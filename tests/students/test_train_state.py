"""What a run goes on from, and its log: whole, or a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from students.train.errors import TrainError
from students.train.run import cut_log, read_log
from students.train.state import STATE, read_state, write_state
from teachers.errors import TutelageWarning

VALUES = {"step": 3, "network": {"weight": torch.arange(4.0)}}


def test_a_state_is_read_as_it_was_written_and_torch_reads_it_too(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    write_state(tmp_path, VALUES)
    for state in (read_state(tmp_path), torch.load(tmp_path / STATE, weights_only=True)):
        assert state is not None and state["step"] == 3 and torch.equal(state["network"]["weight"], torch.arange(4.0))
    torch.save(VALUES, tmp_path / STATE)  # as before it had a digest
    assert (read_state(tmp_path) or {})["step"] == 3


def test_any_flipped_bit_or_cut_of_a_state_is_a_sentence_or_harmless(tmp_path: Path) -> None:
    write_state(tmp_path, VALUES)
    whole = (tmp_path / STATE).read_bytes()
    damaged = [whole[:n] for n in (0, 1, 100, len(whole) - 40, len(whole) - 1)]
    for place in range(0, len(whole) * 8, len(whole) // 5):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        damaged.append(bytes(flipped))
    refused = []
    for data in damaged:
        (tmp_path / STATE).write_bytes(data)
        try:
            state = read_state(tmp_path)
            assert state is not None and torch.equal(state["network"]["weight"], torch.arange(4.0))
        except TrainError as error:
            refused.append(str(error))
    assert len(refused) >= len(damaged) - 2  # but for those in the mark itself, and at its end
    assert all("\n" not in text and "damaged" in text and "init: checkpoint:" in text for text in refused)


def test_a_log_tells_of_damage_but_for_a_last_line_that_was_cut(tmp_path: Path) -> None:
    lines = [json.dumps({"step": n, "loss": 0.5}) for n in (1, 2, 3)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + '\n{"step": 4, "lo')
    assert [record["step"] for record in read_log(tmp_path)] == [1, 2, 3]
    (tmp_path / "log.jsonl").write_text("\n".join([lines[0], "\0\0", lines[2]]))
    with pytest.raises(TrainError, match=r"line 2 of .*log\.jsonl is damaged"):
        read_log(tmp_path)
    with pytest.warns(TutelageWarning, match="has lost 1 of the records of 3 steps"):
        cut_log(tmp_path, 3)
    assert [record["step"] for record in read_log(tmp_path)] == [1, 3]
