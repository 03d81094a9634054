"""Train nnU-Net by a recipe on the labeled cases of a split: the baseline, and the start of the rounds.

nnU-Net builds a trainer from names; the recipe, the split and the seed come with the plans
(:mod:`pcl_auto.nnunet.training.run_settings`).
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from time import monotonic, time
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, autocast, nn

from pcl_auto.data.split import cross_validation
from pcl_auto.errors import Problem, StateError
from pcl_auto.nnunet import distributed
from pcl_auto.nnunet.data import patch_streams
from pcl_auto.nnunet.data.cases import StoredCases
from pcl_auto.nnunet.environment import missing_for_compile
from pcl_auto.nnunet.errors import LESS_MEMORY_TO_TRAIN, memory_errors, require_numbers
from pcl_auto.nnunet.network import half_precision, unwrapped
from pcl_auto.nnunet.pretrained.match import Match, take_weights
from pcl_auto.nnunet.pretrained.source import PretrainedSource
from pcl_auto.nnunet.training import save_and_resume
from pcl_auto.nnunet.training.cross_entropy import OrderedCrossEntropy
from pcl_auto.nnunet.training.optimizers import backward_and_step, make_lr_scheduler, make_optimizer, pretrained_groups
from pcl_auto.nnunet.training.run_settings import read_settings
from pcl_auto.nnunet.trusted_plans import require_trusted
from pcl_auto.recipe.settings import Recipe
from pcl_auto.workspace.events import EventLog
from pcl_auto.workspace.files import write_json, write_text
from pcl_auto.workspace.folders import DatasetFolder
from pcl_auto.workspace.resources import peak_memory_mb
from pcl_auto.workspace.run_record import FINAL, LATEST, PREVIOUS

# progress.png takes one or two seconds: it is drawn again after so many.
PROGRESS_PNG_SECONDS = 120.0


class nnUNetTrainerPCLSupervised(nnUNetTrainer):  # type: ignore[misc]  # noqa: N801 (nnU-Net finds trainers by name)
    """nnU-Net on the split's labeled cases, with the recipe's schedule."""

    preprocessed_dataset_folder: str
    is_ddp: bool
    network: Any

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's signature, which it inspects)
    ) -> None:
        require_trusted(plans, dataset_json, plans.get("dataset_name", ""))
        super().__init__(plans, configuration, fold, dataset_json, device)
        if device.type != "cuda":  # nnU-Net takes several processes for several GPUs
            self.device = device
        self.settings = read_settings(self.configuration_manager.configuration, self.plans_manager.plans_name)
        self.data = DatasetFolder(Path(self.preprocessed_dataset_folder_base))
        self.run_folder = Path(self.output_folder)
        self.labeled_view = Path(self.preprocessed_dataset_folder)
        self.validation_view = self.data.validation_view(self.settings.split, self.configuration_name)
        # In a cross-validation the held-out cases judge a model; they must not choose it too.
        self.chooses_best = self.fold == "all" and self.validation_view.is_dir()
        self.events = EventLog(self.run_folder / "events.jsonl" if self.local_rank == 0 else None)

        schedule, optimizer = self.recipe.schedule, self.recipe.optimizer
        self.num_epochs = schedule.epochs
        self.num_iterations_per_epoch = schedule.steps_per_epoch
        self.num_val_iterations_per_epoch = schedule.validation_steps(held_out=self.has_validation)
        self.initial_lr, self.weight_decay = optimizer.learning_rate, optimizer.weight_decay
        # Each patch by chance: nnU-Net's other rule rounds to whole patches of a batch, so that a joint step of two
        # streams would see more foreground than a step of one.
        self.probabilistic_oversampling = True
        # Of training so far, in this process and before an interruption.
        self.seconds = 0.0
        # The cases whose patches the step at hand has, to name them if it fails.
        self.cases_of_step: list[str] = []
        # Of pretrained weights, if the settings ask for some.
        self._has_pretrained = False
        self._best_ema: float | None = None
        self._best_weights: dict[str, Any] | None = None
        self._progress_png_drawn = monotonic()

    # --- what the recipe and the split decide -----------------------------------------------------------------

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run."""
        return self.settings.recipe

    @property
    def has_validation(self) -> bool:
        """True if the split, or the fold, holds out labeled cases."""
        return self.chooses_best or self.fold != "all"

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return the cases to learn from and those held out by the fold or the split; without any, the same again."""
        labeled: list[str] = StoredCases.get_identifiers(str(self.labeled_view))
        if self.fold != "all":
            return cross_validation(labeled, self.settings.folds)[int(self.fold)]
        held_out = StoredCases.get_identifiers(str(self.validation_view)) if self.chooses_best else labeled
        return labeled, held_out

    def get_tr_and_val_datasets(self) -> tuple[StoredCases, StoredCases]:
        """Open the cases of :meth:`do_split` in their views."""
        labeled, held_out = self.do_split()
        view = str(self.validation_view) if self.chooses_best else str(self.labeled_view)
        return StoredCases(str(self.labeled_view), labeled), StoredCases(view, held_out)

    @property
    def epoch(self) -> int:
        """Epochs finished so far."""
        return int(self.current_epoch)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """Make the recipe's optimizer and the schedule of its learning rate."""
        return self.optimizer_of(self.network)

    def optimizer_of(self, network: nn.Module) -> tuple[torch.optim.Optimizer, Any]:
        """Make the optimizer of a ``network`` that learns to segment, and its schedule; pretrained ones warm up."""
        settings, fine_tuning = self.recipe.optimizer, self.recipe.pretrained
        if not self.settings.pretrained:
            optimizer = make_optimizer(network.parameters(), settings)
            return optimizer, make_lr_scheduler(optimizer, settings, self.num_epochs)
        optimizer = make_optimizer(pretrained_groups(unwrapped(network), fine_tuning), settings)
        warmup = fine_tuning.warmup_share
        return optimizer, make_lr_scheduler(optimizer, settings, self.num_epochs, warmup_share=warmup)

    def begin_with(self, source: PretrainedSource, match: Match) -> None:
        """Give the network the pretrained weights that match it."""
        if not self.was_initialized:
            self.initialize()
        take_weights(source, self.network, match)
        self._has_pretrained = True

    def initialize(self) -> None:
        """Build the network; the seed fixes its first weights."""
        torch.manual_seed(self.settings.seed)
        distributed.share_of_patches(self.configuration_manager.batch_size, 0)
        # What nnU-Net does for several processes needs a GPU for each; a step is shared in _open_streams.
        several, self.is_ddp = self.is_ddp, False
        super().initialize()
        self.is_ddp = several
        # nnU-Net's validation too reads stored cases without running code from them.
        self.dataset_class = StoredCases
        if several:
            self.network = distributed.wrap_ddp(self.network, self.device)
            self.loss = self._build_loss()

    def _do_i_compile(self) -> bool:
        """Compile as nnU-Net does, but train without where the first step would fail, or runs are to be the same."""
        if not super()._do_i_compile():
            return False
        if self.settings.deterministic:  # compiled kernels are chosen by timing them
            return False
        missing = missing_for_compile()
        if missing:
            self.print_to_log_file(f"not compiled, which is slower: torch.compile needs {missing}")
        return not missing

    def _build_loss(self) -> Any:
        loss = super()._build_loss()
        one_scale = loss.loss if self.enable_deep_supervision else loss
        # On a CPU torch's own mean is the same in every run.
        if self.settings.deterministic and self.device.type == "cuda" and not self.label_manager.has_regions:
            one_scale.ce = OrderedCrossEntropy(one_scale.ce.ignore_index)
        return loss

    def loss_with(self, dice_weight: float) -> nn.Module:
        """Build nnU-Net's loss with another weight of the Dice term beside cross-entropy."""
        loss: nn.Module = self._build_loss()
        one_scale: Any = loss.loss if self.enable_deep_supervision else loss
        one_scale.weight_dice = dice_weight
        return loss

    # --- the training loop ------------------------------------------------------------------------------------

    def run_training(self) -> None:
        """Train from the current epoch to the end."""
        self.on_train_start()
        try:
            with memory_errors(lambda: f"epoch {self.epoch + 1}", LESS_MEMORY_TO_TRAIN):
                self.learn()
        finally:
            self._close_streams()
        self.on_train_end()

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, bool, Any, Any]:  # noqa: N802
        """Configure nnU-Net's augmentation, mirrored along the axes that the run was given."""
        rotation, dummy_2d, initial_patch, axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        if self.settings.mirror_axes is not None and self._mirrors_as_recipe:
            # Prediction too: what was never seen mirrored cannot be averaged over mirrored copies.
            axes = self.inference_allowed_mirroring_axes = self.settings.mirror_axes or None
        return rotation, dummy_2d, initial_patch, axes

    @property
    def _mirrors_as_recipe(self) -> bool:
        # A baseline shares its plans with the run beside it, whose axes they hold.
        return self.settings.recipe_mirroring

    def learn(self) -> None:
        """Train all epochs on labeled cases alone."""
        self.learn_from_labels(self.num_epochs)

    def learn_from_labels(self, until_epoch: int) -> None:
        """Train on labeled cases alone (Eq. 1)."""
        self._open_streams(self.configuration_manager.batch_size)
        self._train_until(until_epoch, "supervised")

    def on_train_start(self) -> None:
        """Build what is missing and put beside the model what prediction needs.

        Raises:
            StateError: the run is to begin with pretrained weights and has none, as with nnU-Net's own command.
        """
        if not self.was_initialized:
            self.initialize()
        if self.settings.pretrained and not self._has_pretrained and not self.epoch:
            raise StateError(
                Problem(
                    code="pretrained.not-given",
                    what="the run is to begin with pretrained weights, and has none",
                    where=self.plans_manager.plans_name,
                    fix="train it with `pclauto train --pretrained`: nnU-Net's own command does not know them",
                )
            )
        if self.is_ddp:  # all had to draw the same first weights; from here on each draws its own patches
            torch.manual_seed(int(np.random.SeedSequence([self.settings.seed, self.local_rank]).generate_state(1)[0]))
        self.set_deep_supervision_enabled(self.enable_deep_supervision)
        if self.settings.deterministic:
            # Read when cuBLAS first multiplies; without it sums of products may be added up in another order.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)  # noqa: FBT003
        self.print_plans()
        with distributed.rank_zero_first() as first:
            if first:
                self._describe_model(Path(self.output_folder_base))

    def _describe_model(self, folder: Path) -> None:
        write_json(folder / "plans.json", self.plans_manager.plans)
        write_json(folder / "dataset.json", self.dataset_json)
        fingerprint = "dataset_fingerprint.json"
        write_text(folder / fingerprint, (self.data.path / fingerprint).read_text(encoding="utf-8"))

    def _open_streams(self, labeled_patches: int) -> None:
        """Open the streams of labeled patches, for this process's share of a step."""
        self._close_streams()
        self.batch_size, _ = distributed.share_of_patches(labeled_patches, 0)
        with patch_streams.starting():
            self.dataloader_train, self.dataloader_val = self.get_dataloaders()

    def _close_streams(self) -> None:
        for stream in (self.dataloader_train, self.dataloader_val):
            patch_streams.close(stream)
        self.dataloader_train = self.dataloader_val = None

    def _train_until(self, epoch: int, stage: str) -> None:
        while self.current_epoch < epoch:
            started = monotonic()
            self._seed_epoch()
            self.on_epoch_start()
            self.on_train_epoch_start()
            outputs = []
            for step in range(self.num_iterations_per_epoch):
                batch = patch_streams.next_batch(self.dataloader_train)
                self.cases_of_step = list(batch["keys"])
                outputs.append(self.train_step(batch))
                # At once: no checkpoint, least of all the best one, is written behind it.
                require_numbers(outputs[-1], f"epoch {self.epoch + 1} ({stage}), step {step + 1}", self.cases_of_step)
                self.events.notify("step", epoch=self.epoch, step=step + 1)
            self.on_train_epoch_end(outputs)
            self._validate()
            seconds = monotonic() - started
            self.seconds += seconds
            self._report(stage, outputs, seconds)
            self.on_epoch_end()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Take one step on labeled patches."""
        targets = [target.to(self.device, non_blocking=True) for target in patch_streams.scales(batch["target"])]
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.segmentation_loss(self.forward(batch["data"].to(self.device, non_blocking=True)), targets)
        backward_and_step(loss, [(self.optimizer, self.network)], self.grad_scaler)
        return {"loss": loss.detach().cpu().numpy()}

    def forward(self, images: Tensor, network: nn.Module | None = None) -> list[Tensor]:
        """Return the logits of a batch, from full resolution down, shape (B, K, *patch); float32 on a CPU.

        Args:
            images: of the batch, shape (B, C, *patch).
            network: another one than that which is trained.
        """
        with half_precision(self.device):
            outputs = patch_streams.scales((self.network if network is None else network)(images))
        # On CUDA autocast knows which parts of the loss need float32.
        return outputs if self.device.type == "cuda" else [output.float() for output in outputs]

    def segmentation_loss(self, outputs: list[Tensor], targets: list[Tensor], loss: nn.Module | None = None) -> Tensor:
        """Return nnU-Net's Dice and cross-entropy with deep supervision, or another ``loss`` of that kind."""
        loss = self.loss if loss is None else loss
        with autocast("cuda", enabled=self.device.type == "cuda"):
            if self.enable_deep_supervision:
                return loss(outputs, targets)  # type: ignore[no-any-return]
            return loss(outputs[0], targets[0])  # type: ignore[no-any-return]

    def _validate(self) -> None:
        with torch.no_grad():
            self.on_validation_epoch_start()
            batches = range(self.num_val_iterations_per_epoch)
            self.on_validation_epoch_end(
                [self.validation_step(patch_streams.next_batch(self.dataloader_val)) for _ in batches]
            )

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Log nnU-Net's Dice over the validation patches; where they neither show nor find a class, repeat the last."""
        super().on_validation_epoch_end(val_outputs)
        if np.isnan(self.logger.get_value("mean_fg_dice", step=self.epoch)):
            # Small lesions miss all patches of an epoch now and then; a smoothed NaN would be one to the end.
            smoothed = self.logger.get_value("ema_fg_dice", step=self.epoch - 1) if self.epoch else 0.0
            for curve in ("mean_fg_dice", "ema_fg_dice"):
                self.logger.log(curve, smoothed, self.epoch)

    def _seed_epoch(self) -> None:
        """Seed the epoch in deterministic mode, so that it draws the same numbers after an interruption."""
        if self.settings.deterministic:
            entropy = [self.settings.seed, self.epoch, *([self.local_rank] if self.is_ddp else [])]
            seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002 (nnU-Net's loaders draw from the global state)
            torch.manual_seed(seed)

    def _report(self, stage: str, outputs: list[dict[str, Any]], seconds: float) -> None:
        """Record the epoch."""
        losses = {key: float(np.mean([output[key] for output in outputs])) for key in outputs[0]}
        self.events.emit(
            "epoch",
            epoch=self.epoch + 1,
            epochs=self.num_epochs,
            stage=stage,
            losses=losses,
            patch_dice=[float(value) for value in self.logger.get_value("dice_per_class_or_region", step=-1)],
            patch_dice_of="validation cases" if self.has_validation else "labeled cases",
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            seconds=round(seconds, 2),
        )
        # Loggers that nnU-Net has beside its own (wandb); its own holds what stock nnU-Net goes on with.
        for name in losses.keys() - {"loss"}:
            for logger in self.logger.loggers:
                logger.log(f"pclauto_{name}", losses[name], self.current_epoch)

    def on_epoch_end(self) -> None:
        """Keep the state, so that a run that stops here goes on from here."""
        self.logger.log("epoch_end_timestamps", time(), self.current_epoch)
        self._keep_best()
        with distributed.rank_zero_first():
            self.save_checkpoint(str(self.run_folder / LATEST))
        self.events.notify("checkpoint", epochs=self.epoch + 1, file=self.run_folder / LATEST)
        drawn_s = monotonic() - self._progress_png_drawn
        if self.local_rank == 0 and (self.epoch == self.num_epochs - 1 or drawn_s > PROGRESS_PNG_SECONDS):
            self.logger.plot_progress_png(self.output_folder)
            self._progress_png_drawn = monotonic()
        self.current_epoch += 1

    def _keep_best(self) -> None:
        """Remember the weights of the best smoothed Dice, if there are validation cases."""
        smoothed = float(self.logger.get_value("ema_fg_dice", step=-1))
        if self.chooses_best and (self._best_ema is None or smoothed > self._best_ema):
            self._best_ema = smoothed
            weights = unwrapped(self.network).state_dict()
            self._best_weights = {key: value.detach().cpu().clone() for key, value in weights.items()}
            self.events.emit("best", epoch=self.epoch + 1, smoothed_patch_dice=smoothed)

    def on_train_end(self) -> None:
        """Write the model: the last weights, or with validation cases the best ones."""
        if self._best_weights is not None:
            unwrapped(self.network).load_state_dict(self._best_weights)
        self._save_finished(self.run_folder / FINAL)
        if self.local_rank == 0:
            for name in (PREVIOUS, LATEST):
                (self.run_folder / name).unlink(missing_ok=True)
        self.events.emit("trained", epochs=self.epoch, seconds=round(self.seconds, 1), memory_mb=self._memory_mb())

    def _memory_mb(self) -> int:
        """Return the most memory that the training has held: of the GPU, or on a CPU of the process."""
        return self.gpu_memory_mb() or peak_memory_mb()

    def gpu_memory_mb(self) -> int | None:
        """Return the most memory of the GPU that the training has held; None without one."""
        return int(torch.cuda.max_memory_reserved(self.device) / 2**20) if self.device.type == "cuda" else None

    # --- validation -------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Segment held-out cases as they were scanned, as nnU-Net does at the end of a training, if there are any.

        The labeled cases that were learned from would show nothing.
        """
        if self.has_validation:
            self.perform_actual_validation()
            return
        if self.local_rank != 0:
            return
        # nnU-Net's export of a model asks for the file.
        write_json(
            self.run_folder / "validation" / "summary.json",
            {"metric_per_case": [], "mean": {}, "foreground_mean": {}, "pclauto": "no case was held out"},
        )

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:  # noqa: FBT001, FBT002 (nnU-Net's)
        """Run nnU-Net's validation, on the split's validation cases where it has some."""
        self.preprocessed_dataset_folder = str(self.validation_view if self.chooses_best else self.labeled_view)
        try:
            super().perform_actual_validation(save_probabilities)
        finally:
            self.preprocessed_dataset_folder = str(self.labeled_view)

    # --- files ------------------------------------------------------------------------------------------------

    def print_to_log_file(self, *args: Any, also_print_to_console: bool = True, add_timestamp: bool = True) -> None:
        """Write nnU-Net's log, without its console."""
        del also_print_to_console
        super().print_to_log_file(*args, also_print_to_console=False, add_timestamp=add_timestamp)

    def own_state(self) -> dict[str, Any]:
        """Return what of a training's state stock nnU-Net knows nothing of."""
        return {"best_weights": self._best_weights, "seconds": self.seconds}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Resume from what :meth:`own_state` returned."""
        self.load_supervised_state(state)

    def load_supervised_state(self, state: dict[str, Any]) -> None:
        """Resume from that part of an :meth:`own_state` which every trainer has."""
        self._best_weights = state["best_weights"]
        self.seconds = state["seconds"]

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint in which the current epoch counts as finished, as nnU-Net does."""
        if self.local_rank == 0 and not self.disable_checkpointing:
            save_and_resume.save(self, Path(filename), self.current_epoch + 1)

    def _save_finished(self, file: Path) -> None:
        """Write a checkpoint between two epochs, when the last one has been counted already."""
        self.current_epoch -= 1
        self.save_checkpoint(str(file))
        self.current_epoch += 1

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Resume from a checkpoint; where the latest one is damaged, from the one before."""
        file = Path(filename_or_checkpoint)
        damage = save_and_resume.resume(self, file)
        if damage is not None:
            self.events.emit("checkpoint_damaged", problem=damage.problems[0].as_dict(), epoch=self.epoch)
            with distributed.rank_zero_first() as first:
                if first:
                    file.with_name(PREVIOUS).replace(file)
