"""Measure what registration makes of two labels before any network: Dice on development scans, and what tells it.

    python benchmarks/registered_labels.py WORKSPACE --scored benchmarks/results/hippocampus_development.csv

WORKSPACE is one in which the data set of the study is planned. For each draw of labeled cases, labels are carried over
to the first of the scans that the study scores, as `pseudo_labels.start = "registration"` does. Printed is, by draw:

- the mean Dice, and how far the two labeled cases agree, which is all that a training knows;
- how many scans agree enough to be learned from, and their Dice;
- from the study, nnU-Net's Dice on all of these scans, and on those that agree.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from time import monotonic

import numpy as np
import torch

from pcl_auto.benchmark.draws import draw_labeled
from pcl_auto.data.labels import all_values, foreground
from pcl_auto.method.atlas_fusion import Atlas, fuse_atlases
from pcl_auto.method.label_maps import mean_dice
from pcl_auto.nnunet.environment import prepare_environment
from pcl_auto.planning.plan import Plan, PlannedCase, read_plan
from pcl_auto.recipe.settings import Registration
from pcl_auto.workspace.folders import Workspace


def main() -> None:
    """Print a line for each draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--scored", type=Path, required=True, help="rows of the study on this data set")
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--cases", type=int, default=10)
    chosen = parser.parse_args()
    prepare_environment()
    with chosen.scored.open() as file:
        rows = list(csv.DictReader(file))
    scored = sorted({row["case"] for row in rows})
    plan = read_plan(Workspace.find(chosen.workspace).dataset(None))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print("draw  Dice   agreement  used  their Dice  nnU-Net       s a scan")
    for draw in range(chosen.draws):
        nnunet = {row["case"]: float(row["dice"]) for row in rows if _is_plain(row, draw)}
        print(_line(plan, scored, draw, scored[: chosen.cases], nnunet, device), flush=True)


def _is_plain(row: dict[str, str], draw: int) -> bool:
    return (row["arm"], row["labels"], row["draw"]) == ("nnunet", "2", str(draw))


def _line(
    plan: Plan, scored: list[str], draw: int, scans: list[str], nnunet: dict[str, float], device: torch.device
) -> str:
    labels = plan.dataset_json["labels"]
    classes, values = foreground(labels), all_values(labels)
    split = draw_labeled(plan, scored, labeled=2, draw=draw)
    atlases = [_read(plan, plan.cases[case], device) for case in split.labeled]
    together, agreed, seconds = [], [], 0.0
    for case in scans:
        target = _read(plan, plan.cases[case], device)
        begun = monotonic()
        found = fuse_atlases(target.scan, atlases, values, classes)
        seconds += (monotonic() - begun) / len(scans)
        together.append(mean_dice(found.labels, target.labels, classes))
        agreed.append(found.agreement or 0.0)
    used = np.array(agreed) >= Registration().min_agreement
    plain = np.array([nnunet.get(case, np.nan) for case in scans])
    of_used = f"{np.mean(np.array(together)[used]):.3f}" if used.any() else "    -"
    nnunet_of_used = f"{plain.mean():.3f}, {plain[used].mean() if used.any() else np.nan:.3f}"
    return (
        f"{draw:>4}  {np.mean(together):.3f}  {np.mean(agreed):.3f}      {used.mean():4.0%}  "
        f"{of_used:<10}  {nnunet_of_used:<14}  {seconds:.1f}"
    )


def _read(plan: Plan, case: PlannedCase, device: torch.device) -> Atlas:
    """Read a case with its label as nnU-Net preprocesses it."""
    from pcl_auto.nnunet.data.store import Preprocessing
    from pcl_auto.nnunet.data.stored_scans import scan_of

    how = Preprocessing(plan.nnunet, plan.configuration, plan.dataset_json)
    image, seg, properties = how.run(case.files, case.label)
    scan = scan_of(image, properties, plan.nnunet["transpose_forward"], device)
    return Atlas(scan, np.maximum(seg[0], 0))


if __name__ == "__main__":
    main()
