"""The plan file: which are refused, and what its names depend on."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from refusal import refused

from pcl_auto.errors import StateError, UsageError
from pcl_auto.planning import plan as module
from pcl_auto.planning.make_plan import choose_configuration, name_preprocessor, neutral_intensities
from pcl_auto.planning.plan import (
    SCHEMA_VERSION,
    Plan,
    PlanSettings,
    read_plan,
    store_key,
    write_plan,
)
from pcl_auto.workspace.files import read_json
from pcl_auto.workspace.folders import DatasetFolder


def nnunet_plans(scheme: str = "ZScoreNormalization") -> dict[str, Any]:
    configuration = {
        "spacing": [2.0, 1.0, 1.0],
        "patch_size": [8, 32, 32],
        "batch_size": 4,
        "normalization_schemes": [scheme, "ZScoreNormalization"],
        "use_mask_for_norm": [False, False],
        "resampling_fn_data": "resample",
        "resampling_fn_data_kwargs": {"order": 3},
    }
    return {
        "dataset_name": "Dataset005_Prostate",
        "transpose_forward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": neutral_intensities(2),
        "configurations": {"2d": configuration, "3d_fullres": copy.deepcopy(configuration)},
    }


def content(**changes: Any) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "task": {"root": "task", "name": "Prostate", "number": 5},
        "settings": PlanSettings(memory_gb=4.0).as_dict(),
        "configuration": "3d_fullres",
        "cases": {
            "a": {
                "image": "imagesTr/a.nii.gz",
                "label": "labelsTr/a.nii.gz",
                "source": "training",
                "size": 10,
                "mtime_ns": 20,
                "shape": [5, 6, 7],
            },
            "b": {
                "image": "imagesUn/b.nii",
                "label": None,
                "source": "imagesUn",
                "size": 1,
                "mtime_ns": 2,
                "shape": [1, 1, 1],
            },
        },
        "dataset_json": {"channel_names": {"0": "T2", "1": "ADC"}},
        "fingerprint": {"spacings": []},
        "nnunet_plans": nnunet_plans(),
        **changes,
    }


@pytest.fixture
def data(tmp_path: Path) -> DatasetFolder:
    return DatasetFolder(tmp_path / "Dataset005_Prostate")


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, "1", None])
def test_a_plan_of_another_version(data: DatasetFolder, version: Any) -> None:
    write_plan(data, content(schema_version=version))
    with refused(StateError, "plan.other-version") as refusal:
        read_plan(data)
    assert refusal.problem.where == str(data.plan_file)


def test_a_configuration_that_was_not_planned() -> None:
    with refused(UsageError, "plan.unknown-configuration") as refusal:
        Plan(content()).configuration_named("3d_lowres")
    assert "3d_lowres" in refusal.problem.what
    assert refusal.problem.expected == "2d | 3d_fullres"


def patches(names: Iterable[str], shape: tuple[int, ...] = (12, 32, 32)) -> dict[str, Any]:
    """Patches of ``shape``, half of the median image along each axis."""
    median = [2 * size for size in shape]
    return {name: {"patch_size": shape, "median_image_size_in_voxels": median} for name in names}


def test_patches_that_are_too_thin_for_3d() -> None:
    planned = {**patches(["2d"], (32, 32)), **patches(["3d_fullres"], (3, 32, 32))}
    chosen, reason = choose_configuration("auto", planned, "here")
    assert chosen == "2d"
    assert "3 voxels thin" in reason
    with refused(UsageError, "plan.patch-too-thin") as refusal:
        choose_configuration("3d_fullres", planned, "here")
    assert refusal.problem.found == "3"
    assert "--configuration 2d" in refusal.problem.fix


@pytest.mark.parametrize(
    ("wanted", "planned", "reason"),
    [
        ("3d_lowres", ["2d", "3d_fullres"], "less than a quarter"),
        ("3d_fullres", ["2d"], "single slice"),
        ("3d_cascade_fullres", ["2d", "3d_fullres"], "cascades are not trained"),
        ("4d", ["2d"], ""),
    ],
)
def test_a_configuration_that_the_data_do_not_allow(wanted: str, planned: list[str], reason: str) -> None:
    with refused(UsageError, "plan.unknown-configuration") as refusal:
        choose_configuration(wanted, patches(planned), "Dataset005_Prostate")
    assert wanted in refusal.problem.what
    problem = refusal.problem
    assert problem.expected == " | ".join(planned)
    assert reason in problem.found


def test_a_plan_comes_back_as_it_was_written(data: DatasetFolder) -> None:
    written = write_plan(data, content())
    assert read_plan(data) == written == Plan(content())
    assert read_json(data.path / "dataset.json") == content()["dataset_json"]
    assert read_json(data.path / "dataset_fingerprint.json") == content()["fingerprint"]


def test_the_plan_itself_is_written_last(data: DatasetFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    monkeypatch.setattr(module, "write_json", lambda path, _value: written.append(path))
    write_plan(data, content())
    assert written[-1] == data.plan_file


def test_what_a_plan_says_of_its_cases() -> None:
    cases = Plan(content()).cases
    assert (cases["a"].image, cases["a"].label) == (Path("task/imagesTr/a.nii.gz"), Path("task/labelsTr/a.nii.gz"))
    assert cases["a"].shape == (5, 6, 7)
    assert cases["b"].label is None
    assert [case.id for case in cases.values()] == ["a", "b"]


def test_what_a_plan_says_of_itself() -> None:
    plan = Plan(content())
    assert plan.settings == PlanSettings(memory_gb=4.0)
    assert plan.root == Path("task")
    assert plan.dataset_json["channel_names"] == {"0": "T2", "1": "ADC"}


@pytest.mark.parametrize(("name", "taken"), [(None, "3d_fullres"), ("auto", "3d_fullres"), ("2d", "2d")])
def test_a_configuration_by_name(name: str | None, taken: str) -> None:
    assert Plan(content()).configuration_named(name) == taken


def test_only_ct_waits_for_labels() -> None:
    assert not Plan(content()).depends_on_labels("3d_fullres")
    assert Plan(content(nnunet_plans=nnunet_plans("CTNormalization"))).depends_on_labels("3d_fullres")


@pytest.mark.parametrize(
    ("wanted", "planned", "taken"),
    [
        ("auto", ["2d", "3d_fullres", "3d_lowres"], "3d_fullres"),
        ("auto", ["2d"], "2d"),
        ("2d", ["2d", "3d_fullres"], "2d"),
        ("3d_lowres", ["2d", "3d_fullres", "3d_lowres"], "3d_lowres"),
    ],
)
def test_the_configuration_and_why(wanted: str, planned: list[str], taken: str) -> None:
    chosen, reason = choose_configuration(wanted, patches(planned), "here")
    assert chosen == taken
    assert reason
    # An eighth of the image, said of both where there is a choice to make.
    assert reason.count("12%") == (2 if wanted == "auto" and "3d_lowres" in planned else 0)


def test_neutral_intensities_stand_alone() -> None:
    first, second = neutral_intensities(2).values()
    assert first == second
    first["mean"] = 7.0
    assert second["mean"] == neutral_intensities(1)["0"]["mean"] == 0.0


@pytest.mark.parametrize("key", ["patch_size", "batch_size"])
def test_the_store_is_shared_whatever_the_network(key: str) -> None:
    other = nnunet_plans()
    other["configurations"]["3d_fullres"][key] = 99
    assert store_key(other, "3d_fullres") == store_key(nnunet_plans(), "3d_fullres")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("spacing", [2.0, 1.0, 1.1]),
        ("normalization_schemes", ["ZScoreNormalization", "RescaleTo01Normalization"]),
        ("use_mask_for_norm", [True, False]),
        ("resampling_fn_data", "other"),
        ("resampling_fn_data_kwargs", {"order": 1}),
        ("resampling_fn_seg", "resample_torch_fornnunet"),
    ],
)
def test_the_store_changes_with_the_preprocessing(key: str, value: Any) -> None:
    other = nnunet_plans()
    other["configurations"]["3d_fullres"][key] = value
    assert store_key(other, "3d_fullres") != store_key(nnunet_plans(), "3d_fullres")


def test_the_store_changes_with_the_axes_and_has_the_configurations_name() -> None:
    plans = nnunet_plans()
    keys = {store_key(plans, "2d"), store_key(plans, "3d_fullres")}
    plans["transpose_forward"] = [2, 0, 1]
    keys |= {store_key(plans, "2d"), store_key(plans, "3d_fullres")}
    assert len(keys) == 4
    assert all(key.startswith(("2d_", "3d_fullres_")) for key in keys)


@pytest.mark.parametrize(
    ("scheme", "channel", "own_store"),
    [("ZScoreNormalization", "0", False), ("CTNormalization", "0", True), ("CTNormalization", "1", False)],
)
def test_intensities_of_labels_count_where_ct_is_normalized_with_them(
    scheme: str, channel: str, own_store: bool
) -> None:
    before, after = nnunet_plans(scheme), nnunet_plans(scheme)
    after["foreground_intensity_properties_per_channel"][channel]["mean"] = 55.0
    assert (store_key(before, "3d_fullres") != store_key(after, "3d_fullres")) is own_store


def test_bias_correction_has_a_store_of_its_own() -> None:
    plans, stock = nnunet_plans(), nnunet_plans()
    stock["configurations"]["3d_fullres"]["preprocessor_name"] = "DefaultPreprocessor"
    assert store_key(stock, "3d_fullres") == store_key(plans, "3d_fullres")
    name_preprocessor(plans, "BiasCorrectingPreprocessor")
    assert {entry["preprocessor_name"] for entry in plans["configurations"].values()} == {"BiasCorrectingPreprocessor"}
    assert store_key(plans, "3d_fullres") != store_key(stock, "3d_fullres")


def test_bias_correction_of_ct_is_refused() -> None:
    with refused(UsageError, "plan.ct-bias-correction") as refusal:
        name_preprocessor(nnunet_plans("CTNormalization"), "BiasCorrectingPreprocessor")
    assert refusal.problem.where == "--bias-correction"


def test_cases_that_are_not_in_the_plan() -> None:
    plan = Plan(content())
    plan.require(["a", "b"])
    with refused(StateError, "plan.unknown-case") as refusal:
        plan.require(["a", "../x", "z"])
    assert refusal.problem.found == "../x, z"


@pytest.mark.parametrize(
    "change",
    [
        {"cases": {"../x": {"image": "a", "label": None, "source": "x", "size": 1, "mtime_ns": 1, "shape": [1]}}},
        {"cases": {"a": {"image": "../a", "label": None, "source": "x", "size": 1, "mtime_ns": 1, "shape": [1]}}},
        {"cases": {"a": {"image": "/a", "label": None, "source": "x", "size": 1, "mtime_ns": 1, "shape": [1]}}},
        {"settings": {"memory_gb": 4.0, "unknown": True}},
    ],
)
def test_a_plan_that_leads_elsewhere_is_refused(data: DatasetFolder, change: dict[str, Any]) -> None:
    write_plan(data, content(**change))
    with refused(StateError, "run.file-senseless"):
        read_plan(data)


@pytest.mark.parametrize("change", [{"cases": []}, {"settings": None}, {"nnunet_plans": {}}, {"configuration": "../x"}])
def test_a_plan_of_another_shape_is_refused(data: DatasetFolder, change: dict[str, Any]) -> None:
    write_plan(data, content(**change))
    with refused(StateError, "run.file-unreadable"):
        read_plan(data)
