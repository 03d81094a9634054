"""Splits: what is refused, and what a draw promises."""

from __future__ import annotations

import json
import random
import re
from itertools import pairwise
from typing import Any

import pytest
from refusal import refused

from pcl_auto.data.split import (
    Correction,
    Split,
    choose_split,
    cross_validation,
    draw_split,
    from_dict,
    with_corrections,
)
from pcl_auto.errors import StateError, UsageError

WITH_LABEL = [f"case_{number:02d}" for number in range(10)]
WITHOUT_LABEL = [f"scan_{number}" for number in range(4)]


def draw(**options: Any) -> Split:
    return draw_split(WITH_LABEL, WITHOUT_LABEL, **{"labeled": 2, **options})


def choose(*labeled: str, validation: tuple[str, ...] = (), **options: Any) -> Split:
    return choose_split(WITH_LABEL, WITHOUT_LABEL, labeled=labeled, validation=validation, **options)


@pytest.mark.parametrize(
    ("labeled", "validation"),
    [(0, 0), (-1, 0), (11, 0), (9, 2), (10, 1), (2, -1), (None, 10), (None, 11), (None, -1)],
)
def test_more_or_fewer_labels_than_there_are(labeled: int | None, validation: int) -> None:
    with refused(UsageError, "split.too-few-labeled") as refusal:
        draw(labeled=labeled, validation=validation)
    assert refusal.problem.expected == "1 to 10 together"


@pytest.mark.parametrize("labeled", [None, 1])
def test_a_task_without_labels(labeled: int | None) -> None:
    with refused(UsageError, "split.too-few-labeled"):
        draw_split([], WITHOUT_LABEL, labeled=labeled)


def test_every_wrong_choice_is_reported_at_once() -> None:
    with refused(UsageError, "split.case-twice", "split.unknown-case", "split.unlabeled-case") as refusal:
        choose("case_00", "scan_1", "nobody", validation=("case_00", "scan_2", "no one"))
    assert [(problem.code, problem.what.split("'")[1]) for problem in refusal.problems] == [
        ("split.unlabeled-case", "scan_1"),
        ("split.unknown-case", "nobody"),
        ("split.unlabeled-case", "scan_2"),
        ("split.unknown-case", "no one"),
        ("split.case-twice", "case_00"),
    ]


def test_f72_cases_in_several_groups_or_twice_in_one() -> None:
    with refused(UsageError, "split.case-twice") as refusal:
        choose("case_00", "case_01", "case_01", unlabeled=("case_00", "scan_0", "scan_0", "case_02"))
    found = {problem.what.split("'")[1]: problem.found for problem in refusal.problems}
    assert found == {
        "case_00": "labeled, unlabeled",
        "case_01": "labeled, labeled",
        "scan_0": "unlabeled, unlabeled",
    }
    with refused(UsageError, "split.unknown-case"):
        choose("case_00", unlabeled=("nobody",))


def test_f72_unlabeled_cases_that_are_named_are_all_there_are() -> None:
    everything = choose("case_00", validation=("case_01",))
    others = [case for case in (*WITH_LABEL, *WITHOUT_LABEL) if case not in ("case_00", "case_01")]
    assert choose("case_00", validation=("case_01",), unlabeled=others) == everything
    few = choose("case_00", validation=("case_01",), unlabeled=("scan_2", "case_05"))
    assert (few.unlabeled, few.hidden) == (("case_05", "scan_2"), ("case_05",))
    assert few.name.startswith("L1_V1_U2_c")
    assert len({few.name, everything.name, choose("case_00", validation=("case_01",), unlabeled=("scan_2",)).name}) == 3
    assert choose("case_00", unlabeled=()).unlabeled == ()


def test_a_choice_without_labeled_cases() -> None:
    with refused(UsageError, "split.no-labeled"):
        choose(validation=("case_00",))


@pytest.mark.parametrize(
    "split",
    [
        draw(),
        draw(labeled=1, validation=3, seed=7),
        draw(labeled=None),
        draw(labeled=None, validation=2),
        choose("case_03", "case_01", validation=("case_09",)),
    ],
    ids=lambda split: split.name,
)
def test_every_case_has_one_place(split: Split) -> None:
    groups = [*split.labeled, *split.validation, *split.unlabeled]
    assert sorted(groups) == sorted([*WITH_LABEL, *WITHOUT_LABEL])
    assert set(split.hidden) == set(split.unlabeled) & set(WITH_LABEL)
    assert set(WITHOUT_LABEL) <= set(split.unlabeled)
    for group in (split.labeled, split.validation, split.unlabeled, split.hidden):
        assert list(group) == sorted(set(group))


@pytest.mark.parametrize("seed", range(5))
def test_fewer_labels_are_a_subset_of_more(seed: int) -> None:
    drawn = [set(draw(labeled=count, seed=seed).labeled) for count in range(1, 11)]
    assert [len(labeled) for labeled in drawn] == list(range(1, 11))
    assert all(few < many for few, many in pairwise(drawn))


def test_unlabeled_cases_do_not_change_the_draw() -> None:
    more = draw_split(WITH_LABEL, [*WITHOUT_LABEL, "a_new_scan"], labeled=2, validation=2)
    before = draw(validation=2)
    assert (more.name, more.labeled, more.validation) == (before.name, before.labeled, before.validation)
    assert set(more.unlabeled) == {*before.unlabeled, "a_new_scan"}


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_input_does_not_matter(seed: int) -> None:
    shuffled = random.Random(seed)
    with_label, without_label = WITH_LABEL.copy(), WITHOUT_LABEL.copy()
    shuffled.shuffle(with_label)
    shuffled.shuffle(without_label)
    assert draw_split(with_label, without_label, labeled=3, validation=1, seed=5) == draw(
        labeled=3, validation=1, seed=5
    )


