"""Recipes: every setting of a training run, as data that can be read, changed, compared and saved.

A recipe file under ``plans/`` is TOML; its tables are the dataclasses below, its keys their fields. Unknown keys,
wrong types and values out of range are errors that name the key. What a field does is said in its metadata and nowhere
else: ``pclauto recipes`` prints it, and docs/recipes.md is made from it.
"""

# ruff: noqa: RUF009 (_setting returns a field, as dataclasses.field does)
from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from pcl_auto.errors import Problem, UsageError

Matching = Literal["intra", "inter"]
OptimizerName = Literal["sgd", "adam", "adamw"]
LearningRateSchedule = Literal["poly", "constant"]
Mirroring = Literal["all", "symmetric", "unordered", "none"]
StageNetwork = Literal["last", "best_validation"]
PartOfNetwork = Literal["network", "encoder"]
PretrainingMethod = Literal["masked", "contrastive"]
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


def _setting(default: Any, low: float | None = None, high: float | None = None, *, help: str) -> Any:  # noqa: A002
    """Define a field; a number must lie in ``[low, high]``. ``help`` says its unit and effect, and the paper."""
    limits = {} if low is None or high is None else {"range": (low, high)}
    return field(default=default, metadata={"help": help, **limits})


def range_text(limits: Range) -> str:
    """Return the range of a number in words."""
    return " to ".join(f"{limit:,.0f}" if float(limit).is_integer() else f"{limit:g}" for limit in limits)


@dataclass(frozen=True)
class Schedule:
    """The length of a training: a supervised start on labels alone, then rounds on labels and pseudo-labels."""

    steps_per_epoch: int = _setting(250, 1, 100_000, help="Optimizer steps in an epoch; nnU-Net has 250.")
    supervised_epochs: int = _setting(
        400, 0, 100_000, help="Epochs on labeled cases alone, before the first round. 0: begin with `--start-from`."
    )
    rounds: int = _setting(
        3, 0, 100, help="How often the unlabeled cases are segmented anew and learned from. 0: no joint training."
    )
    epochs_per_round: int = _setting(200, 1, 100_000, help="Epochs of joint training in each round.")

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

    name: OptimizerName = _setting(
        "sgd",
        help="The optimizer: `sgd` is nnU-Net's, with Nesterov momentum 0.99; `adamw` learns faster in short runs.",
    )
    learning_rate: float = _setting(1e-2, 1e-7, 10.0, help="Learning rate of the first step.")
    weight_decay: float = _setting(3e-5, 0.0, 1.0, help="Weight decay; nnU-Net's is 3e-5.")
    schedule: LearningRateSchedule = _setting(
        "poly",
        help="How the learning rate changes: `poly` is nnU-Net's polynomial decay to 0 over the whole run, `constant` "
        "leaves it as it is.",
    )
    flat_share: float = _setting(
        0.0,
        0.0,
        0.99,
        help="Share of the run, from its beginning, in which the learning rate stays as it is; all of its decay is in "
        "the rest.",
    )


@dataclass(frozen=True)
class Pretrained:
    """A start from weights that were trained before, on other scans or for another task (`--pretrained`).

    The other keys of this table have no effect without such weights.
    """

    source: str = _setting(
        "",
        help="Where the weights are: a checkpoint or its folder, of nnssl (OpenMind), nnU-Net or pclauto; "
        "`hf://OWNER/NAME`, with `@REVISION` behind it; or `auto`, those that `pclauto pretrain` made of this data "
        "set last. Empty: none. The option `--pretrained` goes before it.",
    )
    decoder: bool = _setting(
        default=True, help="Take the stages of the decoder too, where they fit and the file has them."
    )
    rate_factor: float = _setting(
        0.1,
        1e-4,
        10.0,
        help="Factor on `optimizer.learning_rate`: weights that know something change more slowly than random ones.",
    )
    rate_of: PartOfNetwork = _setting(
        "network", help="What the factor is for: the whole `network`, or the `encoder` alone."
    )
    warmup_share: float = _setting(
        0.1,
        0.0,
        0.9,
        help="Share of the run, from its beginning, in which the learning rate grows to its full size, epoch by "
        "epoch; its decay is in the rest.",
    )


@dataclass(frozen=True)
class Batch:
    """The patches of one step."""

    patches: int = _setting(
        0, 0, 1024, help="Patches in a step, 2 or more. 0: as many as planned for the memory asked for."
    )
    unlabeled_fraction: float = _setting(
        0.5, 0.05, 0.95, help="Share of a joint step's patches that comes from unlabeled cases; at least one does."
    )

    def unlabeled(self, patches: int) -> int:
        """Return how many of ``patches`` are unlabeled in a joint step; at least one is, and one is not."""
        return min(max(round(patches * self.unlabeled_fraction), 1), patches - 1)


