"""The loop of a pre-training on a tiny network: what learns, what stays, how the rate goes, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from pretrained_files import architecture
from refusal import refused

from pcl_auto.errors import NumericalError, StateError
from pcl_auto.nnunet.checkpoint_files import read_checkpoint
from pcl_auto.nnunet.data.store_records import case_files
from pcl_auto.nnunet.pretraining import pretrainer as module
from pcl_auto.nnunet.pretraining.learning_rate import rate_at
from pcl_auto.nnunet.pretraining.network import build_network, decoder_features, without_last_layers
from pcl_auto.nnunet.pretraining.objectives import Stage, stages_of
from pcl_auto.nnunet.pretraining.pretrainer import Pretrainer, PretrainingTask
from pcl_auto.recipe.settings import Pretraining
from pcl_auto.workspace.events import EventLog
from pcl_auto.workspace.run_record import FINAL, LATEST, PREVIOUS

CPU = torch.device("cpu")
SHORT = Pretraining(epochs=2, steps_per_epoch=2, patches=4, dimensions=8)


def configuration(dimensions: int, residual: bool = False) -> dict[str, Any]:
    """Return a configuration of nnU-Net's plans with a network of three small stages."""
    name = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    return {
        "patch_size": [8, 16, 16][-dimensions:],
        "batch_size": 4,
        "spacing": [1.0] * dimensions,
        "normalization_schemes": ["ZScoreNormalization"],
        "architecture": architecture(name, features=(4, 6, 8), dimensions=dimensions).as_plans(),
    }


def task_in(folder: Path, settings: Pretraining, dimensions: int = 3, *, residual: bool = False) -> PretrainingTask:
    """Return a task on three stored images that nothing but their voxels is known of."""
    store = folder / "store"
    if not store.is_dir():
        store.mkdir(parents=True)
        rng = np.random.default_rng(0)
        for case in ("a", "b", "c"):
            image = rng.normal(size=(1, 12, 18, 20)).astype(np.float32)
            blosc2.asarray(image, urlpath=str(case_files(store, case)[0]))
    plans = {"dataset_name": "Dataset001_X", "configurations": {"x": configuration(dimensions, residual)}}
    return PretrainingTask(plans, "x", {"labels": {}}, store, ("a", "b", "c"), settings, 0, folder / "run")


@pytest.fixture(autouse=True)
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take these plans as they are: whole ones are tested with whole data sets."""
    monkeypatch.setattr(module, "require_trusted", lambda *_: None)


def trained(folder: Path, settings: Pretraining, **options: Any) -> tuple[Pretrainer, dict[str, torch.Tensor]]:
    """Pre-train; return the network with its first weights."""
    made = Pretrainer(task_in(folder, settings, **options), CPU, EventLog(folder / "run" / "events.jsonl"))
    before = {name: value.clone() for name, value in made.network.state_dict().items()}
    made.run()
    return made, before


def changed(made: Pretrainer, before: dict[str, torch.Tensor]) -> set[str]:
    now = made.network.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, now[name])}


def parts(names: set[str]) -> set[str]:
    """Shorten names to encoder, transpconvs, stages.0, …; the decoder's name of the encoder is left out."""
    own = [name for name in names if not name.startswith("decoder.encoder.")]
    return {name.split(".")[0] if name.startswith("encoder") else ".".join(name.split(".")[1:3]) for name in own}


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_masked_autoencoding_trains_the_whole_network(tmp_path: Path, dimensions: int, residual: bool) -> None:
    made, before = trained(tmp_path, SHORT, dimensions=dimensions, residual=residual)
    assert parts(changed(made, before)) == {
        "encoder", "stages.0", "stages.1", "transpconvs.0", "transpconvs.1", "seg_layers.1",
    }  # fmt: skip
    assert read_checkpoint(tmp_path / "run" / FINAL)["pclauto"] == {"untrained_decoder_stages": []}