def test_seeds_draw_different_cases() -> None:
    assert len({draw(seed=seed).labeled for seed in range(20)}) > 10
    assert draw(seed=3) == draw(seed=3)


def test_a_draw_stays_what_it_was() -> None:
    # Written down on purpose: a change here silently changes everyone's splits.
    assert draw(seed=0).labeled == ("case_04", "case_06")


def test_without_a_number_all_labels_that_validation_leaves() -> None:
    assert draw(labeled=None).labeled == tuple(WITH_LABEL)
    assert draw(labeled=None).hidden == ()
    held_out = draw(labeled=None, validation=3)
    assert (len(held_out.labeled), len(held_out.validation)) == (7, 3)


NAMED = [
    draw(),
    draw(seed=1),
    draw(labeled=3),
    draw(validation=1),
    draw(validation=2),
    draw(labeled=8, validation=2),
    draw(labeled=8, validation=2, seed=1),
    draw(labeled=None),
    draw(labeled=None, seed=1),
    choose("case_00", "case_01"),
    choose("case_00", "case_02"),
    choose("case_00", "case_01", validation=("case_02",)),
    choose("case_00", "case_01", "case_02"),
    choose("case_00", "case_01", seed=1),
]


def test_different_splits_have_different_names() -> None:
    assert len({split.name for split in NAMED}) == len(NAMED)


@pytest.mark.parametrize("split", NAMED, ids=lambda split: split.name)
def test_a_name_fits_into_file_names_and_nnunet_folders(split: Split) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_]{1,40}", split.name)
    assert "__" not in split.name  # nnU-Net's separator


@pytest.mark.parametrize(("labeled", "name"), [(2, "L2_s0"), (10, "L10_all"), (None, "L10_all")])
def test_the_names_that_people_type(labeled: int | None, name: str) -> None:
    assert draw(labeled=labeled).name == name


def test_a_choice_is_the_same_however_it_is_written() -> None:
    assert choose("case_01", "case_00") == choose("case_00", "case_01")
    assert choose("case_00", name="mine").name == "mine"


@pytest.mark.parametrize("split", NAMED, ids=lambda split: split.name)
def test_a_split_survives_json(split: Split) -> None:
    written = split.as_dict()
    read = json.loads(json.dumps(written))
    assert read == written  # plain values: a run that goes on compares the two
    assert from_dict(read) == split


def test_validation_cases_do_not_depend_on_the_number_of_labels() -> None:
    drawn = [draw(labeled=count, validation=2, seed=5).validation for count in (1, 2, 4)]
    assert len(set(drawn)) == 1


@pytest.mark.parametrize(("cases", "folds"), [(2, 2), (7, 3), (10, 5), (5, 5)])
def test_every_case_is_held_out_once(cases: int, folds: int) -> None:
    names = [f"case_{index}" for index in range(cases)]
    made = cross_validation(names, folds)
    assert sorted(case for _, held_out in made for case in held_out) == sorted(names)
    for learned_from, held_out in made:
        assert sorted([*learned_from, *held_out]) == sorted(names)
        assert len(held_out) in (cases // folds, -(-cases // folds))
    assert cross_validation(names[::-1], folds) == made


@pytest.mark.parametrize(("cases", "folds"), [(2, 3), (1, 2), (5, 1), (0, 2)])
def test_folds_that_the_cases_do_not_allow(cases: int, folds: int) -> None:
    with refused(UsageError, "split.fold-count") as refusal:
        cross_validation([f"case_{index}" for index in range(cases)], folds)
    assert refusal.problem.where == "--folds"


def test_corrected_cases_are_labeled_and_on_record() -> None:
    split = draw_split(["a", "b", "c"], ["d", "e"], labeled=1, seed=0)
    hidden = split.hidden[0]
    first = with_corrections(split, [Correction("d", "1" * 64, split.name, "model", 3)])
    second = with_corrections(first, [Correction(hidden, "2" * 64, first.name, "model2", 1)])
    assert second.labeled == tuple(sorted({*split.labeled, "d", hidden}))
    assert set(second.unlabeled) == {*split.unlabeled} - {"d", hidden}
    assert hidden not in second.hidden
    assert second.corrected == {"d": "1" * 64, hidden: "2" * 64}
    assert [entry.case for entry in second.history] == ["d", hidden]
    assert second.name.startswith(f"{split.name}_plus2_")
    assert len({split.name, first.name, second.name}) == 3
    assert from_dict(second.as_dict()) == second
    assert "history" not in split.as_dict()  # as splits were written before there were corrections


def test_the_last_correction_of_a_case_counts() -> None:
    split = draw_split(["a", "b"], ["d"], labeled=1, seed=0)
    once, twice = (Correction("d", digit * 64, split.name, "model", 1) for digit in "12")
    assert with_corrections(with_corrections(split, [once]), [twice]).corrected == {"d": "2" * 64}


def test_labels_that_a_split_keeps_closed_are_not_handed_out() -> None:
    split = draw_split(["a", "b", "c", "d"], ["u"], labeled=1, validation=1, seed=0)
    split.refuse_closed_labels([*split.labeled, *split.validation])
    for case in (split.hidden[0], "u", "unknown"):
        with pytest.raises(ValueError, match=case):
            split.refuse_closed_labels([*split.labeled, case])


@pytest.mark.parametrize("values", [[], {}, {"labeled": 3}, "history"])
@pytest.mark.parametrize("history", [None, [{"case": "../a"}], [3], {"a": 1}])
def test_f72_a_record_that_is_no_split(values: Any, history: Any) -> None:
    content = {**draw_split(["a", "b"], ["c"], labeled=1).as_dict(), "history": history}
    with refused(StateError, "split.record-unreadable"):
        from_dict(values if history is None else content)