@dataclass(frozen=True)
class Network:
    """Changes to the planned network."""

    width: float = _setting(
        1.0,
        0.05,
        4.0,
        help="Factor on the planned feature maps of every stage. Half of them (0.5) make short runs on a CPU possible.",
    )


@dataclass(frozen=True)
class Augmentation:
    """Changes to nnU-Net's augmentation of the training patches."""

    mirroring: Mirroring = _setting(
        "all",
        help="Axes to mirror along, in training and in prediction: `all` as nnU-Net does; `symmetric` those along "
        "which a mirrored scan is as near to the other scans as the scan itself; `unordered` those along which the "
        "classes of the labeled cases are in no order; `none` as nnUNetTrainerNoMirroring.",
    )
    warped_cases: int = _setting(
        0,
        0,
        100_000,
        help="So many labeled cases in the shape of unlabeled ones, moved to them by registration with their labels. "
        "Half of the labeled patches are of them, in joint training and its supervised start. 0: none.",
    )
    elastic: float = _setting(
        0.0,
        0.0,
        1.0,
        help="Probability that a patch is deformed elastically, in joint training and its supervised start. nnU-Net's "
        "is 0.",
    )


@dataclass(frozen=True)
class Contrast:
    """The local contrastive loss of joint steps (Chaitanya et al., MedIA 2023, Eq. 2 to 4)."""

    weight: float = _setting(
        0.1, 0.0, 100.0, help="Weight of the contrastive loss in the whole loss, λ_cont of Eq. 2. 0: no such loss."
    )
    min_touching: float = _setting(
        0.0,
        0.0,
        1.0,
        help="Least share of the foreground's border in the labeled cases that touches another class. Below it there "
        "is hardly anything to tell apart, and the weight becomes 0.",
    )
    temperature: float = _setting(
        0.1, 1e-3, 100.0, help="Temperature τ of Eq. 4: the lower, the more the most similar class means count."
    )
    matching: Matching = _setting(
        "inter",
        help="Which class means an anchor is compared with: `intra`, those of its own image; `inter`, those of every "
        "other image of the step too.",
    )
    anchors: int = _setting(
        3, 1, 100_000, help="Voxels of each class and image that are compared with class means, |S̃_c| of Eq. 3."
    )
    mean_voxels: int = _setting(
        256, 0, 10_000_000, help="Voxels that a class mean is estimated from, z̄_c(x) of Eq. 3. 0: all of the class."
    )
    min_voxels: int = _setting(
        1,
        1,
        10_000_000,
        help="Least voxels of a class in a patch: with fewer the class is left out there, since their mean would weigh "
        "as much as any other.",
    )
    dimensions: int = _setting(16, 2, 4096, help="Length of the embedding of a voxel, the output of the head h_φ.")
    batch_norm: bool = _setting(
        default=False, help="Normalize over the batch between the two layers of the contrastive head h_φ."
    )
    head_convolutions: int = _setting(
        0,
        0,
        16,
        help="3×3 convolutions of the segmentation head g_ξ after the point where h_φ branches off. The run's network "
        "gets as many more at full resolution, whose memory comes on top of what was planned. 0: h_φ branches off "
        "before the last layer, a 1×1 convolution.",
    )
    restart_head: bool = _setting(
        default=False,
        help="Draw the segmentation head anew at the start of round one; the contrastive head is new there anyway.",
    )
    intensity_views: bool = _setting(
        default=False,
        help="Show this loss every image of a joint step a second time, with another brightness and contrast. A step "
        "takes more than twice as long, on a GPU without more memory.",
    )


@dataclass(frozen=True)
class PseudoLabels:
    """The segmentation of the unlabeled cases at the start of a round, and its weight in the loss."""

    start: PseudoLabelStart = _setting(
        "network",
        help="What makes the first pseudo-labels: `network`, after the supervised epochs; `registration` of labeled "
        "scans to unlabeled ones, to learn from in the supervised epochs already. See the table `registration`.",
    )
    mirroring: bool = _setting(
        default=True,
        help="Average over mirrored scans when pseudo-labels are made. In 3D it costs eight times a plain prediction.",
    )
    network: StageNetwork = _setting(
        "last",
        help="The weights that segment, and that training goes on from: the `last` ones; or `best_validation`, those "
        "of the epoch with the best Dice over patches of the validation cases since the last round began. Without "
        "such cases: the last ones.",
    )
    segmentation_weight: float = _setting(
        0.0,
        0.0,
        10.0,
        help="Weight of the segmentation loss on pseudo-labeled patches, beside 1 for labeled ones. 0, as in the "
        "paper: pseudo-labels teach by the contrastive loss alone.",
    )
    dice_weight: float = _setting(
        1.0,
        0.0,
        10.0,
        help="Weight of the Dice term beside cross-entropy in that loss. Where a mask is uncertain, most Dice is had "
        "by finding too much, and a round that learns from it finds more.",
    )
    divide_loss: bool = _setting(
        default=False,
        help="Divide the sum of both segmentation losses by 1 + `segmentation_weight`, so that a joint step is as long "
        "as one on labels alone.",
    )
    match_volumes: float = _setting(
        0.0,
        0.0,
        1000.0,
        help="Factor by which the median volume of a class may differ from the geometric mean of the labeled cases. "
        "Beyond it the logit of the class is shifted, in all cases alike, until it does not. Below 1 counts as 1; 0: "
        "no shift. Classes whose labeled volumes differ by more than a factor of four are left alone.",
    )
    restart_network: bool = _setting(
        default=False,
        help="Begin every round with a new network, and the learning rate anew, as in noisy student.",
    )
    student_noise: bool = _setting(
        default=False,
        help="Learn in the rounds from strongly perturbed patches, with channels of the deepest features dropped, as "
        "in noisy student.",
    )