@pytest.mark.parametrize(
    ("residual", "name", "stem"),
    [(False, "PlainConvUNet", "encoder.stages.0"), (True, "ResidualEncoderUNet", "encoder.stem")],
)
def test_the_result_names_its_parts(tmp_path: Path, residual: bool, name: str, stem: str) -> None:
    trained(tmp_path, SHORT, residual=residual)
    content = read_checkpoint(tmp_path / "run" / FINAL)
    described = json.loads((tmp_path / "run" / "adaptation_plan.json").read_text())
    assert content["nnssl_adaptation_plan"] == described
    assert described["architecture_plans"]["arch_class_name"] == name
    assert (described["key_to_encoder"], described["key_to_stem"]) == ("encoder.stages", stem)
    first = [content["network_weights"][f"{key}.weight"] for key in described["keys_to_in_proj"]]
    assert len(first) == 2
    assert torch.equal(*first)
    assert first[0].shape[1] == described["pretrain_num_input_channels"]
    assert any(key.startswith(stem) for key in described["keys_to_in_proj"])
    assert described["key_to_lpe"] is None


@pytest.mark.parametrize("dimensions", [2, 3])
def test_contrast_trains_the_encoder_then_the_first_stages_of_the_decoder(tmp_path: Path, dimensions: int) -> None:
    settings = Pretraining("contrastive", epochs=1, steps_per_epoch=2, patches=4)
    made, before = trained(tmp_path / "global", settings, dimensions=dimensions)
    assert parts(changed(made, before)) == {"encoder"}
    events = [json.loads(line) for line in (tmp_path / "global" / "run" / "events.jsonl").read_text().splitlines()]
    assert [event["stage"] for event in events if event["event"] == "epoch"] == ["global"]

    both = Pretraining("contrastive", epochs=2, steps_per_epoch=2, patches=4)
    made, before = trained(tmp_path / "both", both, dimensions=dimensions)
    assert parts(changed(made, before)) == {"encoder", "stages.0", "transpconvs.0"}
    # What has not learned is said, and not begun with.
    assert read_checkpoint(tmp_path / "global" / "run" / FINAL)["pclauto"] == {"untrained_decoder_stages": [0, 1]}
    assert read_checkpoint(tmp_path / "both" / "run" / FINAL)["pclauto"] == {"untrained_decoder_stages": [1]}
    final = read_checkpoint(tmp_path / "both" / "run" / FINAL)["network_weights"]
    of_global = read_checkpoint(tmp_path / "global" / "run" / FINAL)["network_weights"]
    encoder = [name for name in final if name.startswith("encoder.")]
    assert encoder
    assert all(torch.equal(final[name], of_global[name]) for name in encoder), "local contrast leaves the encoder alone"


def test_stages_of_the_methods() -> None:
    assert stages_of(Pretraining(epochs=7)) == [Stage("masked", 0, 7)]
    assert stages_of(Pretraining("contrastive", epochs=7)) == [Stage("global", 0, 4), Stage("local", 4, 7)]
    assert stages_of(Pretraining("contrastive", epochs=1)) == [Stage("global", 0, 1)]


@pytest.mark.parametrize("stages", [1, 2])
def test_features_of_the_decoder_are_those_of_its_own_pass(stages: int) -> None:
    network: Any = build_network(configuration(2), 1, 0)
    seen: list[torch.Tensor] = []
    network.decoder.stages[stages - 1].register_forward_hook(lambda *given: seen.append(given[-1]))
    image = torch.randn(2, 1, 16, 16)
    network(image)
    assert torch.equal(decoder_features(network, network.encoder(image), stages), seen[0])


def test_the_last_layers_are_left_out_and_aliases_stay() -> None:
    names = set(without_last_layers(build_network(configuration(3), 1, 0).state_dict()))
    assert not any("seg_layers" in name for name in names)
    assert any(name.startswith("decoder.encoder.") for name in names)
    assert any(".all_modules." in name for name in names)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3])
