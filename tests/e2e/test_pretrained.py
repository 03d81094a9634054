"""A training that begins with pretrained weights, as a user runs it: planned, matched, recorded, read by stock."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from golden import stock_mask
from pretrained_files import adaptation_plan, architecture, network, write_nnssl
from refusal import refused
from shared import PLAN_OPTIONS, copy_of, made_once, shell_in
from shell import Shell
from stock import SHORT_TRAINING

from pcl_auto.errors import StateError
from pcl_auto.nnunet.checkpoint_files import read_checkpoint
from pcl_auto.nnunet.environment import EXTENSION_FOLDER
from pcl_auto.training.request import TrainRequest, resolve_runs
from pcl_auto.training.train import train_runs
from pcl_auto.workspace.events import silent
from pcl_auto.workspace.files import file_digest
from pcl_auto.workspace.folders import Workspace
from pcl_auto.workspace.run_record import FINAL

FEATURES = (8, 8, 16)
OWN = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_n_proc_DA", "nnUNet_extTrainer")
TRAIN = ["train", "--recipe", "tiny.toml", "--set", "network.width=1", "--device", "cpu"]


@pytest.fixture(scope="session")
def weights(shared_folder: Path) -> Path:
    """A model repository of nnssl with a residual network of three stages."""

    def make(folder: Path) -> None:
        of = architecture(features=FEATURES)
        write_nnssl(folder / "resenc", network(of, seed=7).state_dict(), adaptation_plan(of))
        (folder / "resenc" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")

    return made_once(shared_folder / "weights", make) / "resenc"


@pytest.fixture(scope="session")
def planned_for(shared_folder: Path, task: Path, weights: Path) -> Path:
    """A workspace in which the phantom was planned for the network of the weights."""

    def make(folder: Path) -> None:
        plan = ["plan", task, "--workspace", folder / "work", *PLAN_OPTIONS, "--for", weights]
        done = shell_in(folder / "user").pclauto(*plan)
        assert f"--pretrained {weights}" in done.stderr
        assert "network.width=1" in done.stderr
        assert "up to date" in shell_in(folder / "user").pclauto(*plan).stderr

    return made_once(shared_folder / "planned_for", make) / "work"


@pytest.fixture(scope="session")
def pretrained(shared_folder: Path, planned_for: Path, weights: Path) -> Path:
    """A workspace in which a run and its baseline began with the weights."""

    def make(folder: Path) -> None:
        work, shell = copy_of(planned_for, folder / "work"), shell_in(folder / "user")
        train = [*TRAIN, "--workspace", work, "--pretrained", weights]
        shell.pclauto(*train)
        shell.pclauto(*train, "--supervised-only")

    return made_once(shared_folder / "pretrained_runs", make) / "work"


def leave_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put what nnU-Net reads in this process back after a test."""
    for name in OWN:
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)


def folder_of(work: Path, trainer: str = "nnUNetTrainerPCL__") -> Path:
    """Return the run of a trainer that began with the weights."""
    (found,) = (work / "nnUNet_results").glob(f"Dataset*/{trainer}*_pre*/fold_all")
    return found


def record_of(work: Path, trainer: str = "nnUNetTrainerPCL__") -> dict[str, Any]:
    """Return the record of that run."""
    found: dict[str, Any] = json.loads((folder_of(work, trainer) / "run.json").read_text())
    return found


