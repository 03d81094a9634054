"""The nnU-Net trainer that lives through the self-training story: labeled and pseudo-labeled cases together."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import Tensor, autocast, nn

from pcl_auto.data import split as splits
from pcl_auto.errors import Problem, UsageError
from pcl_auto.method.augmentation import box_mask, intensity_view, nearest, swap_pairs
from pcl_auto.method.collapse import unusable_reasons
from pcl_auto.method.loss import ContrastHead, local_contrastive_loss
from pcl_auto.method.pseudo_labels import LedgerRow
from pcl_auto.method.regions import disjoint_classes, patterns_of
from pcl_auto.method.rounds import joint_rounds, self_train
from pcl_auto.method.sampling import VoxelSample, gather_features, sample_voxels
from pcl_auto.nnunet import distributed as ranks
from pcl_auto.nnunet.checkpoints import LATEST
from pcl_auto.nnunet.data import pseudo_labels, streams
from pcl_auto.nnunet.data.labeled_cases import LabeledCases, stored_voxel_ml
from pcl_auto.nnunet.data.streams import patches_of, scales
from pcl_auto.nnunet.inference.sliding_window import agreement_check, segmenter
from pcl_auto.nnunet.network import DecoderFeatures, restart_segmentation_head, unwrapped
from pcl_auto.nnunet.training.folds import WaitsForFolds, have_met
from pcl_auto.nnunet.training.optimizers import make_optimizer
from pcl_auto.nnunet.training.round_guard import CASES_OF_LAST_CHECK, RoundGuard
from pcl_auto.nnunet.training.teacher import Teacher
from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised
from pcl_auto.workspace.files import read_json


class nnUNetTrainerPCL(nnUNetTrainerPCLSupervised):  # noqa: N801 (nnU-Net finds trainers by name)
    """Pseudo-label local contrastive learning (Chaitanya et al., MedIA 2023) in rounds of self-training."""

    head: nn.Module
    # Whether this is one fold of several, whose networks make the pseudo-labels together.
    meets_folds = False

    def initialize(self) -> None:
        """Build the network, and beside it the contrastive head h_φ with an optimizer of its own.

        A second optimizer, so that nnU-Net can go on with the first one's state by itself.
        """
        if self.is_ddp and self.recipe.contrast.intensity_views:
            fix = "train on one GPU, or set contrast.intensity_views = false"
            raise UsageError(
                Problem("device.one-gpu-only", "a second view of every patch is for one GPU alone", "--gpus", fix)
            )
        patches: int = self.configuration_manager.batch_size
        unlabeled = self.recipe.batch.unlabeled(patches)
        # Now, not after the supervised start.
        ranks.share_of_patches(patches - unlabeled, unlabeled)
        super().initialize()
        decay = self.recipe.teacher.decay(self.recipe.schedule)
        self.teacher = Teacher(unwrapped(self.network), decay) if self.recipe.teacher.ema_rounds else None
        self.features = DecoderFeatures(self.network)
        self.head = ContrastHead(self.features.width, self.recipe.contrast.dimensions).to(self.device)
        self.head_in_step = ranks.wrap_ddp(self.head, self.device)
        self.head_optimizer = make_optimizer(self.head.parameters(), self.recipe.optimizer)
        self.head_lr_scheduler = PolyLRScheduler(self.head_optimizer, self.initial_lr, self.num_epochs)
        self.split = splits.from_dict(read_json(self.data.split_file(self.settings.split)))
        self.store = self.data.store(self.settings.store)
        self.dataloader_unlabeled: Any = None
        self.round_guard = RoundGuard(self.run_folder, self.recipe)
        self.cell_patterns = patterns_of(self.label_manager.all_regions or [], self.label_manager.foreground_labels)
        self.labeled = LabeledCases(
            self.data.labeled_view(self.settings.split, self.configuration_name),
            self.do_split()[0],
            self.dataset_json["labels"],
            stored_voxel_ml(self.configuration_manager.spacing, self.plans_manager.plans),
        )

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, bool, Any, Any]:  # noqa: N802
        """nnU-Net's augmentation, mirrored along the axes that the recipe's choice came to."""
        rotation, dummy_2d, initial_patch, axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        if self.settings.mirror_axes is not None:
            # Prediction too: what was never seen mirrored cannot be averaged over mirrored copies.
            axes = self.inference_allowed_mirroring_axes = self.settings.mirror_axes or None
        return rotation, dummy_2d, initial_patch, axes

    def learn(self) -> None:
        """The supervised start, then the rounds.

        Pseudo-labels of rounds that this training has not come to are another training's: they go first.
        """
        ahead = [entry.number for entry in joint_rounds(self.recipe.schedule) if entry.first_epoch > self.epoch]
        folders = [pseudo_labels.round_folder(self.run_folder, number) for number in ahead]
        if self.epoch < self.recipe.schedule.epochs:
            folders.append(pseudo_labels.last_check_folder(self.run_folder))
        with ranks.rank_zero_first() as first:
            for folder in folders if first else []:
                shutil.rmtree(folder.path, ignore_errors=True)
        self_train(self, self.recipe.schedule)

    def on_train_end(self) -> None:
        """Write the model; there is no way back from it."""
        if self.local_rank == 0:
            self.round_guard.forget_starts()
        super().on_train_end()

    # --- step two (Eq. 2) -------------------------------------------------------------------------------------

    def learn_jointly(self, round_number: int, until_epoch: int) -> None:
        """Train on labeled cases and on the round's pseudo-labels together (Eq. 2).

        On labeled cases alone where the pseudo-labels are degenerate: what they teach would only be unlearned again.
        """
        if self.epoch == self.round_guard.rounds[round_number].first_epoch:
            self._begin_round(round_number)
        folder = self.round_guard.labels_of(round_number)
        # From the ledger, so that a resumed run uses the same ones.
        used = pseudo_labels.used_cases(folder, {*self.split.labeled, *self.split.validation})
        volumes = pseudo_labels.volumes_ml(folder, self.labeled.classes)
        margin = self.recipe.collapse_guard.volume_margin
        if reasons := unusable_reasons(
            {case: volumes[case] for case in used}, self.labeled.volumes_ml(), margin=margin
        ):
            self.events.emit("degenerate", round=round_number, reasons=reasons)
            self._open_streams(self.configuration_manager.batch_size)
            self._train_until(until_epoch, f"round {round_number}, labels alone")
            return
        self.open_joint_streams(folder, used)
        self._train_until(until_epoch, f"round {round_number}")

    def open_joint_streams(self, folder: pseudo_labels.RoundFolder, used: Sequence[str]) -> None:
        """Open the streams of labeled patches and of patches of the cases ``used`` with their pseudo-labels."""
        patches: int = self.configuration_manager.batch_size
        unlabeled = self.recipe.batch.unlabeled(patches)
        _, its_share = ranks.share_of_patches(patches - unlabeled, unlabeled)
        self._open_streams(patches - unlabeled)
        self.dataloader_unlabeled = streams.same_augmentation(
            self.dataloader_train,
            folder.cases,
            used,
            its_share,
            self.oversample_foreground_percent,
            self.label_manager,
            pin_memory=self.device.type == "cuda",
        )

    def _begin_round(self, round_number: int) -> None:
        with ranks.rank_zero_first() as first:
            if self._guards and first:
                self.round_guard.keep_start(round_number, self._parts())
        if self.round_guard.source(round_number) == 1:
            # Behind the way back, which leads to a network that can segment; a second try of round one comes here too.
            if self.recipe.contrast.restart_head:
                restart_segmentation_head(self.network, self.optimizer, self.settings.seed)
            if self.teacher is not None:
                self.teacher.restart(unwrapped(self.network))

    def _close_streams(self) -> None:
        super()._close_streams()
        streams.close(self.dataloader_unlabeled)
        self.dataloader_unlabeled = None

    def on_train_epoch_start(self) -> None:
        """Decay the head's learning rate with the network's."""
        super().on_train_epoch_start()
        self.head.train()
        self.head_lr_scheduler.step(self.current_epoch)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One step: on labeled patches alone, or in a round that has pseudo-labels on labeled and unlabeled ones."""
        if self.dataloader_unlabeled is None:
            result = super().train_step(batch)
        else:
            unlabeled = streams.next_batch(self.dataloader_unlabeled)
            self.cases_of_step += list(unlabeled["keys"])
            result = self._joint_step(batch, unlabeled)
        if self.teacher is not None and self.epoch >= self.recipe.schedule.supervised_epochs:
            self.teacher.follow(unwrapped(self.network))
        return result

    def _joint_step(self, labeled: dict[str, Any], unlabeled: dict[str, Any]) -> dict[str, Any]:
        count = len(labeled["data"])
        images, targets = self._joined(labeled, unlabeled)
        labels = disjoint_classes(targets[0], self.cell_patterns)  # (B, *patch)
        views = 2 if self.recipe.contrast.intensity_views else 1
        # Drawn before the forward pass: on a GPU the draw waits for what was started before it.
        sample = sample_voxels(
            torch.cat([labels] * views), len(self.label_manager.foreground_labels), self.recipe.contrast.mean_voxels
        )
        first, second = sample.split(len(images))

        self.optimizer.zero_grad(set_to_none=True)
        self.head_optimizer.zero_grad(set_to_none=True)
        seconds = [self._view_vectors(intensity_view(images), second)] if views == 2 else []
        outputs = self.forward(images)
        loss = segmentation = self.segmentation_loss(patches_of(outputs, 0, count), patches_of(targets, 0, count))
        if self.recipe.pseudo_labels.segmentation_weight:
            pseudo = self.segmentation_loss(patches_of(outputs, count, None), patches_of(targets, count, None))
            loss = loss + self.recipe.pseudo_labels.segmentation_weight * pseudo
        vectors = torch.cat([gather_features(self.features.take(), first), *seconds])
        contrast = self._contrast(vectors, sample, views * len(images))
        self.backward_and_step(
            loss + self.recipe.contrast.weight * contrast,
            (self.optimizer, self.network),
            (self.head_optimizer, self.head),
        )
        return {
            "loss": segmentation.detach().cpu().numpy(),
            "contrast": contrast.detach().cpu().numpy(),
        }

    def _joined(self, labeled: dict[str, Any], unlabeled: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
        """Images (B, C, *patch) and targets, from full resolution down, of a joint step: labeled patches first."""
        images = [labeled["data"], unlabeled["data"]]
        targets = [scales(labeled["target"]), scales(unlabeled["target"])]
        pairs = min(len(images[0]), len(images[1]))
        if self.recipe.mixing.copy_paste:
            mask = box_mask(images[0].shape[2:], self.recipe.mixing.box_fraction)
            swap_pairs(images, mask, pairs)
            for scale in zip(*targets, strict=True):
                swap_pairs(scale, nearest(mask, scale[0].shape[2:]), pairs)
        joined = torch.cat(images).to(self.device, non_blocking=True)
        return joined, [torch.cat(scale).to(self.device, non_blocking=True) for scale in zip(*targets, strict=True)]

    def _view_vectors(self, images: Tensor, sample: VoxelSample) -> Tensor:
        """Feature vectors of a second view; on a GPU the memory is planned for the images of a step once."""
        gather = self.features.recomputed_vectors if self.device.type == "cuda" else self.features.vectors
        return gather(self.forward, images, sample)

    def _contrast(self, vectors: Tensor, sample: VoxelSample, patches: int) -> Tensor:
        """L_cont of a step over its labeled and unlabeled patches: feature vectors (N, F) of the drawn voxels."""
        settings = self.recipe.contrast
        # In float32 also where the network runs in half precision: e^(1/τ) leaves no room for rounding.
        with autocast(self.device.type, enabled=False):
            embeddings = ranks.gather_rows(self.head_in_step(vectors.float()))
            sample = ranks.gather_sample(sample, patches)
            return local_contrastive_loss(
                embeddings,
                sample,
                n_images=patches * ranks.ranks(),
                n_classes=len(self.label_manager.foreground_labels),
                n_anchors=settings.anchors,
                temperature=settings.temperature,
                matching=settings.matching,
            )

    # --- pseudo-labels ----------------------------------------------------------------------------------------

    def pseudo_label(self, round_number: int) -> None:
        """Segment the unlabeled cases with the network of the moment and put the result on record.

        The network is that of the last checkpoint: what an interrupted try has finished is what it would be again.
        """
        folder = pseudo_labels.round_folder(self.run_folder, round_number)
        ranks.wait()
        if folder.complete:
            return
        if self.meets_folds and not have_met(self.run_folder, round_number, self.split.unlabeled):
            raise WaitsForFolds(round_number)
        before_s = self.seconds
        rows = self.segment_unlabeled(self.segmenter_of_round(round_number), round_number, folder, self.split.unlabeled)
        if rows:
            summary = pseudo_labels.summary(rows, list(self.labeled.classes))
            self.events.emit("pseudo_labels", round=round_number, seconds=self.seconds - before_s, **summary)

    def segmenter_of_round(self, round_number: int) -> pseudo_labels.Segmenter:
        """What makes the pseudo-labels of a round: the network, or after the first round its teacher."""
        return self._segmenter(self.network if self.teacher is None or round_number == 1 else self.teacher.network)

    def _segmenter(self, network: nn.Module) -> pseudo_labels.Segmenter:
        self.set_deep_supervision_enabled(False)
        return segmenter(self, network, mirroring=self.recipe.pseudo_labels.mirroring)

    def segment_into(
        self, folder: pseudo_labels.RoundFolder, segment: pseudo_labels.Segmenter, cases: Sequence[str], number: int
    ) -> None:
        """Segment ``cases`` into the folder of round ``number``, for training."""
        self._close_streams()
        chosen, last = self.recipe.pseudo_label_filter, self.recipe.schedule.rounds
        pseudo_labels.predict_round(
            segment,
            cases,
            self.store,
            folder,
            patch_voxels=tuple(self.configuration_manager.patch_size),
            labels_of=self.label_manager,
            one_piece=self.labeled.one_piece() if chosen.largest_component else [],
            # Nothing is trained on what is segmented after the last round.
            check=agreement_check(self, segment) if chosen.min_agreement and number <= last else None,
            progress=lambda done, total: self.events.notify(
                "pseudo_label", round=min(number, last), done=done, total=total
            ),
        )
        self.set_deep_supervision_enabled(self.enable_deep_supervision)

    def segment_unlabeled(
        self, segment: pseudo_labels.Segmenter, number: int, folder: pseudo_labels.RoundFolder, cases: Sequence[str]
    ) -> list[LedgerRow]:
        """Segment ``cases`` as the start of round ``number`` does and judge the result; one process judges."""
        started = monotonic()
        self.segment_into(folder, segment, ranks.share(cases), number)
        self.seconds += monotonic() - started
        chosen = self.recipe.pseudo_label_filter
        if number > self.recipe.schedule.rounds:
            chosen = replace(chosen, drop_outside_range=False, min_agreement=0.0)
        before = self.round_guard.labels_of(number - 1) if number > 1 else None
        classes, voxel_ml = self.labeled.classes, self.labeled.voxel_ml
        with ranks.rank_zero_first() as first:
            if not first:
                return []
            return pseudo_labels.keep_ledger(
                folder,
                before,
                cases,
                self.labeled.volumes_ml(),
                classes=classes,
                voxel_ml=voxel_ml,
                chosen=chosen,
            )

    # --- the guard --------------------------------------------------------------------------------------------

    @property
    def _guards(self) -> bool:
        return self.recipe.collapse_guard.enabled and not self.disable_checkpointing

    def check_collapse(self, round_number: int) -> bool:
        """Roll back round ``round_number``, just finished, if it ended in a collapse; whether to train on."""
        guard = self.round_guard
        if self._guards and guard.undecided(round_number):
            if round_number == self.recipe.schedule.rounds and not guard.labels_after(round_number).complete:
                self._check_last_round(round_number)
            dice = self.logger.get_value("mean_fg_dice", step=None) if self.has_validation else None
            reasons = guard.reasons(round_number, self.labeled.volumes_ml(), dice)
            if reasons:
                self._roll_back(round_number, reasons)
        if round_number in guard.collapsed:
            with ranks.rank_zero_first() as first:
                if first:
                    pseudo_labels.discard(guard.labels_after(round_number))
        return guard.goes_on

    def _check_last_round(self, round_number: int) -> None:
        """No round follows whose pseudo-labels would show a collapse: segment a few cases."""
        cases = sorted(self.split.unlabeled)[:CASES_OF_LAST_CHECK]
        folder = self.round_guard.labels_after(round_number)
        before_s = self.seconds
        rows = self.segment_unlabeled(self._segmenter(self.network), round_number + 1, folder, cases)
        if rows:
            summary = pseudo_labels.summary(rows, list(self.labeled.classes))
            self.events.emit("last_check", seconds=self.seconds - before_s, **summary)

    def _roll_back(self, round_number: int, reasons: list[str]) -> None:
        """Return to the start of the round; epochs count on, so that every run is as long as its recipe says."""
        facts = self.round_guard.roll_back(round_number, self._parts(), self.device)
        # On record before the checkpoint: what is interrupted here is decided, and put on record, again.
        self.events.emit("rolled_back", round=round_number, epoch=self.epoch, reasons=reasons, **facts)
        self.current_epoch -= 1  # save_checkpoint counts the current epoch as finished, and it was counted
        self.save_checkpoint(str(self.run_folder / LATEST))
        self.current_epoch += 1

    def _parts(self) -> dict[str, Any]:
        """What training changes and a roll-back restores; under ``network_weights`` as in every checkpoint."""
        parts = {
            "network_weights": unwrapped(self.network),
            "optimizer": self.optimizer,
            "head": self.head,
            "head_optimizer": self.head_optimizer,
            "teacher": self.teacher,
            "grad_scaler": self.grad_scaler,
        }
        return {name: part for name, part in parts.items() if part is not None}

    # --- files ------------------------------------------------------------------------------------------------

    def own_state(self) -> dict[str, Any]:
        """The head and its optimizer beside what every trainer keeps."""
        return {
            **super().own_state(),
            "head": self.head.state_dict(),
            "head_optimizer": self.head_optimizer.state_dict(),
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
            "collapsed": list(self.round_guard.collapsed),
        }

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`own_state` kept."""
        super().load_own_state(state)
        self.head.load_state_dict(state["head"])
        self.head_optimizer.load_state_dict(state["head_optimizer"])
        if self.teacher is not None:
            self.teacher.load_state_dict(state["teacher"])
        self.round_guard.collapsed = list(state.get("collapsed", ()))
