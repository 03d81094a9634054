"""The method, written as slowly and obviously as its equations: plain loops over plain numbers.

Equations are those of Chaitanya et al., MedIA 2023, arXiv 2112.09645. A group is a pair (image, class);
``groups`` maps it to its rows of ``embeddings``, the anchors first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pcl_auto.recipe.settings import Schedule
    from pcl_auto.recipe.time_budget import Costs

Vector = Sequence[float]
Groups = dict[tuple[int, int], list[int]]


def class_voxels(flat_labels: Sequence[Sequence[int]], n_classes: int) -> Groups:
    """S_c(x): the flat voxel indices of class c + 1 in every image x."""
    groups: Groups = {}
    for image, labels in enumerate(flat_labels):
        for voxel, label in enumerate(labels):
            if 1 <= label <= n_classes:
                groups.setdefault((image, label - 1), []).append(voxel)
    return groups


def sampled_groups(image: Sequence[int], cls: Sequence[int], rank: Sequence[int]) -> Groups:
    """Rows of a sample by group, in order of rank."""
    groups: Groups = {}
    for row in sorted(range(len(rank)), key=lambda row: rank[row]):
        groups.setdefault((image[row], cls[row]), []).append(row)
    return groups


def class_mean(embeddings: Sequence[Vector], rows: Sequence[int]) -> list[float]:
    return [sum(embeddings[row][d] for row in rows) / len(rows) for d in range(len(embeddings[0]))]


def cosine(a: Vector, b: Vector) -> float:
    norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / norms


def anchor_loss(anchor: Vector, positive: Vector, terms: Sequence[Vector], temperature: float) -> float:
    """Eq. 4."""
    denominator = sum(math.exp(cosine(anchor, term) / temperature) for term in terms)
    return -math.log(math.exp(cosine(anchor, positive) / temperature) / denominator)


def pair_loss(
    embeddings: Sequence[Vector], groups: Groups, x: int, other: int, n_anchors: int, temperature: float
) -> float:
    """Eq. 3 for one pair of images; ``other == x`` is the intra case."""
    means = {group: class_mean(embeddings, rows) for group, rows in groups.items()}
    terms = [mean for (image, _), mean in means.items() if image in {x, other}]
    of_classes = []
    for (image, cls), rows in groups.items():
        if image != x:
            continue
        positives = [means[group] for group in {(x, cls), (other, cls)} if group in means]
        of_anchors = []
        for row in rows[:n_anchors]:
            losses = [anchor_loss(embeddings[row], positive, terms, temperature) for positive in positives]
            of_anchors.append(sum(losses) / len(losses))
        of_classes.append(sum(of_anchors) / len(of_anchors))
    return sum(of_classes) / len(of_classes)


def contrastive_loss(
    embeddings: Sequence[Vector], groups: Groups, n_anchors: int, temperature: float, matching: str
) -> float:
    """The mean over pairs, second term of Eq. 2; 0 where there is no pair."""
    images = sorted({image for image, _ in groups})
    if matching == "intra":
        pairs = [(x, x) for x in images]
    else:
        pairs = [(x, other) for x in images for other in images if x != other]
    losses = [pair_loss(embeddings, groups, x, other, n_anchors, temperature) for x, other in pairs]
    return sum(losses) / len(losses) if losses else 0.0


def training_seconds(schedule: Schedule, costs: Costs) -> float:
    """Return what a training takes, step by step."""
    seconds = 0.0
    validation = max(1, round(schedule.steps_per_epoch * (0.2 if costs.held_out else 0.04)))
    for _fold in range(costs.folds):
        seconds += costs.begin_s
        stages = ["supervised"] * schedule.supervised_epochs
        for _round in range(schedule.rounds):
            seconds += costs.round_s
            stages += ["joint"] * schedule.epochs_per_round
        for stage in stages:
            for _step in range(schedule.steps_per_epoch):
                seconds += costs.supervised_step_s if stage == "supervised" else costs.joint_step_s
            for _step in range(validation):
                seconds += costs.validation_step_s
            seconds += costs.epoch_s
    return seconds + costs.end_s


def diverse_batch(features: Sequence[Vector], labeled: Sequence[Vector], weights: Vector, number: int) -> list[int]:
    """Choose one by one what to label: weight times distance to the nearest that is labeled or chosen."""
    chosen: list[int] = []
    while len(chosen) < min(number, len(features)):
        best, best_score = -1, (-1.0, -1.0)
        for row, feature in enumerate(features):
            if row in chosen:
                continue
            centers = [*labeled, *(features[other] for other in chosen)]
            score = (weights[row] * min(math.dist(feature, center) for center in centers), weights[row])
            if score > best_score:
                best, best_score = row, score
        chosen.append(best)
    return chosen


def standing(values: Vector) -> list[float]:
    """The mean place of each known value among those that are known, over their number."""
    known = sorted(value for value in values if not math.isnan(value))
    found = []
    for value in values:
        places = [place for place, other in enumerate(known, 1) if other == value]
        found.append(sum(places) / len(places) / len(known) if places else math.nan)
    return found
