"""Show progress: bars on a terminal, plain flushed lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from time import monotonic
from typing import TYPE_CHECKING, Any

from pcl_auto.cli.console.estimates import fitted_lines, overrun_lines, pretrained_lines
from pcl_auto.cli.console.heartbeat import Heartbeat
from pcl_auto.cli.console.terminal import Terminal, some_of
from pcl_auto.recipe.time_budget import format_duration, format_seconds
from pcl_auto.workspace.events import Listener

if TYPE_CHECKING:
    from pcl_auto.method.mirroring import MeasuredAxis
    from pcl_auto.recipe.time_budget import Fitted, Overrun

# What the rules of mirroring measure along each axis.
_MEASURES = {
    "symmetric": "share of mirrored scans that look like another",
    "unordered": "distance between classes in order, in standard deviations",
}


def _bar(terminal: Terminal) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("[dim]{task.fields[note]}"),
        console=terminal.err,
        transient=True,
        # nnU-Net's prints belong in the log; rich would fetch them back.
        redirect_stdout=False,
        redirect_stderr=False,
    )


@contextmanager
def counting(terminal: Terminal, names: Mapping[str, str]) -> Iterator[Listener]:
    """Yield a listener for events that count ``done`` of ``total``: a bar for each kind, and a line when it is done."""
    started: dict[str, float] = {}
    tasks: dict[str, Any] = {}
    bar = _bar(terminal)
    heartbeat = Heartbeat(terminal, "at work")

    def listen(event: str, values: dict[str, Any]) -> None:
        if event not in names:
            return
        if event not in tasks:
            started[event] = monotonic()
            tasks[event] = bar.add_task(names[event], total=values["total"], note="")
        bar.update(tasks[event], completed=values["done"])
        heartbeat.doing = f"{names[event]}: {values['done']} of {values['total']}"
        if values["done"] == values["total"]:
            bar.remove_task(tasks[event])
            seconds = monotonic() - started[event]
            if seconds > 1 or not terminal.err.is_terminal:
                terminal.print_line(f"{names[event]}: {values['total']} done in {format_seconds(seconds)}")

    # Elsewhere than on a terminal a bar without anything to count would still leave an empty line.
    with heartbeat, bar if terminal.err.is_terminal else nullcontext():
        yield listen


class TrainingProgress:
    """Listen to a training: a bar on a terminal, one line per epoch elsewhere, a line per round on both."""

    def __init__(self, terminal: Terminal) -> None:
        self.live = terminal.err.is_terminal and terminal.is_interactive
        self._print = terminal.print_line
        self._bar = _bar(terminal)
        self._heartbeat = Heartbeat(terminal, "preparing")
        self._task: Any = None
        self._epochs = self._steps_per_epoch = 0
        # What the last epoch came to, beside the bar of the next one.
        self._last_epoch = ""
        self._stage = ""
        # True once it was printed how long the training will take.
        self._forecast_shown = False
        self._folds_after = 0

    def __enter__(self) -> TrainingProgress:
        """Start drawing, on a terminal."""
        self._heartbeat.__enter__()
        if self.live:
            self._bar.start()
        return self

    def __exit__(self, *_details: object) -> None:
        """Leave the terminal as it was."""
        if self.live:
            self._bar.stop()
        self._heartbeat.__exit__()

    def begin(self, epochs: int, steps_per_epoch: int) -> None:
        """Prepare for a training of so many epochs."""
        self._epochs, self._steps_per_epoch = epochs, steps_per_epoch
        self._task = self._bar.add_task("preparing", total=epochs * steps_per_epoch, note="")

    def __call__(self, event: str, values: dict[str, Any]) -> None:
        """Take an event of the trainer."""
        handler = getattr(self, f"_on_{event}", None)
        if handler is not None:
            handler(**values)

    def _update(self, **values: Any) -> None:
        if self.live:
            self._bar.update(self._task, **values)

    def _count(self, what: str, things: str, done: int, total: int) -> None:
        """Show what is counted before the next step; what is done leaves no count behind."""
        self._show(what, f"{things} done" if done == total else f"{things} {done}/{total}")

    def _show(self, what: str, note: str) -> None:
        self._update(description=what, note=note)
        self._heartbeat.doing = f"{what}: {note}" if note else what

    def _print_once(self, line: str, done: int) -> None:
        """Print a line for the first of what is counted, where no bar shows it."""
        if done == 1 and not self.live:
            self._print(line)

    def _on_preprocess(self, done: int, total: int) -> None:
        self._count("preprocessing", "images", done, total)
        self._print_once(f"preprocessing {total} images", done)

    def _on_confidence(self, done: int, total: int) -> None:
        self._count("confidences", "unlabeled cases", done, total)
        self._print_once(f"confidences of {total} unlabeled cases, to compare new scans with", done)

    def _on_device(self, device: str) -> None:
        self._show("segmenting", f"scans, on {device}")

    def _on_predict(self, done: int, total: int) -> None:
        self._count("segmenting", "scans", done, total)

    def _on_pseudo_label(self, round: int, done: int, total: int) -> None:  # noqa: A002 (the event's own field)
        self._count(f"round {round}", "pseudo-labels", done, total)

    def _on_volumes_matched(self, round: int, logit_shifts: dict[str, float]) -> None:  # noqa: A002
        shifts = ", ".join(f"{name} {shift:+.1f}" for name, shift in logit_shifts.items() if shift)
        if shifts:
            self._print(f"round {round}: logits shifted to match volumes of labeled cases: {shifts}")

    def _on_initial_pseudo_label(self, done: int, total: int) -> None:
        self._count("first pseudo-labels", "cases", done, total)
        self._print_once(f"making {total} pseudo-labels to begin with", done)

    def _on_contrast_off(self, touching: float, least: float) -> None:
        self._print(
            f"the contrastive loss is left out: {touching:.1%} of the foreground's border touches another class "
            f"(contrast.min_touching is {least:g})"
        )

    def _on_copy_paste_off(self, coverage: float, least: float) -> None:
        self._print(
            f"copy-paste is left out: a patch covers {coverage:.0%} of the median image "
            f"(mixing.min_coverage is {least:g})"
        )

    def _on_warped_case(self, done: int, total: int) -> None:
        self._count("warped cases", "cases", done, total)
        self._print_once(f"moving labeled cases into the shape of unlabeled ones, {total} times", done)

    def _on_registration_off(self, labeled: int) -> None:
        self._print(f"registration is left out: it takes two labeled cases to judge it by, here is {labeled}")

    def _on_step(self, epoch: int, step: int) -> None:
        self._update(completed=epoch * self._steps_per_epoch + step)
        self._show(f"epoch {epoch + 1}/{self._epochs}", self._last_epoch)
        self._heartbeat.doing = f"epoch {epoch + 1}/{self._epochs}: step {step} of {self._steps_per_epoch}"

    def _on_timing(self) -> None:
        self._show("timing", "a few steps")
        self._print("timing     a few steps, pseudo-labels and a checkpoint on this machine …")

    def _on_fold(self, fold: int, folds: int) -> None:
        self._stage = ""
        self._folds_after = folds - fold
        self._print(f"fold {fold}/{folds}")

    def _on_budget(self, fitted: Fitted, *, fresh: bool, joint: bool) -> None:
        schedule = fitted.schedule
        self._epochs, self._steps_per_epoch = schedule.epochs, schedule.steps_per_epoch
        self._forecast_shown = fresh
        self._update(total=schedule.epochs * schedule.steps_per_epoch)
        for line in fitted_lines(fitted, fresh=fresh, joint=joint):
            self._print(line)

    def _on_pretrained(self, matched: dict[str, Any]) -> None:
        for line in pretrained_lines(matched):
            self._print(line)

    def _on_overrun(self, overrun: Overrun) -> None:
        for line in overrun_lines(overrun):
            self._print(line)

    def _on_mirroring(self, rule: str, axes: Mapping[str, MeasuredAxis]) -> None:
        along = " and ".join(name for name, found in axes.items() if found.mirrored) or "no axis"
        measured = ", ".join(f"{name} {found.measure:.2f}" for name, found in axes.items())
        if rule == "all":
            with_rounds = f"; with rounds this recipe mirrors along {along}" if axes else ""
            self._print(f"mirroring  along every axis, as stock nnU-Net{with_rounds}")
        elif rule == "none":
            self._print("mirroring  along no axis")
        elif not axes:
            self._print("mirroring  along every axis, as nnU-Net: too few scans to tell which are symmetric")
        else:
            self._print(f"mirroring  along {along} ({_MEASURES[rule]}: {measured})")

    def _on_epoch(self, epoch: int, epochs: int, stage: str, losses: dict[str, float], **rest: Any) -> None:
        text = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
        self._last_epoch = f"{stage}  {text}"
        self._show(f"epoch {epoch}/{epochs}", self._last_epoch)
        if not self.live or stage != self._stage:
            self._stage = stage
            if "patch_dice" in rest:  # without labels there is none
                dice = some_of((f"{value:.2f}" for value in rest["patch_dice"]), " ")
                text += f"  patch Dice {dice} ({rest['patch_dice_of']})"
            self._print(f"epoch {epoch}/{epochs}  {stage}  {text}  {format_seconds(rest['seconds'])}")
        if not self._forecast_shown and epoch < epochs:
            self._forecast_shown = True
            left = format_duration(rest["seconds"] * (epochs - epoch + self._folds_after * epochs))
            not_counted = ", pseudo-labels not counted" if "patch_dice" in rest else ""
            self._print(f"about {left} to go at the pace of this epoch{not_counted}")

    def _on_last_weights(self) -> None:
        self._print(
            "weights    the last ones of a stage, not the best: no validation cases to choose by (--validation)"
        )

    def _on_best_of_stage(self, round: int, epoch: int, patch_dice: float) -> None:  # noqa: A002
        self._print(
            f"round {round}: from the weights of epoch {epoch}, with the best validation Dice ({patch_dice:.3f})"
        )

    def _on_pseudo_labels(self, round: int, cases: int, **rest: Any) -> None:  # noqa: A002
        if round == 0 and not rest["used"]:
            self._print("the first pseudo-labels are left out, labels alone teach (see round_0/ledger.csv)")
            return
        left_out = cases - rest["used"]
        text = f"round {round}: {cases} pseudo-labels" + (f", {left_out} of them left out" if left_out else "")
        if rest["dice_to_last_round"] is not None:
            text += f", Dice {rest['dice_to_last_round']:.3f} to the last round's"
        if rest["outside_labeled_range"]:
            text += f"; {rest['outside_labeled_range']} with volumes unlike the labeled cases' (see ledger.csv)"
        self._print(text)
        if rest["kept_best"]:
            self._print(f"warning: no pseudo-label passed the judgment: the best {rest['used']} are used")
        for name in rest["vanished"]:
            self._print(f"warning: class {name} is in no pseudo-label of round {round}")

    def _on_degenerate(self, round: int, reasons: list[str]) -> None:  # noqa: A002
        why = some_of(reasons)
        self._print(f"warning: round {round} trains on labels alone, its pseudo-labels would spoil it: {why}")

    def _on_last_check(self, cases: int, dice_to_last_round: float, **_rest: Any) -> None:
        self._print(f"last check: {cases} cases, Dice {dice_to_last_round:.3f} to the last round's")

    def _on_rolled_back(self, round: int, reasons: list[str], back_to_epoch: int, **rest: Any) -> None:  # noqa: A002
        self._print(f"warning: round {round} ended in a collapse and is rolled back: {some_of(reasons)}")
        then = "training ends with these" if rest["training_ends"] else "the next round tries again from these"
        self._print(f"the weights are again those of epoch {back_to_epoch}; {then}")

    def _on_resumed(self, epoch: int) -> None:
        self._print(f"going on after epoch {epoch}")

    def _on_versions(self, **changed: tuple[str | None, str]) -> None:
        text = ", ".join(f"{name} {before or 'none'} → {now}" for name, (before, now) in changed.items())
        self._print(f"warning: the run goes on with other versions than it was started with: {text}")

    def _on_threads(self, threads: int, here: int) -> None:
        self._print(f"going on with {threads} threads, as the run was started; here it would be {here}")

    def _on_checkpoint_damaged(self, problem: dict[str, str], epoch: int) -> None:
        self._print(f"warning: {problem['what']} in {problem['where']}: {problem['found']}")
        self._print(f"the checkpoint before it is whole: that of epoch {epoch}")
