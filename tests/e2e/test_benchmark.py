"""Run a small benchmark from the data set to the verdict, and once more without training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from shared import copy_of
from shell import Shell, codes

pytestmark = pytest.mark.slow


def test_benchmark_compares_and_is_resumed(shell: Shell, task: Path, planned_once: Path) -> None:
    # Rounds of which the paper's three make two: arms that differ in rounds share their start.
    (shell.folder / "bench.toml").write_text('extends = "tiny.toml"\n[schedule]\nrounds = 4\nepochs_per_round = 1\n')
    copy_of(planned_once, shell.folder / "bench-work")
    command = ["benchmark", task, "--workspace", "bench-work", "--labeled", "2", "--draws", "1", "--device", "cpu",
               "--arms", "nnunet,paper", "--base-recipe", "bench.toml"]  # fmt: skip
    done = shell.pclauto(*command)
    assert "paper, 2 labels: no verdict: one draw, which has no interval" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.partition("\n\n")[0].splitlines())
    folder = shell.folder / "bench-work" / "benchmarks" / "Dataset099_Phantom"
    runs = {file.name: file.stat().st_mtime_ns for file in (folder / "runs").iterdir()}
    assert set(runs) == {"nnunet_L2_s0.json", "paper_L2_s0.json"}
    # The start that both arms shared is gone; the models stay.
    assert {path.name for path in folder.iterdir()} == {"runs", "results.json", "results.csv", "results.png"}
    paper = json.loads((folder / "runs" / "paper_L2_s0.json").read_text())
    supervised = json.loads((folder / "runs" / "nnunet_L2_s0.json").read_text())
    # Divided as the paper's own epochs, as far as six can be.
    assert paper["settings"]["recipe"]["schedule"]["rounds"] == 3
    assert paper["settings"]["recipe"]["mixing"]["copy_paste"] is False
    events = (Path(paper["model"]) / "fold_all" / "events.jsonl").read_text()
    assert "from_shared_start" not in events  # its segmentation head is deeper than the baseline's
    assert [events.count('"stage": "supervised"'), events.count('"stage": "round')] == [3, 3]
    listed = json.loads((folder / "results.json").read_text())["runs"]
    assert [run["model"] for run in listed] == [supervised["model"], paper["model"]]
    for run in (paper, supervised):
        assert (Path(run["model"]) / "fold_all" / "checkpoint_final.pth").is_file()
        assert run["seconds"] > 0
        assert run["memory_mb"] > 0
        assert [0 <= case["dice"] <= 1 for case in run["cases"]] == [True, True]
    # A model of a benchmark is not what `pclauto predict` takes when none is named.
    assert "last_run" not in json.loads((shell.folder / "bench-work/nnUNet_preprocessed/pclauto.json").read_text())

    again = shell.pclauto(*command, "--json")
    assert {file.name: file.stat().st_mtime_ns for file in (folder / "runs").iterdir()} == runs
    results = json.loads(again.stdout)
    assert results["runs_done"] == 2
    gain = paper["mean"]["dice"] - supervised["mean"]["dice"]
    (found,) = (row["comparisons"]["nnunet"] for row in results["rows"] if row["arm"] == "paper")
    assert found["difference"] == pytest.approx(gain)
    assert (found["draws"], found["p_holm"], found["verdict"]) == (1, None, "no verdict")
    problems = shell.refusal(*command, "--epochs", "7", code=4)
    assert set(codes(problems)) == {"run.settings-changed"}
    assert any("recipe.schedule" in problem["what"] for problem in problems)

    held = ["benchmark", task, "--workspace", "bench-work", "--labeled", "1", "--draws", "1", "--device", "cpu",
            "--arms", "nnunet", "--base-recipe", "bench.toml", "--test-cases", "1", "--folder", "held"]  # fmt: skip
    shell.pclauto(*held)
    (kept,) = (shell.folder / "held" / "runs").iterdir()
    only = json.loads(kept.read_text())
    scored = {case["id"] for case in only["cases"]}
    assert len(scored) == 1
    assert not scored & {*only["split"]["labeled"], *only["split"]["unlabeled"]}
    assert scored <= {file.name.removesuffix(".nii.gz") for file in (task / "labelsTr").iterdir()}

    sweep = ["sweep", task, "--workspace", "bench-work", "--draws", "1", "--device", "cpu", "--recipe", "paper",
             "--base-recipe", "bench.toml"]  # fmt: skip
    planned = shell.pclauto(*sweep, "--labeled", "1,2", "--dry-run", "--json")
    listed = [line.split(maxsplit=1) for line in planned.stderr.splitlines() if line.startswith("  ")]
    assert listed == [["nnunet_L1_s0"], ["paper_L1_s0"], ["nnunet_L2_s0", "done before"],
                      ["paper_L2_s0", "done before"]]  # fmt: skip
    content = json.loads(planned.stdout)
    assert content["folder"] == str(folder)
    assert [(run["name"], run["done"]) for run in content["runs"]] == [(name, bool(done)) for name, *done in listed]
    assert content["runs"][3] == {"name": "paper_L2_s0", "arm": "paper", "labeled": 2, "draw": 0, "done": True}
    repeated = shell.pclauto(*sweep, "--labeled", "2", "--json")
    assert {file.name: file.stat().st_mtime_ns for file in (folder / "runs").iterdir()} == runs
    (point,) = json.loads(repeated.stdout)["curve"]
    assert (point["arm"], point["labeled"], point["dice"]) == ("paper", 2, paper["mean"]["dice"])
    assert (point["baseline_arm"], point["baseline_dice"]) == ("nnunet", supervised["mean"]["dice"])
    shown = shell.pclauto(*sweep, "--labeled", "2").stdout.splitlines()
    assert shown[0].split() == ["labels", "nnunet", "paper", "Δ"]
    assert shown[1].split()[0] == "2"


@pytest.mark.soak
def test_baselines_mirror_as_their_names_say_with_all_labels_too(shell: Shell, task: Path, planned_once: Path) -> None:
    (shell.folder / "short.toml").write_text('extends = "tiny.toml"\n[schedule]\nrounds = 1\nepochs_per_round = 1\n')
    copy_of(planned_once, shell.folder / "bench-work")
    done = shell.pclauto(
        "benchmark", task, "--workspace", "bench-work", "--labeled", "1", "--draws", "1", "--device", "cpu",
        "--arms", "nnunet,nnunet_no_mirroring,all-labels", "--base-recipe", "short.toml", "--json",
    )  # fmt: skip
    axes = {}
    for run in json.loads(done.stdout)["runs"]:
        content = torch.load(Path(run["model"]) / "fold_all" / "checkpoint_final.pth", weights_only=True)
        axes[run["arm"], run["labeled"]] = list(content["inference_allowed_mirroring_axes"] or ())
    assert len(axes) == 4
    for (arm, _), found in axes.items():
        assert found == ([0, 1, 2] if arm == "nnunet" else [])