@dataclass(frozen=True)
class Registration:
    """Labels of labeled scans, carried over to unlabeled scans by registration: the first pseudo-labels."""

    max_cases: int = _setting(
        64, 1, 1_000_000, help="The most unlabeled cases that are labeled so; of more the seed draws as many."
    )
    atlases: int = _setting(
        3, 2, 1000, help="Labeled cases that vote in each of them: those that look most like the scan."
    )
    min_agreement: float = _setting(
        0.6,
        0.0,
        1.0,
        help="Least mean Dice between every two of the voting cases for a scan to be learned from. Where fewer than a "
        "quarter of the scans reach it, registration does not work for the data set, and labels alone begin.",
    )


@dataclass(frozen=True)
class PseudoLabelFilter:
    """The choice of a round's pseudo-labels, by comparing them with the labeled cases."""

    drop_outside_range: bool = _setting(
        default=False,
        help="Leave out pseudo-labels in which a class is larger or smaller than the labeled range, or lacks although "
        "every labeled case has it.",
    )
    range_margin: float = _setting(
        2.0,
        1.0,
        1000.0,
        help="Factor of that range: from the smallest labeled volume divided by it to the largest times it.",
    )
    min_agreement: float = _setting(
        0.0,
        0.0,
        1.0,
        help="Least Dice of a pseudo-label with itself under two random transforms; those below it are left out. The "
        "paper's check, at 0.9; it takes three predictions a case instead of one. 0: no check.",
    )
    largest_component: bool = _setting(
        default=False,
        help="Keep the largest connected component alone of every class that is in one piece in all labeled cases.",
    )


@dataclass(frozen=True)
class CollapseGuard:
    """The guard that keeps a round from spoiling the network."""

    enabled: bool = _setting(default=True, help="Roll back a round that the network comes out of collapsed.")
    volume_margin: float = _setting(
        4.0,
        0.0,
        1000.0,
        help="Factor beyond the labeled volumes, up or down, at which the median volume of a class makes a round's "
        "pseudo-labels unusable; the round then trains on labels alone. 0: only where they hold nothing.",
    )
    validation_drop: float = _setting(
        0.1,
        0.0,
        1.0,
        help="Fall of the validation cases' Dice in a round that counts as a collapse. Without such cases it has no "
        "effect.",
    )


@dataclass(frozen=True)
class Mixing:
    """Mixtures of the patches of a step."""

    copy_paste: bool = _setting(
        default=False,
        help="Exchange a box between labeled and pseudo-labeled patches of a joint step, both ways (BCP; Bai et al., "
        "CVPR 2023).",
    )
    box_fraction: float = _setting(
        0.667, 0.05, 0.95, help="Length of that box along every axis, as a share of the patch."
    )
    min_coverage: float = _setting(
        0.0,
        0.0,
        1.0,
        help="Least share of the median image that a patch covers for copy-paste. In smaller patches a box that "
        "changes places teaches that surroundings do not matter.",
    )
    labeled_copy_paste: bool = _setting(
        default=False, help="Exchange a box between the labeled patches of a step on labels alone."
    )
    mixup_alpha: float = _setting(
        0.0,
        0.0,
        100.0,
        help="Mix the labeled patches of a step on labels alone in pairs, with λ drawn from Beta(α, α) (mixup; Zhang "
        "et al., ICLR 2018). 0: no mixup.",
    )


