"""Make the study's tables from its rows alone, and hold README and docs to them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import study_table
from study_list import Dataset, StudyList, StudyRun, read_list
from study_rows import RowFiles, RunRows

CHECKOUT = Path(__file__).parents[3]
LISTED = read_list(CHECKOUT / "benchmarks" / "study.toml")
DIGESTS = LISTED.current_digests()


def result(arm: str, draw: int, dice: float, *, labels: str = "2", scans: str = "development") -> RunRows:
    """Return the result of a run with the recipe as it is now, a little better on the second of two cases."""
    digest = DIGESTS["hippocampus", arm]
    run = StudyRun(
        "hippocampus", arm, labels, draw, "confirmation" if scans == "confirmation" else "development", digest
    )
    cases = {"a": dice - 0.01, "b": dice + 0.01 + 0.001 * draw}
    return RunRows(run, cases, {"a": 2.0, "b": 3.0}, "c0ffee", "data", "a machine", "cpu", seconds=3600.0)


def tables_of(*results: RunRows) -> list[study_table.Table]:
    runs, _ = study_table.current(LISTED, {entry.run: entry for entry in results})
    return study_table.make_tables(runs, LISTED.datasets)


def study(draws: int) -> list[RunRows]:
    gains = (0.020, 0.024, 0.019, 0.023, 0.021, 0.022)
    made = [result("nnunet", draw, 0.7 + 0.01 * draw) for draw in range(draws)]
    made += [result("nnunet_symmetric", draw, 0.71 + 0.01 * draw) for draw in range(draws)]
    made += [result("default", draw, 0.71 + 0.01 * draw + gains[draw]) for draw in range(draws)]
    return [*made, result("nnunet", 0, 0.8, labels="all"), result("nnunet_symmetric", 0, 0.85, labels="all")]


def test_readme_and_docs_say_what_the_committed_rows_say() -> None:
    """Fails where rows were added, or a recipe changed, without `make table`."""
    runs, _ = study_table.current(LISTED, RowFiles(CHECKOUT / "benchmarks" / "results").read())
    tables = study_table.make_tables(study_table.without_settings(runs, LISTED), LISTED.datasets)
    of_settings = study_table.ablation(runs, LISTED.settings, LISTED.datasets)
    of_effects = study_table.measured_effects(runs, LISTED)
    for file, text in study_table.documents(tables, of_settings, study_table.small_ablation(), of_effects).items():
        assert file.read_text(encoding="utf-8") == text, f"run `make table`: {file.name} is not what the rows say"


def test_a_table_has_every_arm_and_its_verdict() -> None:
    (table,) = tables_of(*study(6))
    text = "\n".join(study_table.render(table))
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| `")] == [
        "`nnunet`", "`nnunet_symmetric`", "`default`", "`nnunet`", "`nnunet_symmetric`",
    ]  # fmt: skip
    row = next(row for row in table.with_labels(2) if row.arm == "default")
    assert row.best_baseline == "nnunet_symmetric"
    assert row.verdict == "better"
    assert row.gap_closed == pytest.approx(0.020 / (0.85 - 0.71), abs=0.01)
    assert "default, 2 labels: better than every baseline" in text
    assert "| 6 | .758" in text


def test_readme_claims_nothing_of_baselines_that_were_not_run() -> None:
    some = study(6)
    (line,) = study_table.gains(tables_of(*some))
    assert line.endswith("; better than nnunet, nnunet_symmetric.")
    some += [result("nnunet_no_mirroring", draw, 0.7 + 0.01 * draw) for draw in range(6)]
    (line,) = study_table.gains(tables_of(*some))
    assert line.endswith("; better than every baseline.")


def test_three_draws_have_no_verdict() -> None:
    (table,) = tables_of(*study(3))
    text = "\n".join([*study_table.render(table), *study_table.gains([table])])
    assert "no verdict: three draws" in text
    assert "better than" not in text


def test_the_summary_has_a_column_for_each_data_set() -> None:
    acdc = [replace(entry, run=replace(entry.run, dataset="acdc")) for entry in study(2)]
    acdc = [replace(entry, run=replace(entry.run, recipe_digest=DIGESTS["acdc", entry.run.arm])) for entry in acdc]
    lines = study_table.summary(tables_of(*study(6), *acdc))
    assert lines[0].count("|") == 4
    assert lines[0].index("hippocampus") < lines[0].index("ACDC")
    ceiling = next(line for line in lines if "all labels" in line)
    assert ".850 (1)" in ceiling
    assert sum(line.startswith("- ") for line in study_table.gains(tables_of(*study(6), *acdc))) == 2


def test_a_setting_is_compared_with_the_default_of_the_same_draws() -> None:
    runs = [*study(3), *(result("warped", draw, 0.75 + 0.01 * draw) for draw in range(2))]
    runs += [result("warped", 0, 0.1, scans="confirmation"), result("warped", 0, 0.1, labels="8")]
    lines = study_table.ablation(runs, ["registration", "warped"], LISTED.datasets)
    assert lines[2].split("|")[1].strip() == "`warped`"
    # .75 - .73 and .76 - .744
    assert lines[2].split("|")[2].strip().startswith("+.018 [")
    assert lines[2].strip().endswith("(2) |")
    assert lines[3:] == ["", "Not measured yet: `registration`."]
    assert "`warped`" not in "\n".join(study_table.summary(tables_of(*study_table.without_settings(runs, LISTED))))


def test_rows_of_another_recipe_are_left_out_and_counted() -> None:
    old = [replace(entry, run=replace(entry.run, recipe_digest="old")) for entry in study(2)]
    found = {entry.run: entry for entry in [*study(6), *old]}
    runs, others = study_table.current(LISTED, found)
    assert (len(runs), others) == (20, 8)


def test_confirmation_stands_apart() -> None:
    tables = tables_of(*study(2), *(result(arm, 0, 0.7, scans="confirmation") for arm in ("nnunet", "default")))
    assert [table.scans for table in tables] == ["development", "confirmation"]
    # What these scans were used for before stands beside their figures.
    assert [LISTED.datasets["hippocampus"].note in study_table.render(table) for table in tables] == [False, True]
    assert study_table.summary(tables[1:]) == ["No runs yet."]


def test_no_rows() -> None:
    assert study_table.make_tables([], {}) == []
    assert study_table.summary([]) == ["No runs yet."]


def test_a_part_between_marks_is_replaced() -> None:
    text = "before\n<!-- x: made by `make table` -->\nold\n<!-- end of x -->\nafter\n"
    assert study_table.between(text, "x", ["| new |", ""]).splitlines() == [
        "before", "<!-- x: made by `make table` -->", "", "| new |", "", "<!-- end of x -->", "after",
    ]  # fmt: skip
    assert study_table.between(study_table.between(text, "x", ["a"]), "x", ["a"]) == study_table.between(
        text, "x", ["a"]
    )
    with pytest.raises(ValueError, match="no marks"):
        study_table.between("nothing", "x", ["new"])


def test_the_figure_is_the_same_for_the_same_rows(tmp_path: Path) -> None:
    for name in ("first.svg", "second.svg"):
        study_table.draw(tables_of(*study(3)), tmp_path / name)
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()
    assert "hippocampus" in (tmp_path / "first.svg").read_text()
    study_table.draw([], tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()


def test_hours_by_arm_and_device() -> None:
    lines = study_table.costs(study(3))
    assert "hippocampus  default  cpu: 3 runs, 3.00 h, 60.0 min each" in lines
    assert math.isclose(sum(float(line.split(", ")[1].split()[0]) for line in lines), 11.0)


def test_the_command_prints_tables_and_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert study_table.main(["--results", str(tmp_path), "--costs"]) == 0
    assert "0 runs; " in capsys.readouterr().out
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    assert study_table.main(["--results", str(tmp_path)]) == 3
    assert "other columns" in capsys.readouterr().err


def test_a_dataset_without_a_title_has_its_name() -> None:
    listed = StudyList(CHECKOUT, {"toy": Dataset("toy", "Task05_Toy", "2d", 1, "quick", 2)}, ())
    assert listed.runs() == []
    (table,) = tables_of(result("nnunet", 0, 0.5))
    assert replace(table, dataset="toy").title == "toy"


def test_effects_are_of_arms_that_differ_in_one_setting_alone() -> None:
    arms = {
        "nnunet": 0.70, "nnunet_symmetric": 0.72, "default": 0.75, "registration": 0.76, "registered_and_warped": 0.7,
    }  # fmt: skip
    results = [result(arm, draw, dice + draw / 100) for arm, dice in arms.items() for draw in range(3)]
    results += [result("no_contrast", 7, 0.8), result("warped", 0, 0.9, scans="confirmation")]
    lines = [line.split(" | ") for line in study_table.measured_effects(results, LISTED)[2:]]
    assert [(line[0], line[1], line[3], line[4]) for line in lines] == [
        ("| `augmentation.mirroring`", '`"all"` → `"symmetric"` (`nnunet` → `nnunet_symmetric`)', "2", "3"),
        ("| `augmentation.warped_cases`", "`64` → `0` (`registered_and_warped` → `registration`)", "2", "3"),
        ("| `pseudo_labels.start`", '`"network"` → `"registration"` (`default` → `registration`)', "2", "3"),
    ]
    assert lines[0][5].startswith("+.020")
    assert lines[2][5].startswith("+.010")


def test_effects_of_no_rows() -> None:
    assert len(study_table.measured_effects([], LISTED)) == 2