def events_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return the events of a kind."""
    lines = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == kind]


def files_in(folder: Path) -> set[str]:
    """Return every file below a folder but locks."""
    return {
        str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")
    }


def test_a_dry_run_says_what_matches_and_writes_nothing(planned_for: Path, weights: Path, shell: Shell) -> None:
    before = files_in(planned_for)
    done = shell.pclauto(*TRAIN, "--workspace", planned_for, "--pretrained", weights, "--dry-run", "--json")
    found = json.loads(done.stdout)["pretrained"]
    assert found["source"] == str(weights)
    assert found["digest"] == file_digest(weights / FINAL)
    assert found["matched_fraction_of_encoder"] == 1
    assert [stage["name"] for stage in found["stages"] if stage["taken"]] == [
        stage["name"] for stage in found["stages"]
    ]
    assert "taken: encoder stem, encoder stages 1 to 3, decoder stages 1 to 2" in done.stderr
    assert files_in(planned_for) == before


def test_the_record_and_the_report_say_where_the_weights_come_from(pretrained: Path, weights: Path) -> None:
    folder, record = folder_of(pretrained), record_of(pretrained)
    assert record["identity"]["pretrained"] == record["pretrained"]["digest"] == file_digest(weights / FINAL)
    assert record["pretrained"]["license"] == "cc-by-4.0"
    assert record["identity"]["recipe"]["pretrained"]["source"] == ""  # known by what is in them
    (started,) = events_of(folder, "started")
    assert started["pretrained"] == str(weights)
    page = (folder / "report.html").read_text()
    assert "resenc (nnssl; license: cc-by-4.0): 100% of its encoder" in page
    assert record["pretrained"]["digest"] in page
    assert page.index("Please cite") < page.index("Pretraining: A study: @article{a}")


def test_the_learning_rate_grows_first_and_is_a_tenth_of_the_recipes(pretrained: Path) -> None:
    epochs = events_of(folder_of(pretrained), "epoch")
    assert [epoch["stage"].split(",")[0] for epoch in epochs] == ["supervised"] * 2 + ["round 1"] * 2 + ["round 2"] * 2
    # Six epochs: a tenth of them rounds to one.
    rates = [epoch["learning_rate"] for epoch in epochs]
    assert rates[0] == pytest.approx(2e-4 / 2)
    assert rates[1:] == pytest.approx([2e-4 * (1 - epoch / 5) ** 0.9 for epoch in range(5)])


def test_the_first_step_is_taken_from_the_weights(pretrained: Path, weights: Path) -> None:
    # Of few steps at a small rate: what was trained is near the file, and nothing that is drawn is.
    trained = read_checkpoint(folder_of(pretrained) / FINAL)["network_weights"]
    file = read_checkpoint(weights / FINAL)["network_weights"]
    for name in ("encoder.stages.2.blocks.0.conv1.conv.weight", "decoder.stages.0.convs.0.conv.weight"):
        distance = (trained[name] - file[name]).norm() / file[name].norm()
        assert 0 < distance < 0.1, name


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (["teacher.from_start=true"], "teacher"),
        (
            [
                "unlabeled_loss.method=cross_supervision",
                "contrast.weight=0",
                "pseudo_labels.segmentation_weight=0",
                "mixing.copy_paste=false",
            ],
            "second_network",
        ),
    ],
    ids=["EMA teacher", "second network"],
)
def test_what_learns_beside_the_network_begins_with_the_weights_too(
    changes: list[str], part: str, planned_for: Path, weights: Path, tmp_path: Path
) -> None:
    work, shell = copy_of(planned_for, tmp_path / "work"), shell_in(tmp_path / "user")
    options = [option for change in changes for option in ("--set", change)]
    shell.pclauto(*TRAIN, *options, "--workspace", work, "--pretrained", weights, pictures=False)
    learned = read_checkpoint(folder_of(work) / FINAL)["pclauto"][part]
    file = read_checkpoint(weights / FINAL)["network_weights"]
    name = "encoder.stages.2.blocks.0.conv1.conv.weight"
    assert (learned.get("network", learned)[name] - file[name]).norm() < 0.1 * file[name].norm()


def test_the_baseline_that_began_with_the_same_weights_is_the_fair_one(pretrained: Path, shell: Shell) -> None:
    done = shell.pclauto(
        "report", "--model", folder_of(pretrained).parent, "--workspace", pretrained, "-o", shell.folder / "a.html"
    )
    assert "nnUNetTrainerPCLSupervised" in (shell.folder / "a.html").read_text(), done.stderr
    baseline = record_of(pretrained, "nnUNetTrainerPCLSupervised__")
    assert baseline["pretrained"]["matched_fraction_of_encoder"] == 1


def test_a_baseline_without_the_weights_is_none(pretrained: Path, tmp_path: Path, weights: Path) -> None:
    work, shell = copy_of(pretrained, tmp_path / "work"), shell_in(tmp_path / "user")
    for model in (work / "nnUNet_results").glob("Dataset*/nnUNetTrainerPCLSupervised__*"):
        model.rename(tmp_path / "elsewhere")
    shell.pclauto(*TRAIN, "--workspace", work, "--supervised-only")
    shell.pclauto("report", "--model", folder_of(work).parent, "--workspace", work, "-o", tmp_path / "b.html")
    assert "begun with other pretrained weights" in (tmp_path / "b.html").read_text()


def test_the_same_command_again_is_done(pretrained: Path, weights: Path, shell: Shell) -> None:
    done = shell.pclauto(*TRAIN, "--workspace", pretrained, "--pretrained", weights)
    assert "already trained" in done.stderr


def test_stock_nnunet_gives_the_same_masks(pretrained: Path, task: Path, shell: Shell, tmp_path: Path) -> None:
    model, scan = folder_of(pretrained).parent, min((task / "imagesTs").glob("*.nii.gz"))
    shell.pclauto("predict", scan, "-o", tmp_path / "ours", "--model", model, "--device", "cpu")
    ours = np.asarray(nibabel.load(tmp_path / "ours" / scan.name).dataobj).T
    np.testing.assert_array_equal(ours, stock_mask(shell, model, scan, tmp_path))


def test_a_recipe_names_its_weights(planned_for: Path, weights: Path, shell: Shell) -> None:
    (shell.folder / "own.toml").write_text(
        f'extends = "tiny.toml"\n[pretrained]\nsource = "{weights}"\ndecoder = false\n'
    )
    own = ["train", "--recipe", "own.toml", "--set", "network.width=1", "--workspace", planned_for, "--device", "cpu"]
    found = json.loads(shell.pclauto(*own, "--dry-run", "--json").stdout)["pretrained"]
    assert found["matched_fraction_of_encoder"] == 1
    assert found["matched_fraction_of_decoder"] == 0


@pytest.mark.parametrize("kind", ["width", "nan", "half", "two starts", "auto", "nowhere", "new networks"])
def test_f105_what_cannot_be_begun_with_is_refused_before_anything_is_written(
    kind: str, planned_for: Path, weights: Path, shell: Shell
) -> None:
    source, exit_code, code = shell.folder / "source", 4, ""
    more: list[object] = []
    of = architecture(features=FEATURES)
    state = network(of, seed=7).state_dict()
    if kind == "nan":
        state["encoder.stages.0.blocks.0.conv1.conv.weight"][0] = float("nan")
        code = "checkpoint.not-finite"
    file = write_nnssl(source, state, adaptation_plan(of))
    if kind == "half":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        code = "checkpoint.unreadable"
    elif kind == "width":
        more, code = ["--set", "network.width=2"], "pretrained.no-match"
    elif kind == "two starts":
        more, exit_code, code = ["--start-from", weights], 2, "pretrained.two-starts"
    elif kind == "auto":
        source, code = Path("auto"), "pretrained.none-made"
    elif kind == "nowhere":
        source, exit_code, code = shell.folder / "nowhere", 2, "pretrained.unknown-source"
    elif kind == "new networks":
        more, exit_code, code = ["--set", "pseudo_labels.restart_network=true"], 2, "pretrained.not-with-new-networks"
    train = [
        "train",
        "--recipe",
        "tiny.toml",
        "--device",
        "cpu",
        "--workspace",
        planned_for,
        "--pretrained",
        source,
        *more,
    ]
    if kind != "width":
        train += ["--set", "network.width=1"]
    before = files_in(planned_for)
    (problem,) = shell.refusal(*train, code=exit_code)
    assert problem["code"] == code
    assert files_in(planned_for) == before


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--for", "{weights}", "--planner", "resenc-m"], "pretrained.two-plans"),
        (["--pretrained-spacing"], "pretrained.spacing-of-none"),
    ],
)
def test_a_plan_has_one_network(options: list[str], code: str, task: Path, weights: Path, shell: Shell) -> None:
    given = [option.format(weights=weights) for option in options]
    (problem,) = shell.refusal("plan", task, "--workspace", "work", *PLAN_OPTIONS, *given, code=2)
    assert problem["code"] == code


# --- the data set's own pre-training ---


@pytest.fixture(scope="session")
def own_weights(shared_folder: Path, planned_once: Path) -> Path:
    """A workspace in which all images were pre-trained on, for a step or two."""

    def make(folder: Path) -> None:
        work, shell = copy_of(planned_once, folder / "work"), shell_in(folder / "user")
        shell.pclauto(*PRETRAIN, "--workspace", work)

    return made_once(shared_folder / "own_weights", make) / "work"


PRETRAIN = [
    "pretrain", "--recipe", "tiny.toml", "--set", "pretraining.epochs=1", "--set", "pretraining.steps_per_epoch=2",
    "--device", "cpu",
]  # fmt: skip
# Of the recipe's network alone.
PLAIN_TRAIN = ["train", "--recipe", "tiny.toml", "--device", "cpu", "--pretrained", "auto"]


def pretrainings(work: Path) -> list[Path]:
    """Return the folders of all pre-trainings of a workspace."""
    return sorted(record.parent for record in (work / "nnUNet_results").glob("Dataset*/pretraining/*/run.json"))


def test_a_training_begins_with_what_was_made_of_its_images(own_weights: Path, tmp_path: Path) -> None:
    work, shell = copy_of(own_weights, tmp_path / "work"), shell_in(tmp_path / "user")
    (folder,) = pretrainings(work)
    done = shell.pclauto(*PLAIN_TRAIN, "--workspace", work)
    assert f"pretrained {folder} (nnssl" in done.stderr
    record = record_of(work)
    assert record["pretrained"]["digest"] == file_digest(folder / FINAL)
    assert record["pretrained"]["matched_fraction_of_encoder"] == 1
    assert record["pretrained"]["matched_fraction_of_decoder"] == 1


def test_f109_what_has_seen_other_images_is_not_begun_with(own_weights: Path, shell: Shell) -> None:
    # A split that keeps an unlabeled case out, perhaps for a test.
    split = {"labeled": ["phantom_001", "phantom_002"], "unlabeled": ["phantom_003", "phantom_004"]}
    (shell.folder / "split.json").write_text(json.dumps(split))
    train = [*PLAIN_TRAIN, "--workspace", own_weights, "--split", "split.json"]
    (problem,) = shell.refusal(*train, code=4)
    assert problem["code"] == "pretrained.none-made"
    assert "--split" in problem["fix"]


def test_stock_nnunet_trains_from_the_file_and_predicts(own_weights: Path, task: Path, tmp_path: Path) -> None:
    work, shell = copy_of(own_weights, tmp_path / "work"), shell_in(tmp_path / "user")
    (folder,) = pretrainings(work)
    shell.pclauto("train", "--recipe", "tiny.toml", "--workspace", work, "--prepare-only")
    (shell.folder / "short.py").write_text(SHORT_TRAINING)
    done = shell.python(
        "short.py", "99", "3d_fullres", "all", "-p", "nnUNetPlans_L2_all_tiny", "-device", "cpu",
        "-pretrained_weights", folder / FINAL, spawns=False, nnUNet_raw=work / "nnUNet_raw",
        nnUNet_preprocessed=work / "nnUNet_preprocessed", nnUNet_results=work / "nnUNet_results",
        nnUNet_n_proc_DA="0", nnUNet_def_n_proc="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (model,) = (work / "nnUNet_results").glob("Dataset*/nnUNetTrainer__*")
    trained = read_checkpoint(model / "fold_all" / FINAL)["network_weights"]
    file = read_checkpoint(folder / FINAL)["network_weights"]
    for name in ("encoder.stages.1.0.convs.0.conv.weight", "decoder.stages.0.convs.0.conv.weight"):
        assert 0 < (trained[name] - file[name]).norm() < 0.3 * file[name].norm(), name
    scan = min((task / "imagesTs").glob("*.nii.gz"))
    assert stock_mask(shell, model, scan, tmp_path).shape == np.asarray(nibabel.load(scan).dataobj).T.shape[1:]


@pytest.mark.slow
def test_a_benchmark_pre_trains_once_without_its_test_cases(planned_once: Path, task: Path, tmp_path: Path) -> None:
    work, shell = copy_of(planned_once, tmp_path / "work"), shell_in(tmp_path / "user")
    (shell.folder / "base.toml").write_text('extends = "tiny.toml"\n[pretraining]\nepochs = 1\nsteps_per_epoch = 2\n')
    (shell.folder / "own.toml").write_text('extends = "tiny.toml"\n[pretrained]\nsource = "auto"\n')
    command = ["benchmark", task, "--workspace", work, "--labeled", "1", "--draws", "1", "--device", "cpu",
               "--test-cases", "1", "--base-recipe", "base.toml", "--folder", "held"]  # fmt: skip
    shell.pclauto(*command, "--arms", "nnunet,own.toml")
    runs = {file.stem: json.loads(file.read_text()) for file in (shell.folder / "held" / "runs").iterdir()}
    (folder,) = pretrainings(work)
    seen = json.loads((folder / "run.json").read_text())["images"]
    scored = {case["id"] for run in runs.values() for case in run["cases"]}
    assert seen
    assert not scored & seen.keys()
    begun = json.loads((Path(runs["own_L1_s0"]["model"]) / "fold_all" / "run.json").read_text())
    assert begun["pretrained"]["digest"] == file_digest(folder / FINAL)
    assert "pretrained" not in json.loads((Path(runs["nnunet_L1_s0"]["model"]) / "fold_all" / "run.json").read_text())

    # Every arm, and the same weights: nothing is made a second time.
    made = (folder / FINAL).stat().st_mtime_ns
    shell.pclauto(*command[:-1], "all", "--arms", "nnunet", "--pretrained", "auto")
    (only,) = (shell.folder / "all" / "runs").iterdir()
    begun = json.loads((Path(json.loads(only.read_text())["model"]) / "fold_all" / "run.json").read_text())
    assert begun["pretrained"]["digest"] == file_digest(folder / FINAL)
    assert pretrainings(work) == [folder]
    assert (folder / FINAL).stat().st_mtime_ns == made


@pytest.mark.slow
def test_a_benchmark_refuses_weights_that_have_seen_its_tests(own_weights: Path, task: Path, shell: Shell) -> None:
    (folder,) = pretrainings(own_weights)
    (shell.folder / "named.toml").write_text(f'extends = "tiny.toml"\n[pretrained]\nsource = "{folder}"\n')
    command = ["benchmark", task, "--workspace", own_weights, "--labeled", "1", "--draws", "1", "--device", "cpu",
               "--test-cases", "1", "--base-recipe", "tiny.toml", "--folder", "seen"]  # fmt: skip
    for more in (["--arms", "nnunet", "--pretrained", folder], ["--arms", "named.toml"]):
        (problem,) = shell.refusal(*command, *more, code=2)
        assert problem["code"] == "benchmark.tests-seen"
        assert "phantom_00" in problem["found"]


def test_a_checkpoint_that_changes_after_it_was_found_is_refused(
    planned_for: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = copy_of(planned_for, tmp_path / "work")
    source = copy_of(weights, tmp_path / "source")
    of = architecture(features=FEATURES)
    request = TrainRequest(
        labeled=2, recipe=str(shell_in(tmp_path / "user").folder / "tiny.toml"), device="cpu",
        settings=("network.width=1",), pretrained=str(source),
    )  # fmt: skip
    leave_alone(monkeypatch)
    workspace = Workspace.at(work, "test")
    runs = resolve_runs(request, workspace)

    def replaced_after(event: str, _values: dict[str, Any]) -> None:
        if event == "split":
            write_nnssl(source, network(of, seed=8).state_dict(), adaptation_plan(of))

    with refused(StateError, "pretrained.changed"):
        train_runs(runs, request, workspace, replaced_after)
    # It was known before anything was begun, too.
    with refused(StateError, "pretrained.changed"):
        train_runs(runs, request, workspace, silent)


def test_a_trainer_that_was_given_no_weights_does_not_train(
    planned_for: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = copy_of(planned_for, tmp_path / "work")
    request = TrainRequest(
        labeled=2, recipe=str(shell_in(tmp_path / "user").folder / "tiny.toml"), device="cpu",
        settings=("network.width=1",), pretrained=str(weights), supervised_only=True,
    )  # fmt: skip
    leave_alone(monkeypatch)
    monkeypatch.setattr("pcl_auto.nnunet.training.trainer.nnUNetTrainerPCLSupervised.begin_with", lambda *_: None)
    with refused(StateError, "pretrained.not-given"):
        train_runs(resolve_runs(request, Workspace.at(work, "test")), request, Workspace.at(work, "test"), silent)


def test_nnunets_own_command_does_not_train_without_the_weights(pretrained: Path, tmp_path: Path) -> None:
    work, shell = copy_of(pretrained, tmp_path / "work"), shell_in(tmp_path / "user")
    model = folder_of(work).parent
    shutil.rmtree(model)
    trainer, plans, configuration = model.name.split("__")
    code = "from nnunetv2.run.run_training import run_training_entry; run_training_entry()"
    done = shell.python(
        "-c", code, "99", configuration, "all", "-p", plans, "-tr", trainer, "-device", "cpu", spawns=False,
        nnUNet_raw=work / "nnUNet_raw", nnUNet_preprocessed=work / "nnUNet_preprocessed",
        nnUNet_results=work / "nnUNet_results", nnUNet_n_proc_DA="0", nnUNet_def_n_proc="1",
        nnUNet_extTrainer=str(EXTENSION_FOLDER),
    )  # fmt: skip
    assert done.returncode != 0
    assert "the run is to begin with pretrained weights, and has none" in done.stderr + done.stdout


@pytest.mark.slow
def test_a_benchmark_begins_every_arm_with_the_weights(
    planned_for: Path, weights: Path, task: Path, tmp_path: Path
) -> None:
    work, shell = copy_of(planned_for, tmp_path / "work"), shell_in(tmp_path / "user")
    (shell.folder / "base.toml").write_text('extends = "tiny.toml"\n[network]\nwidth = 1.0\n')
    command = ["benchmark", task, "--workspace", work, "--labeled", "2", "--draws", "1", "--device", "cpu",
               "--base-recipe", "base.toml", "--arms", "nnunet,self_training", "--folder", "out"]  # fmt: skip
    shell.pclauto(*command, "--pretrained", weights)
    runs = [json.loads(file.read_text()) for file in (shell.folder / "out" / "runs").iterdir()]
    assert len(runs) == 2
    for run in runs:
        assert run["settings"]["pretrained"] == file_digest(weights / FINAL)
        begun = json.loads((Path(run["model"]) / "fold_all" / "run.json").read_text())
        assert begun["pretrained"]["digest"] == file_digest(weights / FINAL)
    # With other weights, or none, these are runs of another study.
    problems = shell.refusal(*command, code=4)
    assert {problem["code"] for problem in problems} == {"run.settings-changed"}
