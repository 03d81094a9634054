"""Print every table of the study from its rows alone; with --write, put tables and figures into README and docs too.

    make table
    python benchmarks/study/study_table.py --costs

Rows of recipes that have changed since are left out, and counted. Figures on confirmation scans stand beside those of
the same recipe alone.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT), str(Path(__file__).resolve().parent)]

from setting_effects import find_effects
from study_list import ALL, Dataset, StudyList, StudyRun, read_list
from study_rows import RowFiles, RunRows

from pcl_auto.benchmark.arms import BASELINE_ARMS
from pcl_auto.benchmark.table import ArmResults, Row, count_labels, decimals, find_ceiling, p_text, summarize
from pcl_auto.errors import PclautoError
from pcl_auto.evaluation.statistics import Comparison, Interval, compare_arms, explain_no_verdict, mean
from pcl_auto.recipe.write import toml_value
from pcl_auto.workspace.files import write_text

TITLES = {"hippocampus": "hippocampus", "acdc": "ACDC, 2D", "left_atrium": "left atrium"}
ARM_TITLES = {
    "nnunet": "nnU-Net",
    "nnunet_no_mirroring": "nnU-Net, not mirrored",
    "nnunet_symmetric": "nnU-Net, mirrored along symmetric axes",
    "default": "**pclauto, `default`**",
    "self_training": "self-training",
    "paper": "the paper's method",
}
README, DOCS = CHECKOUT / "README.md", CHECKOUT / "docs" / "benchmark.md"
ABLATION, RECIPES = CHECKOUT / "docs" / "ablation.md", CHECKOUT / "docs" / "recipes.md"
# Settings compared by networks that a CPU trains by the dozen.
SMALL_LIST, SMALL_RESULTS = CHECKOUT / "benchmarks" / "small_study.toml", CHECKOUT / "benchmarks" / "small_results"
FIGURE = CHECKOUT / "docs" / "images" / "dice_two_labels.svg"
# The comparison that README tells of, and more labels than any data set has.
LABELED, ALL_LABELS = 2, 10**9


@dataclass(frozen=True)
class Table:
    """All arms on one data set with every number of labels, scored on one kind of scans.

    ``note``: what the list says of the data set's confirmation scans.
    """

    dataset: str
    scans: str
    cases: int
    rows: tuple[Row, ...]
    by_draw: Mapping[tuple[str, int], Mapping[int, float]]
    note: str = ""

    @property
    def title(self) -> str:
        """Title of the data set."""
        return TITLES.get(self.dataset, self.dataset)

    def with_labels(self, labeled: int) -> list[Row]:
        """Return the rows of one number of labels."""
        return [row for row in self.rows if row.labeled == labeled]


def current(listed: StudyList, found: Mapping[StudyRun, RunRows]) -> tuple[list[RunRows], int]:
    """Return the runs of recipes as they are now, and how many runs are of others."""
    digests = listed.current_digests()
    runs = [entry for run, entry in found.items() if digests.get((run.dataset, run.arm)) == run.recipe_digest]
    return runs, len(found) - len(runs)


def without_settings(runs: Sequence[RunRows], listed: StudyList) -> list[RunRows]:
    """Return the runs of arms that stand in the tables of all arms; single settings have a page of their own."""
    return [entry for entry in runs if entry.run.arm not in listed.settings]


def make_tables(runs: Sequence[RunRows], datasets: Mapping[str, Dataset]) -> list[Table]:
    """Sort the runs into tables, in the order of the data sets."""
    order = list(datasets)
    groups: dict[tuple[str, str], dict[tuple[str, int], dict[int, RunRows]]] = defaultdict(lambda: defaultdict(dict))
    for entry in runs:
        labeled = ALL_LABELS if entry.run.labels == ALL else int(entry.run.labels)
        groups[entry.run.dataset, entry.run.scans][entry.run.arm, labeled][entry.run.draw] = entry
    tables = []
    for dataset, scans in sorted(groups, key=lambda key: (key[1] != "development", order.index(key[0]))):
        arms = groups[dataset, scans]
        results = [
            ArmResults(
                arm=arm,
                labeled=labeled,
                dice={draw: by_draw[draw].dice for draw in sorted(by_draw)},
                hd95_mm={draw: by_draw[draw].hd95_mm for draw in sorted(by_draw)},
                baseline=arm in BASELINE_ARMS,
                all_labels=labeled == ALL_LABELS,
                seconds=mean(entry.seconds for entry in by_draw.values()),
            )
            for (arm, labeled), by_draw in sorted(arms.items(), key=lambda item: (item[0][1], _place(item[0][0])))
        ]
        by_draw = {
            (entry.arm, entry.labeled): {draw: mean(cases.values()) for draw, cases in entry.dice.items()}
            for entry in results
        }
        cases = len(next(iter(next(iter(arms.values())).values())).dice)
        note = datasets[dataset].note if scans == "confirmation" else ""
        tables.append(Table(dataset, scans, cases, tuple(summarize(results)), by_draw, note))
    return tables


def _place(arm: str) -> tuple[int, str]:
    """Return what orders the arms: baselines, the default, then the others by name."""
    return ([*BASELINE_ARMS, "default"].index(arm) if arm in (*BASELINE_ARMS, "default") else 9, arm)


def labels_text(labeled: int) -> str:
    """Return a number of labels in words."""
    return "all labels" if labeled == ALL_LABELS else count_labels(labeled)


def interval(found: Interval) -> str:
    """Format an interval; empty where there is none."""
    return "" if math.isnan(found.low) else f" [{decimals(found.low, '+')}, {decimals(found.high, '+')}]"


def render(table: Table) -> list[str]:
    """Render a table in Markdown, a part for each number of labels."""
    lines = [f"## {table.title}: {table.cases} {table.scans} scans", "", *([table.note, ""] if table.note else [])]
    for labeled in sorted({row.labeled for row in table.rows}):
        rows = table.with_labels(labeled)
        baselines = [row.arm for row in rows if row.baseline]
        compared = any(row.comparisons for row in rows)
        head = ["arm", "draws", "Dice ± sd", "HD95 mm"]
        head += [*(f"Δ {base}" for base in baselines), "p to the best", "gap closed"] if compared else []
        lines += [f"**{labels_text(labeled)}**", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        for row in rows:
            dice = _with_sd(row)
            cells = [f"`{row.arm}`", str(row.dice.draws), dice, f"{row.hd95_mm.mean:.2f}"]
            if compared:
                found = [row.comparisons.get(base) for base in baselines]
                cells += [
                    "" if entry is None else f"{decimals(entry.difference, '+')}{interval(entry.t_interval)}"
                    for entry in found
                ]
                best = row.to_best
                cells.append("" if best is None or math.isnan(best.p_holm) else p_text(best.p_holm))
                cells.append("" if math.isnan(row.gap_closed) else f"{row.gap_closed:.0%}")
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", *(f"- {row.sentence}" for row in rows if row.sentence), ""]
    return lines


def summary(tables: Sequence[Table]) -> list[str]:
    """Render arms over data sets at two labels, on development scans."""
    chosen = [table for table in tables if table.scans == "development" and table.with_labels(LABELED)]
    if not chosen:
        return ["No runs yet."]
    arms = sorted({row.arm for table in chosen for row in table.with_labels(LABELED)}, key=_place)
    head = [f"{table.title} ({table.cases} scans)" for table in chosen]
    lines = [
        f"| {labels_text(LABELED)}: Dice ± sd over draws (draws) | {' | '.join(head)} |",
        f"|---|{'---|' * len(head)}",
    ]
    for arm in arms:
        found = [next((row for row in table.with_labels(LABELED) if row.arm == arm), None) for table in chosen]
        lines.append(f"| {ARM_TITLES.get(arm, f'`{arm}`')} | {' | '.join(map(_cell, found))} |")
    ceilings = [find_ceiling(table.rows) for table in chosen]
    if any(ceilings):
        lines.append(f"| the best nnU-Net with all labels | {' | '.join(map(_cell, ceilings))} |")
    return lines


def gains(tables: Sequence[Table]) -> list[str]:
    """Render the list of README: what the default gains over the best baseline at two labels."""
    lines = []
    for table in tables:
        for row in table.with_labels(LABELED) if table.scans == "development" else []:
            if row.arm == "default" and row.to_best is not None:
                gain = f"{decimals(row.to_best.difference, '+')}{interval(row.to_best.t_interval)}"
                gain += f" over the strongest baseline, `{row.best_baseline}`"
                lines.append(f"- {table.title}: {gain}; {_verdict(row)}.")
    return lines


def ablation(runs: Sequence[RunRows], settings: Sequence[str], datasets: Mapping[str, Dataset]) -> list[str]:
    """Render what each setting changes in the default, at two labels, on development scans, paired by draw."""
    scores: dict[str, dict[str, dict[int, Mapping[str, float]]]] = defaultdict(lambda: defaultdict(dict))
    for entry in runs:
        run = entry.run
        if (run.labels, run.scans) == (str(LABELED), "development"):
            scores[run.dataset][run.arm][run.draw] = entry.dice
    chosen = [name for name in datasets if "default" in scores[name]]
    compared = {
        name: compare_arms({arm: scores[name][arm] for arm in settings if arm in scores[name]}, scores[name]["default"])
        for name in chosen
    }
    lines = [
        f"| Dice of the arm minus that of `default` | {' | '.join(TITLES.get(name, name) for name in chosen)} |",
        f"|---|{'---|' * len(chosen)}",
    ]
    cells = {arm: [_change(compared[name].get(arm)) for name in chosen] for arm in settings}
    lines += [f"| `{arm}` | {' | '.join(found)} |" for arm, found in cells.items() if any(found)]
    if unknown := [f"`{arm}`" for arm, found in cells.items() if not any(found)]:
        lines += ["", f"Not measured yet: {', '.join(unknown)}."]
    return lines


def _change(found: Comparison | None) -> str:
    if found is None:
        return ""
    return f"{decimals(found.difference, '+')}{interval(found.t_interval)} ({found.draws})"


def measured_effects(runs: Sequence[RunRows], listed: StudyList) -> list[str]:
    """Render what each setting changes by itself, wherever two arms differ in nothing else."""
    lines = ["| setting | from → to | data set | labels | draws | difference in Dice |", "|---|---|---|---|---|---|"]
    order = sorted({entry.run.arm for entry in runs}, key=_place)
    for each in find_effects(runs, listed, order):
        values = " → ".join(f"`{toml_value(value)}`" for value in each.values)
        difference = f"{decimals(each.found.difference, '+')}{interval(each.found.t_interval)}"
        lines.append(
            f"| `{each.setting.name}` | {values} (`{each.arms[0]}` → `{each.arms[1]}`) "
            f"| {TITLES.get(each.dataset, each.dataset)} | {each.labels} | {each.found.draws} | {difference} |"
        )
    return lines


def _verdict(row: Row) -> str:
    """Say in a few words how a recipe stands against all baselines."""
    if row.verdict == "no verdict":
        draws = [found.draws for found in row.comparisons.values()]
        text = explain_no_verdict(min(draws))
        return text if min(draws) == max(draws) else text.replace("no verdict:", "no verdict: one baseline has")
    # Some baseline may not have been run.
    better = "every baseline" if row.comparisons.keys() == BASELINE_ARMS.keys() else ", ".join(row.comparisons)
    # An interval of one comparison may exclude 0 where p, adjusted for the number of recipes, says too little.
    least_sure = p_text(max(found.p_holm for found in row.comparisons.values()))
    words = {
        "better": f"better than {better}",
        "worse": "worse than a baseline",
        "no clear difference": f"no clear difference (p {least_sure})",
    }
    return words.get(str(row.verdict), str(row.verdict))


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{_with_sd(row)} ({row.dice.draws})"


def _with_sd(row: Row) -> str:
    """Return the mean Dice of an arm and the standard deviation over its draws; one draw has none."""
    sd = "" if math.isnan(row.dice.sd) else f" ± {decimals(row.dice.sd)}"
    return f"{decimals(row.dice.mean)}{sd}"


def costs(runs: Sequence[RunRows]) -> list[str]:
    """Tell the hours of training by data set, arm and device."""
    hours: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for entry in runs:
        hours[entry.run.dataset, entry.run.arm, entry.device].append(entry.seconds / 3600)
    lines = []
    for (dataset, arm, device), found in sorted(hours.items()):
        total = math.fsum(found)
        each = f"{total:.2f} h, {60 * total / len(found):.1f} min each"
        lines.append(f"{dataset}  {arm}  {device}: {len(found)} runs, {each}")
    return lines


def between(text: str, name: str, content: Sequence[str]) -> str:
    """Put ``content`` between the marks of the table ``name`` in a Markdown file.

    Raises:
        ValueError: the file has no such marks.
    """
    begin, end = f"<!-- {name}: made by `make table` -->", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, found_too, after = rest.partition(end)
    if not found or not found_too:
        raise ValueError(f"no marks {begin} … {end}")
    body = "\n".join(content).strip()
    return f"{before}{begin}\n\n{body}\n\n{end}{after}"


def small_ablation() -> list[str]:
    """Render what settings, and nnU-Net alone, change where small networks train."""
    listed = read_list(SMALL_LIST)
    runs, _ = current(listed, RowFiles(SMALL_RESULTS).read())
    return ablation(runs, [*listed.settings, *BASELINE_ARMS], listed.datasets)


def documents(
    tables: Sequence[Table], of_settings: Sequence[str], of_small: Sequence[str], of_effects: Sequence[str]
) -> dict[Path, str]:
    """Return README and the pages on the benchmark and on settings with their tables as the rows have them."""
    pages: dict[Path, dict[str, Sequence[str]]] = {
        README: {"study": gains(tables)},
        DOCS: {"summary": summary(tables), "tables": [line for table in tables for line in render(table)]},
        ABLATION: {"settings": of_settings, "settings, small networks": of_small},
        RECIPES: {"measured effects": of_effects},
    }
    texts = {}
    for file, parts in pages.items():
        text = file.read_text(encoding="utf-8")
        for name, content in parts.items():
            text = between(text, name, content)
        texts[file] = text
    return texts


def draw(tables: Sequence[Table], target: Path) -> None:
    """Draw the Dice of every draw at two labels, a panel for each data set, to the SVG ``target``."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from pcl_auto.workspace.atomic import atomic_path

    chosen = [table for table in tables if table.scans == "development" and table.with_labels(LABELED)]
    if not chosen:
        return
    arms = sorted({row.arm for table in chosen for row in table.with_labels(LABELED)}, key=_place)[::-1]
    figure = Figure(figsize=(2.6 * len(chosen) + 1.8, 0.32 * len(arms) + 1.1), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(1, len(chosen), squeeze=False)[0]
    for panel, table in zip(panels, chosen, strict=True):
        rows = {row.arm: row for row in table.with_labels(LABELED)}
        for height, arm in enumerate(arms):
            if arm in rows:
                color = "#c2410c" if arm == "default" else "#64748b" if arm in BASELINE_ARMS else "#0f766e"
                dice = list(table.by_draw[arm, LABELED].values())
                panel.plot(dice, [height] * len(dice), "o", color=color, alpha=0.35, markersize=4)
                panel.plot([rows[arm].dice.mean], [height], "|", color=color, markersize=14, markeredgewidth=2.5)
        panel.set_yticks(range(len(arms)), arms if panel is panels[0] else [""] * len(arms))
        panel.set_ylim(-0.6, len(arms) - 0.4)
        if (ceiling := find_ceiling(table.rows)) is not None:
            panel.axvline(ceiling.dice.mean, linestyle="--", color="#94a3b8", linewidth=1)
        panel.set_title(table.title, fontsize=10)
        panel.set_xlabel("mean Dice of a draw")
        panel.grid(visible=True, axis="x", alpha=0.3)
        panel.xaxis.set_major_locator(MaxNLocator(4))
    target.parent.mkdir(parents=True, exist_ok=True)
    # The same rows give the same file.
    with mpl.rc_context({"svg.hashsalt": "pclauto", "svg.fonttype": "none"}), atomic_path(target) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=CHECKOUT / "benchmarks" / "results")
    parser.add_argument("--list", type=Path, default=CHECKOUT / "benchmarks" / "study.toml")
    parser.add_argument("--write", action="store_true", help="write tables and figures into README and docs")
    parser.add_argument("--costs", action="store_true", help="tell what the runs took")
    given = parser.parse_args(arguments)
    try:
        listed = read_list(given.list)
        found = RowFiles(given.results).read()
        of_small = small_ablation()
    except PclautoError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return error.exit_code
    runs, others = current(listed, found)
    tables = make_tables(without_settings(runs, listed), listed.datasets)
    of_settings = ablation(runs, listed.settings, listed.datasets)
    print("\n".join([*summary(tables), "", *of_settings, "", "Small networks:", "", *of_small, ""]))
    print("\n".join(line for table in tables for line in render(table)))
    if given.costs:
        print("\n".join(costs(runs)))
    missing = [run for run in listed.runs() if run not in found]
    print(f"{len(runs)} runs; {len(missing)} are missing" + (f"; {others} of other recipes left out" if others else ""))
    if given.write:
        for file, text in documents(tables, of_settings, of_small, measured_effects(runs, listed)).items():
            write_text(file, text)
        draw(tables, FIGURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
