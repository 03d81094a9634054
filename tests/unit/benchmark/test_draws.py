"""Draw labeled cases that show every class together."""

from __future__ import annotations

from itertools import combinations, permutations
from pathlib import Path

from pairs import in_pairs
from refusal import refused
from tiny_labels import write_label

from pcl_auto.benchmark.draws import draw_labeled, show_every_class, values_in
from pcl_auto.data.split import draw_split
from pcl_auto.errors import DataError, UsageError
from pcl_auto.planning.plan import Plan, read_plan
from pcl_auto.workspace.files import read_json, write_json
from pcl_auto.workspace.folders import Workspace

SHOWN = {"a": "", "b": "x", "c": "xy", "d": "yz", "e": "z"}


def test_a_front_shows_every_class_and_the_rest_keeps_its_order() -> None:
    for order in permutations(SHOWN):
        found = show_every_class(order, SHOWN.__getitem__, "xyz")
        assert sorted(found) == sorted(order)
        front = next(number for number in range(6) if {*"xyz"} <= {*"".join(map(SHOWN.__getitem__, found[:number]))})
        # No smaller number of cases could show them all.
        assert front == 2
        assert not any({*"xyz"} <= {*SHOWN[case]} for case in SHOWN)
        assert [case for case in order if case not in found[:front]] == found[front:]


def test_the_first_case_is_the_first_that_shows_the_most() -> None:
    assert show_every_class("abcde", SHOWN.__getitem__, "xyz") == ["c", "d", "a", "b", "e"]
    assert show_every_class("edcba", SHOWN.__getitem__, "xyz") == ["d", "c", "e", "b", "a"]
    assert show_every_class("abcde", SHOWN.__getitem__, "") == [*"abcde"]


def test_no_label_is_asked_for_behind_what_shows_everything() -> None:
    asked: list[str] = []

    def shown(case: str) -> str:
        asked.append(case)
        return "xy" if case in "bc" else "x"

    assert show_every_class("abcd", shown, "xy") == ["b", "a", "c", "d"]
    assert {*asked} == {*"ab"}


def test_a_class_that_no_case_shows() -> None:
    with refused(UsageError, "benchmark.class-never-shown"):
        show_every_class("ab", SHOWN.__getitem__, "xy" + "w")


def plan_of(workspace: Workspace, task: Path, shown: dict[str, tuple[int, ...]]) -> Plan:
    """Return the plan of a task with two classes, whose labels show the values in ``shown``."""
    for case, values in shown.items():
        write_label(task / "labelsTr" / f"{case}.nii.gz", *values)
    file = workspace.dataset(None).plan_file
    content = read_json(file)
    content["dataset_json"]["labels"] = {"background": 0, "organ": 1, "lesion": 2}
    write_json(file, content)
    return read_plan(workspace.dataset(None))


@in_pairs(labeled=[1, 2, 3], draw=list(range(6)), kept_out=["", "a", "ad"], complete=["b", "bc", "bcd"])
def test_draws_show_every_class(
    workspace: Workspace, task: Path, labeled: int, draw: int, kept_out: str, complete: str
) -> None:
    plan = plan_of(workspace, task, {case: (1, 2) if case in complete else (1,) for case in "abcd"})
    with_label = sorted({*"abcd"} - {*kept_out})
    if labeled > len(with_label):
        with refused(UsageError, "split.too-few-labeled"):
            draw_labeled(plan, kept_out, labeled=labeled, draw=draw)
        return
    split = draw_labeled(plan, kept_out, labeled=labeled, draw=draw)
    assert {*split.labeled} & {*complete}
    assert {*split.labeled, *split.unlabeled} == {*"abcdu"} - {*kept_out}
    assert {*split.hidden} == {*with_label} - {*split.labeled}
    plain = draw_split(with_label, ["u"], labeled=labeled, seed=draw)
    if {*plain.labeled} & {*complete} and plain.labeled == split.labeled:
        # Nothing had to be exchanged: the split that `pclauto train` would draw, under its name.
        assert split.name == plain.name + (f"_H{len(kept_out)}" if kept_out else "")
    else:
        assert "every_class" in split.name
    anything = draw_labeled(plan, kept_out, labeled=labeled, draw=draw, every_class=False)
    assert anything.labeled == plain.labeled
    if labeled > 1:
        fewer = draw_labeled(plan, kept_out, labeled=labeled - 1, draw=draw)
        assert {*fewer.labeled} < {*split.labeled}


def test_too_few_labels_for_every_class(workspace: Workspace, task: Path) -> None:
    plan = plan_of(workspace, task, {case: (1 + (case > "b"),) for case in "abcd"})
    for draw in range(3):
        assert {case > "b" for case in draw_labeled(plan, "", labeled=2, draw=draw).labeled} == {True, False}
        with refused(UsageError, "benchmark.too-few-for-every-class"):
            draw_labeled(plan, "", labeled=1, draw=draw)


def test_all_labels_need_no_order(workspace: Workspace, task: Path) -> None:
    plan = plan_of(workspace, task, dict.fromkeys("abcd", (1,)))
    assert draw_labeled(plan, "a", labeled=None, draw=0).labeled == ("b", "c", "d")


def test_draws_differ(workspace: Workspace, task: Path) -> None:
    plan = plan_of(workspace, task, dict.fromkeys("abcd", (1, 2)))
    drawn = {draw_labeled(plan, "", labeled=2, draw=draw).labeled for draw in range(12)}
    assert drawn <= set(combinations("abcd", 2))
    assert len(drawn) > 2


def test_f69_a_label_is_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "a.nii.gz"
    write_label(file, 1)
    assert values_in(file, (0, 1, 2)) == {0, 1}
    other = tmp_path / "b.nii.gz"
    write_label(other, 7)
    with refused(DataError, "label.undeclared-values"):
        values_in(other, (0, 1, 2))
    other.write_bytes(file.read_bytes()[:-9])
    with refused(DataError, "data.truncated"):
        values_in(other, (0, 1))