@dataclass(frozen=True)
class Teacher:
    """An exponential moving average of the network's weights that makes the pseudo-labels."""

    ema_rounds: float = _setting(
        0.0,
        0.0,
        100.0,
        help="How far back the average looks, in rounds, so that it fits every schedule. 0: no teacher, the network "
        "makes the pseudo-labels.",
    )
    from_start: bool = _setting(
        default=False,
        help="Let the average follow the network from the first supervised step, and make the pseudo-labels of round "
        "one too.",
    )

    def decay(self, schedule: Schedule) -> float:
        """Return the share of the average that stays in a step."""
        steps = self.ema_rounds * schedule.steps_per_epoch * schedule.epochs_per_round
        return max(0.0, 1 - 1 / steps) if steps else 0.0


@dataclass(frozen=True)
class UnlabeledLoss:
    """The teacher of unlabeled patches in joint steps; docs/methods.md has the papers of all methods."""

    method: UnlabeledMethod = _setting(
        "pseudo_labels",
        help="The teacher: `pseudo_labels`, those of the round; any other name, a network of the moment, patch by "
        "patch, and then not those. All other keys of this table are for a network of the moment.",
    )
    weight: float = _setting(1.0, 0.0, 100.0, help="Weight of the loss on unlabeled patches.")
    ramp_up: float = _setting(
        0.0, 0.0, 1.0, help="Share of the joint steps in which the weight grows to its full size."
    )
    ema_decay: float = _setting(
        0.99,
        0.0,
        0.99999,
        help="Share of an EMA teacher's weights that stays in a step (mean_teacher, uncertainty_mean_teacher, "
        "copy_paste_teacher).",
    )
    noise: float = _setting(
        0.1,
        0.0,
        10.0,
        help="Standard deviation of the noise on a mean teacher's images, whose own is about 1.",
    )
    noisy_passes: int = _setting(
        8, 1, 64, help="Passes under noise that an uncertainty is the entropy of, T of UA-MT (Yu et al., MICCAI 2019)."
    )
    min_confidence: float = _setting(
        0.95, 0.0, 1.0, help="Confidence from which on FixMatch and UniMatch believe a prediction, τ of FixMatch."
    )


@dataclass(frozen=True)
class Pretraining:
    """Pre-training without labels (`pclauto pretrain`); its network and batch are the recipe's."""

    method: PretrainingMethod = _setting(
        "masked",
        help="The method. `masked`: fill in what is hidden of an image (He et al., CVPR 2022; Wald et al., CVPR 2025). "
        "`contrastive`: global contrast for the encoder, in the first half of the epochs, then local contrast for the "
        "decoder (Chaitanya et al., NeurIPS 2020).",
    )
    epochs: int = _setting(200, 1, 100_000, help="Epochs of the pre-training.")
    steps_per_epoch: int = _setting(250, 1, 100_000, help="Optimizer steps in an epoch.")
    patches: int = _setting(0, 0, 1024, help="Patches in a step. 0: as many as in a step of the training.")
    learning_rate: float = _setting(
        1e-3,
        1e-7,
        10.0,
        help="Highest learning rate of AdamW, whose steps do not depend on the scale of a loss: one rate does for both "
        "methods.",
    )
    weight_decay: float = _setting(1e-2, 0.0, 1.0, help="Weight decay of AdamW.")
    warmup_share: float = _setting(
        0.05,
        0.0,
        0.9,
        help="Share of the steps in which the learning rate grows to its full size; it decays to 0 in the rest.",
    )
    masked_share: float = _setting(0.75, 0.01, 0.99, help="Share of the blocks of a patch that are hidden (masked).")
    block_voxels: int = _setting(
        16,
        1,
        1024,
        help="Length of a block along every axis, in voxels; at most a quarter of the patch (masked).",
    )
    temperature: float = _setting(0.1, 1e-3, 100.0, help="Temperature τ of both losses (contrastive).")
    dimensions: int = _setting(128, 2, 4096, help="Length of an embedding (contrastive).")
    partitions: int = _setting(
        4,
        2,
        1000,
        help="Parts of a volume along its slices, S. Slices of one part, of whichever volume, are to be alike "
        "(contrastive).",
    )
    decoder_stages: int = _setting(
        3,
        1,
        16,
        help="Stages of the decoder that local contrast trains, l, from the deepest on; not the last one "
        "(contrastive).",
    )
    region_voxels: int = _setting(
        3, 1, 64, help="Length of a region of features that is compared, along every axis (contrastive)."
    )
    regions: int = _setting(13, 2, 100_000, help="Regions of an image that are compared (contrastive).")


@dataclass(frozen=True)
class Recipe:
    """All settings of a run but its data, its split and its seed."""

    name: str = field(metadata={"help": "Name in names of models and reports. Default: that of the file."})
    description: str = _setting("", help="One line about the recipe.")
    schedule: Schedule = Schedule()
    optimizer: Optimizer = Optimizer()
    pretrained: Pretrained = Pretrained()
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
    pretraining: Pretraining = Pretraining()

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as plain values; :func:`from_dict` reads it back."""
        return asdict(self)
