"""Checkpoints: no code comes out of one, and the old one stays until the new one is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refusal import refused

from pcl_auto.errors import StateError
from pcl_auto.nnunet.checkpoint_files import plain, read_checkpoint, write_checkpoint


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"network_weights": {}, "evil": Canary(canary)}, tmp_path / "bad.pth")
    with refused(StateError, "checkpoint.unreadable") as refusal:
        read_checkpoint(tmp_path / "bad.pth")
    assert refusal.problem.where == str(tmp_path / "bad.pth")
    assert not canary.exists()


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_damaged_checkpoint_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "checkpoint.pth"
    write_checkpoint(path, {"network_weights": {"w": torch.ones(100)}})
    path.write_bytes(path.read_bytes()[:keep])
    with refused(StateError, "checkpoint.unreadable"):
        read_checkpoint(path)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with refused(StateError, "checkpoint.missing"):
        read_checkpoint(tmp_path / "none.pth")
    torch.save({"weights": 1}, tmp_path / "other.pth")
    with refused(StateError, "checkpoint.not-nnunet") as refusal:
        read_checkpoint(tmp_path / "other.pth")
    assert refusal.problem.expected == "network_weights"


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    """Also where the words of it are other objects, as of a training that was resumed."""

    word = "a word"
    contents = [
        {"network_weights": {"w": torch.ones(3)}, "name": word, "pair": (other, [word, 1.5])}
        for other in (word, json.loads(json.dumps(word)))
    ]
    files = [tmp_path / str(number) / "checkpoint.pth" for number in range(2)]
    for file, values in zip(files, contents, strict=True):
        write_checkpoint(file, values)
    assert files[0].read_bytes() == files[1].read_bytes()
    for weights_only in (True, False):
        assert torch.load(files[0], weights_only=weights_only)["pair"] == (word, [word, 1.5])
    # Python's own way tells them apart.
    for file, values in zip(files, contents, strict=True):
        torch.save(values, file)
    assert files[0].read_bytes() != files[1].read_bytes()


def test_failed_write_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    write_checkpoint(path, {"network_weights": {"w": torch.ones(3)}})
    with pytest.raises(Exception, match=r"pickle|local"):
        write_checkpoint(path, {"network_weights": {"w": torch.zeros(3)}, "bad": lambda: None})
    assert read_checkpoint(path)["network_weights"]["w"].tolist() == [1, 1, 1]
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pth"]


def test_nnunets_own_numpy_scalars_are_read(tmp_path: Path) -> None:
    torch.save({"network_weights": {}, "_best_ema": np.float64(0.5), "curve": [np.float32(1)]}, tmp_path / "stock.pth")
    assert read_checkpoint(tmp_path / "stock.pth")["_best_ema"] == 0.5


def test_plain_leaves_no_numpy() -> None:
    value = plain({"a": [np.float32(0.5), (np.int64(2), np.array([1.0, 2.0]))], "b": "text", "c": None})
    assert value == {"a": [0.5, (2, [1.0, 2.0])], "b": "text", "c": None}
    assert type(value["a"][0]) is float
    assert type(value["a"][1][0]) is int
