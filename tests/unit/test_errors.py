"""Errors: what they say, what they carry, and how they travel."""

from __future__ import annotations

import pickle

import pytest

from pcl_auto import errors
from pcl_auto.errors import PclautoError, Problem

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PclautoError)]
FIRST = Problem(code="data.image", what="no image", where="a.nii", fix="restore it", expected="a file", found="nothing")
SECOND = Problem(code="data.label", what="no label", where="b.nii", fix="restore it")


def test_every_kind_has_an_exit_code_of_its_own() -> None:
    assert sorted(kind.exit_code for kind in KINDS) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_carries_every_problem(kind: type[PclautoError]) -> None:
    error = kind([FIRST, SECOND])
    assert error.problems == (FIRST, SECOND)
    assert str(error).splitlines() == [str(FIRST), str(SECOND)]


def test_one_problem_needs_no_list() -> None:
    assert PclautoError(FIRST).problems == (FIRST,)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_comes_back_whole_from_a_worker_process(kind: type[PclautoError]) -> None:
    error = pickle.loads(pickle.dumps(kind([FIRST, SECOND])))
    assert type(error) is kind
    assert error.problems == (FIRST, SECOND)
    assert error.exit_code == kind.exit_code


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        (
            {"where": "a.nii", "expected": "3", "found": "4"},
            "wrong size in a.nii: expected 3, found 4. Fix: crop it.",
        ),
        ({"where": "a.nii", "found": "4"}, "wrong size in a.nii: found 4. Fix: crop it."),
        ({"where": "a.nii"}, "wrong size in a.nii. Fix: crop it."),
        ({"where": ""}, "wrong size. Fix: crop it."),
    ],
)
def test_a_problem_is_one_sentence(parts: dict[str, str], sentence: str) -> None:
    assert str(Problem("data.size", what="wrong size", fix="crop it", **parts)) == sentence
    assert str(Problem("data.size", what="wrong size", fix="crop it.", **parts)) == sentence


def test_a_problem_as_plain_strings() -> None:
    assert FIRST.as_dict() == {
        "code": "data.image",
        "what": "no image",
        "where": "a.nii",
        "fix": "restore it",
        "expected": "a file",
        "found": "nothing",
    }
    assert next(iter(FIRST.as_dict())) == "code"


@pytest.mark.parametrize("code", ["data.truncated", "dataset-json.duplicate-key", "a.b.c-4", "nifti1.not-2"])
def test_a_code_is_an_area_and_a_slug(code: str) -> None:
    assert Problem(code, "bad", "a.nii", "mend it").code == code


@pytest.mark.parametrize(
    "code",
    ["", "data", "data.", ".data", "Data.size", "data.a_b", "data.-a", "data..a", "data.size\n", "what is wrong"],
)
def test_what_is_no_code_is_refused(code: str) -> None:
    with pytest.raises(ValueError, match="not a code"):
        Problem(code, "bad", "a.nii", "mend it")
