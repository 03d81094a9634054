"""Each oddity of a data set, made on purpose, and a sound data set that has none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from refusal import codes

from pcl_auto.data.checks.oddities import examine
from pcl_auto.data.formats.nifti import Volume
from pcl_auto.errors import Problem


def scan(seed: int, channels: int = 1) -> Volume:
    """Make a scan of 1 x 1 x 3 mm that varies as scanners and patients do."""
    draw = np.random.default_rng(seed)
    step = 1 + draw.normal(0, 0.02)
    affine = np.diag([step, step, 3.0, 1.0])
    scale = float(np.exp(draw.normal(0, 0.1)))
    return Volume(
        path=Path(f"{seed}.nii.gz"),
        shape=(64, 64, int(draw.integers(18, 22))),
        channels=channels,
        spacing_mm=(step, step, 3.0),
        affine=tuple(map(tuple, affine.tolist())),
        dtype="int16",
        nonzero_box=((0, 64), (0, 64), (0, 18)),
        constant_channels=(),
        digest=f"digest {seed}",
        quartiles=tuple(
            (base * scale, (base + 100) * scale, (base + 240) * scale) for base in (100.0, 900.0, 30.0)[:channels]
        ),
    )


def groups(channels: int = 1) -> dict[str, dict[str, Volume]]:
    seeds = {"labeled": range(4), "unlabeled": range(4, 16), "test": range(16, 20)}
    return {role: {f"case_{seed}": scan(seed, channels) for seed in numbers} for role, numbers in seeds.items()}


def look(made: dict[str, dict[str, Volume]], *, ct: bool = False) -> tuple[list[Problem], list[Problem]]:
    return examine(made, "Task07_Toy", ct=ct)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ct", [False, True])
def test_a_sound_data_set_has_nothing_to_say(channels: int, ct: bool) -> None:
    assert look(groups(channels), ct=ct) == ([], [])


@pytest.mark.parametrize(
    ("role", "twin", "wrong", "code"),
    [
        ("labeled", "test", True, "data.labeled-twin-in-test"),
        ("unlabeled", "test", False, "data.unlabeled-twin-in-test"),
        ("labeled", "unlabeled", False, "data.twins"),
        ("test", "test", False, "data.twins"),
    ],
)
def test_one_scan_under_two_names(role: str, twin: str, wrong: bool, code: str) -> None:
    made = groups()
    first = next(iter(made[role].values()))
    made[twin]["again"] = replace(first, dtype="float32", path=Path("again.nii"))
    found, warnings = look(made)
    assert (len(found), len(warnings)) == (1, 0) if wrong else (0, 1)
    (problem,) = [*found, *warnings]
    assert problem.code == code
    assert "again" in problem.found
    assert problem.fix


def test_other_axes() -> None:
    made = groups()
    made["unlabeled"]["case_7"] = replace(scan(7), affine=((-1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 3, 0), (0, 0, 0, 1)))
    _, (warning,) = look(made)
    assert (warning.code, warning.expected) == ("data.other-axes", "RAS")
    assert warning.found == "1 of 20 otherwise: case_7 LAS"


def test_swapped_channels() -> None:
    made = groups(3)
    first, second, third = made["unlabeled"]["case_9"].quartiles
    made["unlabeled"]["case_9"] = replace(scan(9, 3), quartiles=(second, first, third))
    _, warnings = look(made)
    (swapped,) = (warning for warning in warnings if warning.code == "data.channels-swapped")
    assert swapped.found == "case_9 (as 1, 0, 2)"


def test_a_scan_with_another_spacing() -> None:
    made = groups()
    made["unlabeled"]["case_5"] = replace(scan(5), spacing_mm=(1.0, 1.0, 30.0))
    _, warnings = look(made)
    assert set(codes(warnings)) == {"data.outlier"}
    assert {warning.what for warning in warnings} == {
        "spacing along z (mm) unlike the other scans",
        "extent along z (mm) unlike the other scans",
    }
    assert all("case_5" in warning.found for warning in warnings)


def test_hounsfield_units_matter_and_the_scale_of_mr_does_not() -> None:
    made = groups()
    made["unlabeled"]["case_5"] = replace(
        scan(5), quartiles=tuple((1e3 * a, 1e3 * b, 1e3 * c) for a, b, c in scan(5).quartiles)
    )
    assert look(made) == ([], [])
    _, warnings = look(made, ct=True)
    assert set(codes(warnings)) == {"data.outlier"}
    assert {warning.what for warning in warnings} == {
        "range of HU unlike the other scans",
        "median HU / 100 unlike the other scans",
    }


def test_labels_from_another_scanner() -> None:
    made = groups()
    made["unlabeled"] = {
        case: replace(each, spacing_mm=(0.5, 0.5, 3.0), quartiles=((0.0, 200.0, 220.0),))
        for case, each in made["unlabeled"].items()
    }
    _, warnings = look(made)
    whats = {warning.what for warning in warnings if warning.code == "data.shifted"}
    assert "spacing along x (mm) of unlabeled scans unlike the labeled ones" in whats
    assert "skew of intensities of unlabeled scans unlike the labeled ones" in whats
    assert not any("of test scans" in what for what in whats)


@pytest.mark.parametrize("labeled", [1, 2])
def test_a_few_labeled_scans_at_the_edge_of_the_others_are_no_shift(labeled: int) -> None:
    made = groups()
    sizes = np.linspace(1.0, 1.4, 16)
    pool = {
        case: replace(each, spacing_mm=(step, 1.0, 3.0))
        for (case, each), step in zip({**made["labeled"], **made["unlabeled"]}.items(), sizes, strict=True)
    }
    cases = list(pool)
    edge = {case: pool[case] for case in cases[:labeled]}
    assert look({"labeled": edge, "unlabeled": {case: pool[case] for case in cases[labeled:]}}) == ([], [])
    # The same scans, were they really of another kind.
    moved = {case: replace(each, spacing_mm=(2.5, 1.0, 3.0)) for case, each in edge.items()}
    _, warnings = look({"labeled": moved, "unlabeled": {case: pool[case] for case in cases[labeled:]}})
    assert set(codes(warnings)) == {"data.shifted"}
    assert "spacing along x (mm) of unlabeled scans unlike the labeled ones" in {w.what for w in warnings}


def test_scans_with_a_channel_less_are_compared_by_the_others() -> None:
    made = groups(2)
    made["unlabeled"]["case_8"] = scan(8)
    assert look(made, ct=True) == ([], [])


def test_a_few_scans_say_nothing_of_what_is_usual() -> None:
    made = {"labeled": {"a": scan(1)}, "unlabeled": {"b": replace(scan(2), spacing_mm=(9.0, 9.0, 9.0))}}
    assert look(made) == ([], [])
