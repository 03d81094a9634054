"""F80: a damaged run is named beside the sound ones, and hides none of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mutations import DEEP
from report_files import write_run
from shell import Shell, codes

from pcl_auto.training.request import SUPERVISED_TRAINER


def rounds_as_text(record: bytes) -> bytes:
    content = json.loads(record)
    content["identity"]["recipe"]["schedule"]["rounds"] = "one"
    return json.dumps(content).encode()


RECORDS = {
    "list": b"[]", "null": b"null", "binary": b"\xff\xfe\x00", "deep": DEEP.encode(), "empty": b"",
    "number": b"9" * 5000, "no identity": b"{}", "NaN": b'{"identity": NaN}',
}  # fmt: skip


def spoil(run: Path, name: str) -> Path:
    """Damage the record of a run, or put something else in its place."""
    record = run / "run.json"
    content = record.read_bytes()
    record.unlink()
    if name == "folder":
        record.mkdir()
    elif name == "loop":
        record.symlink_to("run.json")
    else:
        record.write_bytes(RECORDS.get(name) or rounds_as_text(content))
    return record


@pytest.mark.parametrize("name", [*RECORDS, "rounds as text", "folder", "loop"])
def test_f80_a_damaged_run_is_named_beside_the_sound_one(shell: Shell, tmp_path: Path, name: str) -> None:
    work = tmp_path / "work"
    sound = write_run(work / "nnUNet_results", trainer=SUPERVISED_TRAINER)
    damaged = write_run(work / "nnUNet_results")
    record = spoil(damaged / "fold_all", name)

    done = shell.pclauto("status", "--workspace", work)
    assert "baseline" in done.stdout
    assert damaged.name in done.stdout.replace("\n", "")
    assert str(record) in done.stderr
    listed = json.loads(shell.pclauto("status", "--workspace", work, "--json").stdout)
    assert {Path(run["folder"]).parent: run["state"] for run in listed} == {sound: "stopped", damaged: "damaged"}
    assert [problem["where"] for run in listed for problem in run.get("problems", [])] == [str(record)]

    for command in (["status", damaged.name], ["report", "--model", damaged.name]):
        problems = shell.refusal(*command, "--workspace", work, code=4)
        assert problems
        assert set(codes(problems)) <= {"run.file-unreadable", "run.no-record", "data.not-a-file"}
    shell.pclauto("status", sound.name, "--workspace", work)


def test_f80_a_damaged_fold_is_named_beside_the_sound_one(shell: Shell, tmp_path: Path) -> None:
    work = tmp_path / "work"
    model = write_run(work / "nnUNet_results")
    (model / "fold_all").rename(model / "fold_0")
    broken = model / "fold_1" / "run.json"
    broken.parent.mkdir()
    broken.write_text("[]")
    done = shell.pclauto("status", model.name, "--workspace", work, code=4)
    assert str(model / "fold_0") in done.stdout
    assert str(broken) in done.stderr
    shell.pclauto("status", "--workspace", work)


def test_f80_a_damaged_baseline_or_evaluation_spoils_no_report(shell: Shell, tmp_path: Path) -> None:
    work = tmp_path / "work"
    model = write_run(work / "nnUNet_results")
    baseline = write_run(work / "nnUNet_results", trainer=SUPERVISED_TRAINER)
    (baseline / "fold_all" / "run.json").write_text("[]")
    (model / "evaluations").mkdir()
    (model / "evaluations" / "x.json").write_text("{}")
    shell.pclauto("report", "--model", model, "--workspace", work, "-o", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "not measured yet" in page
    assert "left out: x.json" in page
