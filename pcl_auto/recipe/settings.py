"""Recipes: every setting of a training run, as data that can be read, changed, compared and saved.

A recipe file under ``plans/`` is TOML; its tables are the dataclasses below, its keys their fields. Unknown keys,
wrong types and values out of range are errors that name the key.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from pcl_auto.errors import Problem, UsageError

Matching = Literal["intra", "inter"]
OptimizerName = Literal["sgd", "adam", "adamw"]
LearningRateSchedule = Literal["poly", "constant"]
Mirroring = Literal["all", "symmetric", "unordered", "none"]
StageNetwork = Literal["last", "best_validation"]
PseudoLabelStart = Literal["network", "registration"]
UnlabeledMethod = Literal[
    "pseudo_labels",
    "mean_teacher",
    "uncertainty_mean_teacher",
    "fixmatch",
    "unimatch",
    "cross_supervision",
    "copy_paste_teacher",
]
# Those with an exponential moving average of the network.
EMA_TEACHER_METHODS: tuple[UnlabeledMethod, ...] = ("mean_teacher", "uncertainty_mean_teacher", "copy_paste_teacher")

Range = tuple[float, float]
# nnU-Net's share of validation steps; on cases that were learned from a glance is enough.
VALIDATION_SHARE, GLANCE = 0.2, 0.04


def _setting(default: Any, low: float, high: float) -> Any:
    """Define a numeric field that must lie in ``[low, high]``."""
    return field(default=default, metadata={"range": (low, high)})


@dataclass(frozen=True)
class Schedule:
    """Lengths of the parts of a training; an epoch is ``steps_per_epoch`` optimizer steps."""

    steps_per_epoch: int = _setting(250, 1, 100_000)
    supervised_epochs: int = _setting(400, 0, 100_000)  # 0: the rounds begin with a model that is there already
    rounds: int = _setting(3, 0, 100)  # 0: what the rest of a recipe does without them
    epochs_per_round: int = _setting(200, 1, 100_000)

    @property
    def epochs(self) -> int:
        """Epochs of the whole run, the supervised start and all rounds."""
        return self.supervised_epochs + self.rounds * self.epochs_per_round

    def validation_steps(self, *, held_out: bool) -> int:
        """Return the validation steps of an epoch, on held-out cases or on those that are learned from."""
        return max(1, round(self.steps_per_epoch * (VALIDATION_SHARE if held_out else GLANCE)))

    def scaled_to(self, epochs: int) -> Schedule:
        """Scale the schedule to ``epochs`` epochs: every part keeps its share, none vanishes."""
        if epochs < self.rounds + 1:
            raise UsageError(
                Problem(
                    code="recipe.too-few-epochs",
                    what="too few epochs for the recipe's rounds",
                    where="--epochs",
                    expected=f"at least {self.rounds + 1} (a supervised start and {self.rounds} rounds)",
                    found=str(epochs),
                    fix=f"ask for --epochs {self.rounds + 1} or more",
                )
            )
        if not self.rounds:
            return replace(self, supervised_epochs=epochs)
        share = max(1, round(epochs * self.epochs_per_round / self.epochs))
        start = min(1, self.supervised_epochs)
        per_round = min(share, (epochs - start) // self.rounds)
        return replace(self, supervised_epochs=epochs - self.rounds * per_round, epochs_per_round=per_round)


@dataclass(frozen=True)
class Optimizer:
    """The optimizer of the network and of the contrastive head."""

    name: OptimizerName = "sgd"
    learning_rate: float = _setting(1e-2, 1e-7, 10.0)
    weight_decay: float = _setting(3e-5, 0.0, 1.0)
    # "poly": nnU-Net's polynomial decay of the learning rate over the whole run; "constant": none.
    schedule: LearningRateSchedule = "poly"
    # Share of the run in which the learning rate stays what it is; all of its decay is in the rest.
    flat_share: float = _setting(0.0, 0.0, 0.99)


@dataclass(frozen=True)
class Batch:
    """The patches of one step; in joint rounds part of them come from unlabeled cases."""

    # 0: as many as planned for the memory asked for.
    patches: int = _setting(0, 0, 1024)
    unlabeled_fraction: float = _setting(0.5, 0.05, 0.95)

    def unlabeled(self, patches: int) -> int:
        """Return how many of ``patches`` are unlabeled in a joint step; at least one is, and one is not."""
        return min(max(round(patches * self.unlabeled_fraction), 1), patches - 1)


@dataclass(frozen=True)
class Network:
    """Changes to the planned network."""

    # Share of nnU-Net's feature maps per stage; short runs on a CPU train half of them.
    width: float = _setting(1.0, 0.05, 4.0)


@dataclass(frozen=True)
class Augmentation:
    """Changes to nnU-Net's augmentation of the training patches."""

    # Axes to mirror along, in training and in prediction: "all" as nnU-Net does, "symmetric" those along which a
    # mirrored scan is as near to the other scans as the scan itself, "unordered" those along which the classes of the
    # labeled cases are in no order, "none" as nnUNetTrainerNoMirroring.
    mirroring: Mirroring = "all"
    # Labeled cases in the shape of unlabeled ones, moved to them by registration with their labels, that half of the
    # labeled patches are of in joint training and its supervised start; 0: none.
    warped_cases: int = _setting(0, 0, 100_000)
    # Probability that a patch is deformed elastically, in joint training and its supervised start; nnU-Net's is 0.
    elastic: float = _setting(0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Contrast:
    """The local contrastive loss (Chaitanya et al., MedIA 2023, Eq. 2 to 4)."""

    weight: float = _setting(0.1, 0.0, 100.0)  # λ_cont, Eq. 2
    # Where less than this share of the foreground's border in the labeled cases touches another class, there is hardly
    # anything to tell apart, and the weight is 0.
    min_touching: float = _setting(0.0, 0.0, 1.0)
    temperature: float = _setting(0.1, 1e-3, 100.0)  # τ, Eq. 4
    matching: Matching = "inter"
    anchors: int = _setting(3, 1, 100_000)  # |S̃_c|, Eq. 3: per class and image
    mean_voxels: int = _setting(256, 0, 10_000_000)  # voxels that estimate z̄_c(x); 0: all of them
    # A class that shows fewer of these in a patch is left out there: their mean would weigh as much as any other.
    min_voxels: int = _setting(1, 1, 10_000_000)
    dimensions: int = _setting(16, 2, 4096)  # D, the output of h_φ
    batch_norm: bool = False  # between the two layers of h_φ
    # 3×3 convolutions of the segmentation head g_ξ, which follow where h_φ branches off; the plans of the run get as
    # many more at full resolution, and their memory is beyond what the patches were planned for. 0: h_φ branches off
    # before the last layer, a 1×1 convolution.
    head_convolutions: int = _setting(0, 0, 16)
    # Draw the segmentation head anew at the start of round one; h_φ is new there in any case.
    restart_head: bool = False
    # Every image of a joint step also in a second view, of another brightness and contrast, for this loss alone: a step
    # takes more than twice as long, on a GPU without more memory.
    intensity_views: bool = False


@dataclass(frozen=True)
class PseudoLabels:
    """Segmentation of the unlabeled cases at the start of a round, and its weight in the loss."""

    # Who makes the first ones: the "network", after the supervised epochs; or "registration" of labeled scans to
    # unlabeled ones, to learn from in the supervised epochs already, where the table below finds that it works.
    start: PseudoLabelStart = "network"
    # Test-time mirroring: eight times the cost of a plain prediction in 3D.
    mirroring: bool = True
    # The weights that segment, and that training goes on from: the "last" ones, or of the epochs since the round before
    # began those with the "best_validation" Dice, over patches of the validation cases; the last ones without such.
    network: StageNetwork = "last"
    # Weight of the segmentation loss on pseudo-labeled patches; the paper gives them none.
    segmentation_weight: float = _setting(0.0, 0.0, 10.0)
    # Weight of the Dice term beside cross-entropy in that loss. Where a mask is uncertain, most Dice is had by finding
    # too much, and a round that learns from it finds more.
    dice_weight: float = _setting(1.0, 0.0, 10.0)
    # Divide the sum of both segmentation losses by 1 + that weight: a joint step is as long as one on labels alone.
    divide_loss: bool = False
    # Where the median volume of a class is beyond the mean of the labeled cases divided by this and times this, shift
    # its logit in all cases alike until it is not; below 1 as 1, 0: no shift. Of classes whose labeled volumes differ
    # by more than a factor of four nothing is expected.
    match_volumes: float = _setting(0.0, 0.0, 1000.0)
    # Noisy student: every round begins with a new network, and its learning rate anew,
    restart_network: bool = False
    # and learns from strongly perturbed patches, with channels of its deepest features dropped.
    student_noise: bool = False


@dataclass(frozen=True)
class Registration:
    """Pseudo-labels to begin with: labels of labeled scans, carried over to unlabeled scans by registration."""

    # Unlabeled cases that are labeled so, drawn by the seed, and labeled cases that vote in each of them.
    max_cases: int = _setting(64, 1, 1_000_000)
    atlases: int = _setting(3, 2, 1000)
    # Mean Dice of every two of the voting cases, from which on a case is used. Where fewer than a quarter of the cases
    # come to that, registration does not work for the data set, and the network begins with labels alone.
    min_agreement: float = _setting(0.6, 0.0, 1.0)


@dataclass(frozen=True)
class PseudoLabelFilter:
    """Choose the pseudo-labels of a round by comparing them with the labeled cases."""

    # Leave out the pseudo-labels with a class volume beyond the labeled range, or without a class that every labeled
    # case has.
    drop_outside_range: bool = False
    # The range: from the smallest labeled volume divided by this to the largest times this.
    range_margin: float = _setting(2.0, 1.0, 1000.0)
    # Leave out the pseudo-labels whose Dice to themselves under two random transforms is lower; 0: do not look. The
    # paper's check, at 0.9; three predictions per case instead of one.
    min_agreement: float = _setting(0.0, 0.0, 1.0)
    # Keep one connected component of every class that is in one piece in all labeled cases.
    largest_component: bool = False


@dataclass(frozen=True)
class CollapseGuard:
    """Keep a round from spoiling the network."""

    # Roll back a round that the network comes out of collapsed.
    enabled: bool = True
    # Train a round on labels alone where the median volume of a class in its pseudo-labels lies beyond the labeled
    # volumes divided by this and times this; 0: only where they hold nothing.
    volume_margin: float = _setting(4.0, 0.0, 1000.0)
    # With validation cases: a collapse is a fall of their Dice in a round by more than this.
    validation_drop: float = _setting(0.1, 0.0, 1.0)


@dataclass(frozen=True)
class Mixing:
    """Mixtures of the patches of a step."""

    # Bidirectional copy-paste between the labeled and the pseudo-labeled patches of a joint step.
    copy_paste: bool = False
    box_fraction: float = _setting(0.667, 0.05, 0.95)  # the box's share of every axis
    # No copy-paste where a patch covers less of the median image than this: there a box that changes places teaches
    # that surroundings do not matter.
    min_coverage: float = _setting(0.0, 0.0, 1.0)
    # Copy-paste between the labeled patches of a step on labels alone.
    labeled_copy_paste: bool = False
    # Mixup of the labeled patches of a step on labels alone: λ of Beta(α, α); 0: none.
    mixup_alpha: float = _setting(0.0, 0.0, 100.0)


@dataclass(frozen=True)
class Teacher:
    """An exponential moving average of the network's weights that makes the pseudo-labels."""

    # How many rounds the average looks back, in steps; a share, so that it fits every schedule. 0: no teacher.
    ema_rounds: float = _setting(0.0, 0.0, 100.0)
    # Follow the network from the first step of the supervised epochs, and make the pseudo-labels of round one too.
    from_start: bool = False

    def decay(self, schedule: Schedule) -> float:
        """Return the share of the average that stays in a step."""
        steps = self.ema_rounds * schedule.steps_per_epoch * schedule.epochs_per_round
        return max(0.0, 1 - 1 / steps) if steps else 0.0


@dataclass(frozen=True)
class UnlabeledLoss:
    """The teacher of unlabeled patches in joint steps; docs/methods.md has the papers.

    The pseudo-labels of the round; or, patch by patch, a network of the moment, and then not those.
    """

    method: UnlabeledMethod = "pseudo_labels"
    # All that follows is for a network of the moment.
    weight: float = _setting(1.0, 0.0, 100.0)
    ramp_up: float = _setting(0.0, 0.0, 1.0)  # share of the joint steps in which the weight grows to this
    ema_decay: float = _setting(0.99, 0.0, 0.99999)  # what stays of an EMA teacher in a step
    noise: float = _setting(0.1, 0.0, 10.0)  # on a teacher's images: standard deviation, where the image's is about 1
    noisy_passes: int = _setting(8, 1, 64)  # T, that an uncertainty is the entropy of
    min_confidence: float = _setting(0.95, 0.0, 1.0)  # τ, from which on FixMatch and UniMatch believe a prediction


@dataclass(frozen=True)
class Recipe:
    """All settings of a run but its data, its split and its seed."""

    name: str
    description: str = ""
    schedule: Schedule = Schedule()
    optimizer: Optimizer = Optimizer()
    batch: Batch = Batch()
    network: Network = Network()
    augmentation: Augmentation = Augmentation()
    contrast: Contrast = Contrast()
    pseudo_labels: PseudoLabels = PseudoLabels()
    registration: Registration = Registration()
    pseudo_label_filter: PseudoLabelFilter = PseudoLabelFilter()
    collapse_guard: CollapseGuard = CollapseGuard()
    mixing: Mixing = Mixing()
    teacher: Teacher = Teacher()
    unlabeled_loss: UnlabeledLoss = UnlabeledLoss()

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as plain values; :func:`from_dict` reads it back."""
        return asdict(self)