def test_the_rate_grows_then_decays(share: float) -> None:
    steps, highest = 100, 0.01
    rates = [rate_at(step, steps, highest, share) for step in range(steps)]
    warmup = int(steps * share)
    for step, rate in enumerate(rates):
        if step < warmup:
            assert rate == pytest.approx(highest * (step + 1) / (warmup + 1))
        else:
            assert rate == pytest.approx(highest * (1 - (step - warmup) / (steps - warmup)) ** 0.9)
    assert max(rates) == rates[warmup] == highest
    assert 0 < rates[-1] < highest / 10


# --- saved and resumed ----------------------------------------------------------------------------------------


class Stopped(Exception):
    """End a pre-training in the middle."""


def stop_after(epochs: int) -> Any:
    def listen(event: str, values: dict[str, Any]) -> None:
        if event == "step" and values["epoch"] == epochs and values["step"] == 1:
            raise Stopped

    return listen


@pytest.mark.parametrize("method", ["masked", "contrastive"])
@pytest.mark.parametrize("epochs_done", [0, 1, 2, 3])
def test_a_pretraining_that_was_stopped_ends_like_one_that_was_not(
    tmp_path: Path, method: Any, epochs_done: int
) -> None:
    settings = Pretraining(method, epochs=4, steps_per_epoch=2, patches=4, dimensions=8)
    trained(tmp_path / "unbroken", settings)
    task = task_in(tmp_path / "stopped", settings)
    with pytest.raises(Stopped):
        Pretrainer(task, CPU, EventLog(None, stop_after(epochs_done))).run()
    Pretrainer(task, CPU, EventLog(None)).run()
    one, other = ((tmp_path / name / "run" / FINAL).read_bytes() for name in ("unbroken", "stopped"))
    assert one == other
    assert not (tmp_path / "stopped" / "run" / LATEST).exists()
    assert not (tmp_path / "stopped" / "run" / PREVIOUS).exists()


def test_where_the_latest_checkpoint_is_damaged_the_one_before_goes_on(tmp_path: Path) -> None:
    settings = Pretraining(epochs=4, steps_per_epoch=2, patches=4)
    trained(tmp_path / "unbroken", settings)
    task = task_in(tmp_path / "stopped", settings)
    with pytest.raises(Stopped):
        Pretrainer(task, CPU, EventLog(None, stop_after(3))).run()
    (task.folder / LATEST).write_bytes(b"damaged")
    log = task.folder / "events.jsonl"
    Pretrainer(task, CPU, EventLog(log)).run()
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["event"] for event in events][:2] == ["checkpoint_damaged", "resumed"]
    assert events[1]["epoch"] == 2
    assert (task.folder / FINAL).read_bytes() == (tmp_path / "unbroken" / "run" / FINAL).read_bytes()


def test_two_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    task = task_in(tmp_path, Pretraining(epochs=4, steps_per_epoch=2, patches=4))
    with pytest.raises(Stopped):
        Pretrainer(task, CPU, EventLog(None, stop_after(3))).run()
    for name in (LATEST, PREVIOUS):
        (task.folder / name).write_bytes(b"damaged")
    with refused(StateError, "checkpoint.unreadable"):
        Pretrainer(task, CPU, EventLog(None)).run()


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    task = task_in(tmp_path, SHORT)
    other = PretrainingTask(**{**task.__dict__, "seed": 1, "folder": tmp_path / "other"})
    for each in (task, other):
        Pretrainer(each, CPU, EventLog(None)).run()
    assert (task.folder / FINAL).read_bytes() != (other.folder / FINAL).read_bytes()


def test_a_loss_that_is_no_number_ends_it_before_any_checkpoint(tmp_path: Path) -> None:
    task = task_in(tmp_path, SHORT)
    for case in ("a", "b", "c"):
        file = case_files(task.store, case)[0]
        file.unlink()
        blosc2.asarray(np.full((1, 12, 18, 20), np.nan, dtype=np.float32), urlpath=str(file))
    with refused(NumericalError, "number.loss-not-finite") as refusal:
        Pretrainer(task, CPU, EventLog(None)).run()
    assert "pretraining.learning_rate" in refusal.problem.fix
    assert not list(task.folder.glob("*.pth"))
