"""Compare the pseudo-labels of every round with the labels that the split had hidden: what do rounds teach?

    python benchmarks/pseudo_label_drift.py WORKSPACE MODEL --cases 20

MODEL is a finished training of WORKSPACE, or one that still runs, begun with --labeled on a data set that has more
labels. Printed is, by round, over cases and classes: Dice, volume in true volumes, recall, and connected components.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from pcl_auto.data.labels import foreground
from pcl_auto.method.label_maps import class_mask, component_sizes
from pcl_auto.nnunet.data.cases import StoredCases
from pcl_auto.nnunet.data.pseudo_label_files import read_labels, round_folder
from pcl_auto.nnunet.environment import prepare_environment
from pcl_auto.planning.plan import Plan, read_plan
from pcl_auto.workspace.folders import Workspace


def main(arguments: list[str] | None = None) -> None:
    """Print a line for each round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--cases", type=int, default=20)
    chosen = parser.parse_args(arguments)
    prepare_environment()
    plan = read_plan(Workspace.find(chosen.workspace).dataset(None))
    (run,) = chosen.model.glob("fold_*")
    truth: dict[str, np.ndarray] = {}
    print("round  cases  Dice   volume  recall  components")
    for number in range(1, 1 + sum(1 for _ in (run / "pseudo_labels").glob("round_[1-9]*"))):
        folder = round_folder(run, number).cases
        labeled = [case for case in StoredCases.get_identifiers(str(folder)) if plan.cases[case].label is not None]
        cases = sorted(labeled)[: chosen.cases]
        for case in cases:
            if case not in truth:
                truth[case] = read_truth(plan, case)
        rows = [row for case in cases for row in compare(read_labels(folder, case), truth[case], plan)]
        if rows:
            dice, volume, recall, components = np.mean(rows, axis=0)
            print(
                f"{number:>5}  {len(cases):>5}  {dice:.3f}  {volume:6.2f}  {recall:6.2f}  {components:10.1f}",
                flush=True,
            )


def read_truth(plan: Plan, case: str) -> np.ndarray:
    """Read the label of a case as nnU-Net preprocesses it, shape (z, y, x)."""
    from pcl_auto.nnunet.data.store import Preprocessing

    how = Preprocessing(plan.nnunet, plan.configuration, plan.dataset_json)
    _, seg, _ = how.run(plan.cases[case].files, plan.cases[case].label)
    truth: np.ndarray = np.maximum(seg[0], 0)
    return truth


def compare(found: np.ndarray, truth: np.ndarray, plan: Plan) -> list[tuple[float, float, float, float]]:
    """Return Dice, volume ratio, recall and components of each class that the label shows."""
    rows: list[tuple[float, float, float, float]] = []
    for values in foreground(plan.dataset_json["labels"]).values():
        ours, theirs = class_mask(found, values), class_mask(truth, values)
        both, size, of_truth = (np.count_nonzero(mask) for mask in (ours & theirs, ours, theirs))
        if of_truth:
            pieces = len(component_sizes(ours))
            rows.append((2 * both / (size + of_truth), size / of_truth, both / of_truth, float(pieces)))
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
