"""Train nnU-Net in rounds of self-training: the learner of :func:`pcl_auto.method.rounds.self_train`.

What a round needs are objects of their own: the joint step, the pseudo-label stage and the collapse guard.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

from torch import nn

from pcl_auto.data import split as splits
from pcl_auto.errors import Problem, UsageError
from pcl_auto.method.rounds import joint_rounds, self_train
from pcl_auto.nnunet import distributed
from pcl_auto.nnunet.data import patch_streams, pseudo_label_files
from pcl_auto.nnunet.data.cases import StoredCases
from pcl_auto.nnunet.data.elastic import deform_elastically
from pcl_auto.nnunet.network import draw_anew, restart_segmentation_head, unwrapped
from pcl_auto.nnunet.pretrained.match import Match, take_weights
from pcl_auto.nnunet.pretrained.source import PretrainedSource
from pcl_auto.nnunet.training.best_of_stage import BestOfStage
from pcl_auto.nnunet.training.copy_paste_step import CopyPasteStep
from pcl_auto.nnunet.training.joint_step import JointStep
from pcl_auto.nnunet.training.labeled_mixing import mixup_step, paste_between_labeled
from pcl_auto.nnunet.training.online_step import OnlineStep
from pcl_auto.nnunet.training.pseudo_label_stage import PseudoLabelStage
from pcl_auto.nnunet.training.round_guard import CASES_OF_LAST_CHECK, RoundGuard
from pcl_auto.nnunet.training.teacher import Teacher
from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised
from pcl_auto.nnunet.training.warped_cases import WarpedCases
from pcl_auto.recipe.settings import Recipe
from pcl_auto.workspace.run_record import LATEST


class nnUNetTrainerPCL(nnUNetTrainerPCLSupervised):  # noqa: N801 (nnU-Net finds trainers by name)
    """Pseudo-label local contrastive learning (Chaitanya et al., MedIA 2023) in rounds of self-training."""

    def initialize(self) -> None:
        """Build the network, and beside it the EMA teacher and the contrastive head."""
        if self.is_ddp:
            _refuse_what_takes_one_gpu(self.recipe)
        # Now, not after the supervised start.
        distributed.share_of_patches(*self._patches_of_joint_step())
        super().initialize()
        decay = self.recipe.teacher.decay(self.recipe.schedule)
        self.teacher = Teacher(unwrapped(self.network), decay) if self.recipe.teacher.ema_rounds else None
        self.joint_step = _step_of(self)
        self.split = splits.read_split(self.data.split_file(self.settings.split))
        self.guard = RoundGuard(self.run_folder, self.recipe)
        self.best_of_stage = BestOfStage()
        self.stage = PseudoLabelStage(self, self.split, self.guard)
        self.dataloader_unlabeled: Any = None
        self.warped: WarpedCases | None = None

    def begin_with(self, source: PretrainedSource, match: Match) -> None:
        """Give network and EMA teacher the pretrained weights that match, a second network those of the encoder.

        With the same decoder, too, the two networks would hardly differ, and teach each other nothing.
        """
        super().begin_with(source, match)
        if self.teacher is not None:
            self.teacher.restart(unwrapped(self.network))
        second = self.joint_step.parts().get("second_network")
        if second is not None:
            names = {name: other for name, other in match.names.items() if name.startswith("encoder.")}
            take_weights(source, second, replace(match, names=names))

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> Any:
        """Return nnU-Net's augmentation of training patches, with the recipe's elastic deformation."""
        transforms = super().get_training_transforms(*args, **kwargs)
        if self.recipe.augmentation.elastic:
            deform_elastically(transforms, self.recipe.augmentation.elastic)
        return transforms

    @property
    def _mirrors_as_recipe(self) -> bool:
        return True

    def learn(self) -> None:
        """Train the supervised start, then the rounds.

        Pseudo-labels of rounds that this training has not come to are another training's: they go first.
        """
        ahead = [entry.number for entry in joint_rounds(self.recipe.schedule) if entry.first_epoch > self.epoch]
        folders = [pseudo_label_files.round_folder(self.run_folder, number) for number in ahead]
        if self.epoch < self.recipe.schedule.epochs:
            folders.append(pseudo_label_files.last_check_folder(self.run_folder))
        with distributed.rank_zero_first() as first:
            for folder in folders if first else []:
                shutil.rmtree(folder.path, ignore_errors=True)
        if self.recipe.augmentation.warped_cases and self.epoch < self.recipe.schedule.epochs:
            self._warp_labeled_cases()
        if self.recipe.pseudo_labels.network == "best_validation" and not self._chooses_stages:
            self.events.emit("last_weights")
        self_train(self, self.recipe.schedule)

    def _warp_labeled_cases(self) -> None:
        begun = monotonic()
        warped = WarpedCases(self, self.split, self.stage.labeled)
        warped.make()
        self.seconds += monotonic() - begun
        self.warped = warped

    def get_tr_and_val_datasets(self) -> tuple[StoredCases, StoredCases]:
        """Open the cases to learn from, warped ones among them once they are there, and those held out."""
        learned, held_out = super().get_tr_and_val_datasets()
        return learned if self.warped is None else self.warped.dataset(), held_out

    def on_train_end(self) -> None:
        """Write the model; there is no way back from it."""
        if self.local_rank == 0:
            self.guard.forget_starts()
        self.best_of_stage.forget()
        super().on_train_end()
        if self.warped is not None and self.local_rank == 0:
            self.warped.forget()

    # --- the weights that a stage ends with -------------------------------------------------------------------

    @property
    def _chooses_stages(self) -> bool:
        """True if a stage ends with its best weights, and there are cases to choose them by."""
        return self.recipe.pseudo_labels.network == "best_validation" and self.chooses_best

    def _keep_best(self) -> None:
        super()._keep_best()
        if self._chooses_stages:
            if any(self.epoch == entry.first_epoch for entry in self.guard.rounds.values()):
                self.best_of_stage.forget()
            # Not smoothed: the curve of nnU-Net still rises or falls with the stage before.
            dice = float(self.logger.get_value("mean_fg_dice", step=self.epoch))
            self.best_of_stage.see(self.epoch + 1, dice, self._weighed())

    def _end_stage(self, round_number: int) -> None:
        """Return to the best weights of the stage before round ``round_number``, at whose start training is.

        The optimizers go on: they know the slopes about there, too.
        """
        if self.epoch == self.guard.rounds[round_number].first_epoch:
            found = self.best_of_stage.restore(self._weighed())
            if found is not None:
                self.events.emit("best_of_stage", round=round_number, **found)

    def _weighed(self) -> dict[str, nn.Module]:
        """Return the modules whose weights a stage chooses: all that are trained."""
        return {name: part for name, part in self._parts().items() if isinstance(part, nn.Module)}

    # --- pseudo-labels ----------------------------------------------------------------------------------------

    def pseudo_label(self, round_number: int) -> None:
        """Segment the unlabeled cases with the network of the moment, or after the first round its EMA teacher.

        The network follows from the last checkpoint: what an interrupted try has finished is what it would be again.
        """
        folder = pseudo_label_files.round_folder(self.run_folder, round_number)
        self._end_stage(round_number)
        distributed.wait()
        if not folder.complete:
            network = self.network
            if self.teacher is not None and (round_number > 1 or self.recipe.teacher.from_start):
                network = self.teacher.network
            summary = self._segment(network, self.split.unlabeled, folder, round_number)
            if summary:
                self.events.emit("pseudo_labels", round=round_number, **summary)

    def begin_with_pseudo_labels(self) -> bool:
        """Make the pseudo-labels that training begins with; return whether there are any that are worth it."""
        folder = self.guard.labels_of(0)
        if not self.stage.has_initial:
            if self.recipe.pseudo_labels.start == "registration":
                self.events.emit("registration_off", labeled=len(self.stage.labeled.cases))
            return False
        distributed.wait()
        if not folder.complete:
            done = self.stage.make_initial(folder)
            self.seconds += done.seconds
            if done.rows:
                summary = pseudo_label_files.summary(done.rows, list(self.stage.labeled.classes))
                self.events.emit("pseudo_labels", round=0, seconds=done.seconds, **summary)
        return bool(self.stage.used(folder)[0])

    def _segment(
        self, network: nn.Module, cases: Sequence[str], folder: pseudo_label_files.RoundFolder, number: int
    ) -> dict[str, Any]:
        """Segment ``cases`` as at the start of round ``number``; return what their ledger says, on one process."""
        self._close_streams()
        done = self.stage.label(self.stage.segmenter(network), cases, folder, number)
        self.seconds += done.seconds
        if not done.rows:
            return {}
        return {"seconds": done.seconds, **pseudo_label_files.summary(done.rows, list(self.stage.labeled.classes))}

    # --- joint rounds (Eq. 2) ---------------------------------------------------------------------------------

    def learn_jointly(self, round_number: int, until_epoch: int) -> None:
        """Train on labeled cases and on the round's pseudo-labels together (Eq. 2).

        On labeled cases alone where the pseudo-labels are unusable: what they teach would only be unlearned again.
        """
        if round_number and self.epoch == self.guard.rounds[round_number].first_epoch:
            self._begin_round(round_number)
        folder = self.guard.labels_of(round_number)
        used, unusable = self.stage.used(folder)
        if unusable and self.recipe.unlabeled_loss.method == "pseudo_labels":
            self.events.emit("degenerate", round=round_number, reasons=unusable)
            self._open_streams(self.configuration_manager.batch_size)
            self._train_until(until_epoch, f"round {round_number}, labels alone")
        else:
            self.open_joint_streams(folder, used)
            self._train_until(until_epoch, f"round {round_number}")

    def _begin_round(self, round_number: int) -> None:
        with distributed.rank_zero_first() as first:
            if self._guards and first:
                self.guard.keep_start(round_number, self._parts())
        if self.guard.source(round_number) == 1:
            # Behind the way back, which leads to a network that can segment; a second try of round one comes here too.
            if self.recipe.contrast.restart_head:
                convolutions = self.recipe.contrast.head_convolutions
                restart_segmentation_head(self.network, self.optimizer, self.settings.seed, convolutions)
            if self.teacher is not None and not self.recipe.teacher.from_start:
                self.teacher.restart(unwrapped(self.network))
            self.joint_step.begin_rounds()
        if self.recipe.pseudo_labels.restart_network:
            draw_anew(self.network, self.settings.seed + round_number)
            self.optimizer.state.clear()
            if self.teacher is not None:  # an average with the network before would be neither of the two
                self.teacher.restart(unwrapped(self.network))

    def open_joint_streams(self, folder: pseudo_label_files.RoundFolder, used: Sequence[str]) -> None:
        """Open the streams of labeled patches and of patches of the cases ``used`` with their pseudo-labels."""
        labeled, unlabeled = self._patches_of_joint_step()
        _, its_share = distributed.share_of_patches(labeled, unlabeled)
        self._open_streams(labeled)
        self.dataloader_unlabeled = patch_streams.same_augmentation(
            self.dataloader_train,
            folder.cases,
            used,
            its_share,
            self.oversample_foreground_percent,
            self.label_manager,
            pin_memory=self.device.type == "cuda",
        )

    def _patches_of_joint_step(self) -> tuple[int, int]:
        """Return how many labeled and unlabeled patches a joint step has."""
        patches: int = self.configuration_manager.batch_size
        unlabeled = self.recipe.batch.unlabeled(patches)
        return patches - unlabeled, unlabeled

    def _close_streams(self) -> None:
        super()._close_streams()
        patch_streams.close(self.dataloader_unlabeled)
        self.dataloader_unlabeled = None

    def on_train_epoch_start(self) -> None:
        """Decay every learning rate with the network's; where each round has a new network, it begins anew too."""
        super().on_train_epoch_start()
        self.joint_step.begin_epoch(self.current_epoch)
        for entry in self.guard.rounds.values() if self.recipe.pseudo_labels.restart_network else ():
            if entry.first_epoch <= self.epoch < entry.last_epoch:
                share = (self.epoch - entry.first_epoch) / (entry.last_epoch - entry.first_epoch)
                self.lr_scheduler.step(share * self.num_epochs)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Take one step: on labeled patches alone, or in a round that has pseudo-labels a joint one."""
        if self.dataloader_unlabeled is None:
            losses = self._labeled_step(batch)
        else:
            unlabeled = patch_streams.next_batch(self.dataloader_unlabeled)
            self.cases_of_step += list(unlabeled["keys"])
            losses = self.joint_step.take(batch, unlabeled)
        is_followed = self.recipe.teacher.from_start or self.epoch >= self.recipe.schedule.supervised_epochs
        if self.teacher is not None and is_followed:
            self.teacher.follow(unwrapped(self.network))
        return losses

    def _labeled_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Take a step on labeled patches alone, mixed as the recipe says."""
        if self.recipe.mixing.labeled_copy_paste:
            paste_between_labeled(batch, self.recipe.mixing.box_fraction)
        losses = mixup_step(self, batch) if self.recipe.mixing.mixup_alpha else super().train_step(batch)
        self.joint_step.learned_labels(batch)
        return losses

    # --- the collapse guard -----------------------------------------------------------------------------------

    @property
    def _guards(self) -> bool:
        return self.recipe.collapse_guard.enabled and not self.disable_checkpointing

    def check_collapse(self, round_number: int) -> bool:
        """Roll back round ``round_number``, just finished, if it ended in a collapse; return whether to train on."""
        guard = self.guard
        if self._guards and guard.undecided(round_number):
            if round_number == self.recipe.schedule.rounds and not guard.labels_after(round_number).complete:
                self._check_last_round(round_number)
            dice = self.logger.get_value("mean_fg_dice", step=None) if self.has_validation else None
            reasons = guard.reasons(round_number, self.stage.labeled.volumes_ml(), dice)
            if reasons:
                self._roll_back(round_number, reasons)
        if round_number in guard.collapsed:
            with distributed.rank_zero_first() as first:
                if first:
                    pseudo_label_files.discard(guard.labels_after(round_number))
        return guard.goes_on

    def _check_last_round(self, round_number: int) -> None:
        """Segment a few cases: no round follows whose pseudo-labels would show a collapse."""
        cases = sorted(self.split.unlabeled)[:CASES_OF_LAST_CHECK]
        summary = self._segment(self.network, cases, self.guard.labels_after(round_number), round_number + 1)
        if summary:
            self.events.emit("last_check", **summary)

    def _roll_back(self, round_number: int, reasons: list[str]) -> None:
        """Return to the start of the round; epochs count on, so that every run is as long as its recipe says."""
        facts = self.guard.roll_back(round_number, self._parts(), self.device)
        self.best_of_stage.forget()  # of the round that collapsed
        # On record before the checkpoint: what is interrupted here is decided, and put on record, again.
        self.events.emit("rolled_back", round=round_number, epoch=self.epoch, reasons=reasons, **facts)
        self._save_finished(self.run_folder / LATEST)

    def _parts(self) -> dict[str, Any]:
        """Return what training changes and a roll-back restores; under ``network_weights`` as in every checkpoint."""
        parts = {
            "network_weights": unwrapped(self.network),
            "optimizer": self.optimizer,
            **self.joint_step.parts(),
            "teacher": self.teacher,
            "grad_scaler": self.grad_scaler,
        }
        return {name: part for name, part in parts.items() if part is not None}

    # --- files ------------------------------------------------------------------------------------------------

    def own_state(self) -> dict[str, Any]:
        """Return the state of the joint step's parts, teacher and guard beside what every trainer keeps."""
        return {
            **super().own_state(),
            **{name: part.state_dict() for name, part in self.joint_step.parts().items()},
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
            "collapsed": list(self.guard.collapsed),
            "best_of_stage": self.best_of_stage.state_dict(),
        }

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Resume from what :meth:`own_state` returned."""
        super().load_own_state(state)
        for name, part in self.joint_step.parts().items():
            part.load_state_dict(state[name])
        if self.teacher is not None:
            self.teacher.load_state_dict(state["teacher"])
        self.guard.collapsed = list(state.get("collapsed", ()))

    def load_supervised_state(self, state: dict[str, Any]) -> None:
        """Resume from that part of an :meth:`own_state` which a supervised start has."""
        super().load_supervised_state(state)
        self.best_of_stage.load_state_dict(state.get("best_of_stage"))
        self.joint_step.load_start(state)


def _step_of(trainer: nnUNetTrainerPCLSupervised) -> JointStep | OnlineStep | CopyPasteStep:
    """Make the joint step of the recipe of ``trainer``."""
    method = trainer.recipe.unlabeled_loss.method
    if method == "pseudo_labels":
        return JointStep(trainer)
    return CopyPasteStep(trainer) if method == "copy_paste_teacher" else OnlineStep(trainer)


def _refuse_what_takes_one_gpu(recipe: Recipe) -> None:
    if recipe.contrast.intensity_views:
        fix = "train on one GPU, or set contrast.intensity_views = false"
        raise UsageError(
            Problem("device.one-gpu-only", "a second view of every patch is for one GPU alone", "--gpus", fix)
        )
    if recipe.unlabeled_loss.method != "pseudo_labels":
        what = f"unlabeled_loss.method = {recipe.unlabeled_loss.method!r} is for one GPU alone"
        raise UsageError(Problem("device.one-gpu-only", what, "--gpus", "train on one GPU"))


# By the names that plans, records and nnU-Net's commands know them by.
TRAINERS = {kind.__name__: kind for kind in (nnUNetTrainerPCL, nnUNetTrainerPCLSupervised)}
