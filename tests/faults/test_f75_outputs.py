"""F75 to F79: an output folder has one writer, inputs are never outputs, and a record is not believed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import warm
from decathlon import DECATHLON
from kills import POINTS
from shell import Shell, codes, warm_address
from small_task import make_small_task
from tiny_model import make_model, make_scan

from pcl_auto.data.formats.nifti import probe_image
from pcl_auto.inference.mask_record import RECORD, read_record
from pcl_auto.workspace.output import visible

MAX_SECONDS = 120


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for seed, case in enumerate("abc"):
        make_scan(tmp_path / "scans" / f"{case}.nii.gz", seed)
    return tmp_path / "scans"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def predict(scans: Path, output: Path, model: Path, *more: str) -> list[str]:
    return ["predict", str(scans), "-o", str(output), "--model", str(model), "--device", "cpu", "--no-quality", *more]


def start(shell: Shell, arguments: list[str], **variables: str) -> warm.Command:
    """Begin a command, and do not wait for it."""
    with tempfile.TemporaryFile() as nowhere:
        return warm.Command(
            warm_address(), ["-m", "pcl_auto", *arguments], cwd=shell.folder, env=shell.environment(**variables),
            stdout=nowhere, stderr=nowhere,
        )  # fmt: skip


def wait_for(happened: Callable[[], bool]) -> None:
    last = time.monotonic() + MAX_SECONDS
    while not happened():
        assert time.monotonic() < last
        time.sleep(0.01)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def masks_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in visible(folder) if path.name != RECORD}


# --- F75: two processes and one folder ----------------------------------------------------------------------------


def test_f75_a_second_prediction_into_a_folder_is_refused_by_name(
    shell: Shell, tmp_path: Path, scans: Path, model: Path
) -> None:
    out = tmp_path / "out"
    first = start(shell, predict(scans, out, model))
    wait_for((out / RECORD).is_file)
    os.kill(first.pid, signal.SIGSTOP)
    make_scan(tmp_path / "more" / "z.nii.gz")
    (tmp_path / "link").symlink_to(out)
    try:
        for folder in (out, tmp_path / "link", out / ".." / "out"):
            (problem,) = shell.refusal(*predict(tmp_path / "more", folder, model), code=6)
            assert problem["code"] == "lock.held"
            assert problem["found"].startswith(f"process {first.pid} on ")
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert first.wait(MAX_SECONDS) == 0
    shell.pclauto(*predict(tmp_path / "more", out, model))
    record = read_record(out)
    assert record is not None
    assert sorted(record.scans) == ["a", "b", "c", "z"]


def test_f75_a_killed_prediction_holds_nothing(shell: Shell, tmp_path: Path, scans: Path, model: Path) -> None:
    out = tmp_path / "out"
    first = start(shell, predict(scans, out, model))
    wait_for((out / RECORD).is_file)
    first.kill()
    assert first.wait(MAX_SECONDS) in (0, -signal.SIGKILL)
    shell.pclauto(*predict(scans, out, model))
    assert sorted(masks_of(out)) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]


# --- F76: two plans at once ---------------------------------------------------------------------------------------


def unnumbered(folder: Path, name: str) -> Path:
    """A small data set without a number of its own."""
    task = make_small_task(DECATHLON[3], folder / name, labeled=1, unlabeled=1)
    target = folder / name / name
    task.rename(target)
    description = json.loads((target / "dataset.json").read_text())
    (target / "dataset.json").write_text(json.dumps({**description, "name": name}))
    return target


@pytest.mark.slow
def test_f76_two_plans_at_once_take_two_numbers(shell: Shell, tmp_path: Path) -> None:
    tasks = [unnumbered(tmp_path, name) for name in ("Knee", "Hip")]
    how = ["--workspace", str(tmp_path / "work"), "--gpu-memory-gb", "1"]
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(shell.pclauto, "plan", task, *how) for task in tasks]:
            done.result()
    planned = [path.name for path in visible(tmp_path / "work" / "nnUNet_preprocessed") if path.is_dir()]
    assert sorted(name.split("_")[0] for name in planned) == ["Dataset500", "Dataset501"]
    assert sorted(name.split("_")[1] for name in planned) == ["Hip", "Knee"]


@pytest.mark.slow
def test_f76_two_plans_of_one_data_set_at_once(shell: Shell, tmp_path: Path) -> None:
    task = unnumbered(tmp_path, "Knee")
    command = ["plan", str(task), "--workspace", str(tmp_path / "work"), "--gpu-memory-gb", "1"]
    first = start(shell, command)
    data = tmp_path / "work" / "nnUNet_preprocessed" / "Dataset500_Knee"
    wait_for(data.is_dir)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        (problem,) = shell.refusal(*command, code=6)
        assert problem["code"] == "lock.held"
        assert problem["found"].startswith(f"process {first.pid} on ")
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert first.wait(MAX_SECONDS) == 0
    assert json.loads(shell.pclauto(*command, "--json").stdout)["up_to_date"]


# --- F77: inputs are no outputs -----------------------------------------------------------------------------------


def test_f77_no_command_writes_into_what_others_read(shell: Shell, tmp_path: Path, model: Path) -> None:
    task = make_small_task(DECATHLON[3], tmp_path)
    (tmp_path / "link").symlink_to(task / "labelsTs")
    before = contents(tmp_path)
    for output in (task, task / "labelsTr", task / "imagesTs", tmp_path / "link", model / "new"):
        found = shell.refusal(*predict(task / "imagesTs", output, model, "--overwrite"), code=2)
        assert codes(found) == ["output.input-folder"]
    for more in ([], ["--dry-run"]):
        found = shell.refusal(*predict(task / "imagesTs", task / "labelsTs", model, *more), code=2)
        assert codes(found) == ["output.input-folder"]
        assert "--overwrite" not in str(found)
    for command in (["demo", task], ["download", "5", "-o", task / "labelsTr", "--base-url", "http://127.0.0.1:9"]):
        assert codes(shell.refusal(*command, code=2)) == ["output.input-folder"]
    assert contents(tmp_path) == before


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".NII.GZ"])
def test_f77_labels_far_from_their_data_set_are_not_replaced_either(
    shell: Shell, tmp_path: Path, scans: Path, model: Path, ending: str
) -> None:
    out = tmp_path / "labels"
    for case in "abc":
        label = make_scan(out / f"{case}{'.nii' if ending == '.nii' else '.nii.gz'}")
        label.rename(out / f"{case}{ending}")
    before = contents(out)
    for more in ([], ["--overwrite"]):
        (problem,) = shell.refusal(*predict(scans, out, model, *more), code=4)
        assert problem["code"] == "predict.masks-of-another-model"
        assert "--overwrite" not in problem["fix"]
    assert contents(out) == before


def test_f77_a_record_that_was_copied_makes_no_mask_ours(
    shell: Shell, tmp_path: Path, scans: Path, model: Path
) -> None:
    shell.pclauto(*predict(scans, tmp_path / "out", model))
    labels = tmp_path / "labels"
    for case in "abc":
        make_scan(labels / f"{case}.nii.gz", seed=7)
    shutil.copy(tmp_path / "out" / RECORD, labels)
    before = masks_of(labels)
    done = shell.pclauto(*predict(scans, labels, model, "--overwrite", "--json"), code=4)
    assert [codes(case["problems"]) for case in json.loads(done.stdout)["cases"]] == [["predict.mask-edited"]] * 3
    assert masks_of(labels) == before
    other = make_model(tmp_path / "other", weight=1.0)
    assert codes(shell.refusal(*predict(scans, labels, other, "--overwrite"), code=4)) == [
        "predict.masks-of-another-model"
    ]
    assert masks_of(labels) == before


# --- F78: masks are replaced one by one ---------------------------------------------------------------------------


def test_f78_a_mask_stays_until_the_new_one_is_there(shell: Shell, tmp_path: Path, scans: Path, model: Path) -> None:
    out, other = tmp_path / "out", make_model(tmp_path / "other", weight=3.0)
    shell.pclauto(*predict(scans, out, model))
    old = masks_of(out)
    (scans / "b.nii.gz").write_bytes((scans / "b.nii.gz").read_bytes()[:50])
    told = json.loads(shell.pclauto(*predict(scans, out, other, "--overwrite", "--json"), code=3).stdout)
    assert [case["status"] for case in told["cases"]] == ["done", "failed", "done"]
    assert masks_of(out)["b.nii.gz"] == old["b.nii.gz"]
    record = read_record(out)
    assert record is not None
    assert {case: entry.made_by.model for case, entry in record.old.items()} == {"b": str(model)}
    assert sorted(record.scans) == ["a", "c"]
    # It is no mask of the other model, and is not scored as one.
    found = shell.refusal("evaluate", out, out, code=4)
    assert (codes(found), found[0]["found"]) == (["score.masks-of-two-models"], "b.nii.gz")


@pytest.mark.slow
@pytest.mark.parametrize(("same", "stride"), [(True, 61), (False, 37)])
def test_f78_a_replacement_that_is_killed_anywhere_loses_no_mask(
    shell: Shell, tmp_path: Path, scans: Path, model: Path, same: bool, stride: int
) -> None:
    kept, out = tmp_path / "kept", tmp_path / "out"
    shell.pclauto(*predict(scans, kept, model, "--preview"))
    changed = model if same else make_model(tmp_path / "other", weight=3.0)
    command = predict(scans, out, changed, "--preview", "--overwrite")

    def reset() -> None:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(kept, out)

    reset()
    shell.pclauto(*command)
    expected, old = masks_of(out), masks_of(kept)
    for point in POINTS:
        for number in range(2, 1000, stride):
            reset()
            code = start(shell, command, PCLAUTO_FAULT=f"{point}:{number}").wait(MAX_SECONDS)
            if code == 0:
                break
            assert code == -signal.SIGKILL
            found = masks_of(out)
            for case in "abc":
                assert found[f"{case}.nii.gz"] in (old[f"{case}.nii.gz"], expected[f"{case}.nii.gz"])
                assert probe_image(out / f"{case}.nii.gz")[1] == []
            # Without being asked to replace anything, it keeps what is this model's, and mixes nothing.
            again = shell.python("-m", "pcl_auto", *predict(scans, out, changed))
            assert again.returncode in ((0,) if same else (0, 4)), again.stderr
            shell.pclauto(*command)
            assert masks_of(out).keys() == expected.keys()
            assert {name: masks_of(out)[name] for name in expected if name.endswith(".gz")} == {
                name: expected[name] for name in expected if name.endswith(".gz")
            }
        else:
            raise AssertionError("it never came to its end")


# --- F79: a record names what it likes ----------------------------------------------------------------------------


def test_f79_a_record_leads_to_no_other_folder(shell: Shell, tmp_path: Path, scans: Path, model: Path) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    shell.pclauto(*predict(scans, out, model))
    shutil.copytree(model, victim, copy_function=shutil.copy2)
    shutil.copytree(out, tmp_path / "drawn", ignore=shutil.ignore_patterns(RECORD))
    record: dict[str, Any] = json.loads((out / RECORD).read_text())
    for named in (victim, tmp_path / "scans", Path("victim"), Path("../victim"), Path("/")):
        (out / RECORD).write_text(json.dumps({**record, "model": str(named)}))
        before = contents(tmp_path)
        shell.pclauto("evaluate", out, tmp_path / "drawn")
        assert contents(tmp_path) == before
    for damaged in ("[]", '{"model": ["x"], "checkpoints": {}}', "[" * 10_000):
        (out / RECORD).write_text(damaged)
        before = contents(tmp_path)
        for command in (["evaluate", str(out), str(out)], predict(scans, out, model, "--overwrite")):
            assert codes(shell.refusal(*command, code=4)) == ["predict.record-damaged"]
        assert contents(tmp_path) == before


def test_f79_names_of_masks_in_a_record_stay_in_the_folder(
    shell: Shell, tmp_path: Path, scans: Path, model: Path
) -> None:
    out = tmp_path / "out"
    shell.pclauto(*predict(scans, out, model))
    record: dict[str, Any] = json.loads((out / RECORD).read_text())
    for name in ("../scans/a.nii.gz", str(scans / "a.nii.gz"), "a.nii.gz/../../scans/a.nii.gz"):
        entry = {**record["scans"]["a"], "mask": name}
        (out / RECORD).write_text(json.dumps({**record, "scans": {**record["scans"], "a": entry}}))
        before = contents(tmp_path)
        assert codes(shell.refusal(*predict(scans, out, model, "--overwrite"), code=4)) == ["predict.record-damaged"]
        assert contents(tmp_path) == before
