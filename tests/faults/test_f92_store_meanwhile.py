"""F92: stored cases that are removed, cut or overwritten while a training reads them end it, with the file's name."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from shell import Shell, warm_address
from warm import Command

from pcl_auto.errors import StateError
from pcl_auto.nnunet.data.cases import StoredCases, reading

MAX_SECONDS = 120


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def overwrite(file: Path) -> None:
    file.write_bytes(b"x" * file.stat().st_size)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "damage", "of"), [(0, cut, "store"), (1, Path.unlink, "store"), (1, overwrite, "splits")]
)
def test_f92_a_training_ends_with_the_name_of_the_stored_case(
    shell: Shell, planned: Path, tmp_path: Path, workers: int, damage: Callable[[Path], None], of: str
) -> None:
    recipe = tmp_path / "longer.toml"
    recipe.write_text((shell.folder / "tiny.toml").read_text().replace("epochs = 2", "epochs = 100"))
    where = ["train", "--workspace", str(planned), "--recipe", str(recipe), "--device", "cpu", "--json"]
    output = tmp_path / "output"
    with output.open("wb") as log:
        training = Command(
            warm_address(), ["-m", "pcl_auto", *where, "--workers", str(workers)], cwd=shell.folder,
            env=shell.environment(), stdout=log, stderr=log, pictures=False,
        )  # fmt: skip
    until = time.monotonic() + MAX_SECONDS
    while b"epoch 2/" not in output.read_bytes():
        assert time.monotonic() < until, output.read_text()
        time.sleep(0.05)
    files = [file for folder in planned.glob(f"nnUNet_preprocessed/*/**/{of}") for file in folder.rglob("*.b2nd")]
    assert files
    for file in files:
        if not file.is_symlink():
            damage(file)
    assert training.wait(MAX_SECONDS) == 4, output.read_text()
    said = output.read_text()
    (problem,) = json.loads(said[said.index("{") :])["problems"]
    assert problem["code"] == "plan.stored-case-unreadable"
    assert any(problem["where"].endswith(file.name) for file in files)


@pytest.mark.parametrize("suffix", ["", "_seg"])
def test_f92_a_file_that_is_damaged_between_opening_and_reading_is_named(tmp_path: Path, suffix: str) -> None:
    properties = {"spacing": [1.0, 1.0, 1.0]}
    for case in ("first", "second"):
        voxels = np.random.default_rng(0).random((1, 32, 32, 32), np.float32)
        nnUNetDatasetBlosc2.save_case(voxels, (9 * voxels).astype(np.int8), properties, str(tmp_path / case))
    cases = StoredCases(str(tmp_path), ["first", "second"])
    arrays = cases.load_case("second")[:2]
    damaged = tmp_path / f"second{suffix}.b2nd"
    content = bytearray(damaged.read_bytes())
    content[200:-200] = b"x" * (len(content) - 400)
    damaged.write_bytes(content)
    with pytest.raises(StateError) as refused, reading(lambda: cases):
        _ = [array[:] for array in arrays]
    (problem,) = refused.value.problems
    assert (problem.code, problem.where) == ("plan.stored-case-unreadable", str(damaged))
