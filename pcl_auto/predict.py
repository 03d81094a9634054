"""``pclauto predict``: segment scans with a trained model, one bad scan not stopping the others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pcl_auto.data.nifti import probe_image
from pcl_auto.errors import DataError, PclautoError, Problem, ResourceError, StateError, UsageError
from pcl_auto.nnunet.environment import choose_device, prepare_environment
from pcl_auto.request import JOINT, SUPERVISED
from pcl_auto.run.atomic import atomic_path
from pcl_auto.run.events import Listener
from pcl_auto.run.files import read_json, write_json
from pcl_auto.run.quiet import output_to
from pcl_auto.run.workspace import Workspace

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
# Which model made the masks of a folder; masks of two models do not mix.
RECORD = "predictions.json"
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})$")

Status = Literal["done", "kept", "failed"]


@dataclass(frozen=True)
class Scan:
    """A scan to segment: its name and its files, one in 4D or one per channel."""

    id: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Prediction:
    """What became of a scan."""

    id: str
    output: str | None
    status: Status
    error: str | None = None
    exit_code: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The prediction as plain values."""
        return asdict(self)


def find_model(workspace: Workspace, name: str | None, *, supervised_only: bool = False) -> Path:
    """The model folder to predict with.

    Args:
        workspace: where models are looked for by name.
        name: a model folder, a fold's folder, or the name of a model in the workspace; None for the one trained last.
        supervised_only: take the baseline trained last.

    Raises:
        StateError: there is no such model, or more than one.
    """
    known = sorted(path.parent for path in workspace.results.glob("Dataset*/*/plans.json"))
    if name is not None:
        given = Path(name)
        named = [model for model in known if name == model.name]
        if len(named) > 1:
            raise StateError(
                Problem(
                    what=f"{len(named)} data sets have a model {name!r}",
                    where=str(workspace.results),
                    expected=" | ".join(map(str, named)),
                    fix="give the path of one of these with --model",
                )
            )
        for candidate in [*([given, given.parent] if given.is_dir() else []), *named]:
            if (candidate / "plans.json").is_file():
                return candidate.resolve()
        raise StateError(_no_model(f"no model {name!r}", workspace, known))
    last = workspace.remembered().get("last_run", {})
    for trainer in (SUPERVISED,) if supervised_only else (JOINT, SUPERVISED):
        if trainer in last and (Path(last[trainer]) / "plans.json").is_file():
            return Path(last[trainer])
    raise StateError(_no_model("no trained model", workspace, known))


def _no_model(what: str, workspace: Workspace, known: Sequence[Path]) -> Problem:
    return Problem(
        what=what,
        where=str(workspace.results),
        expected=" | ".join(model.name for model in known),
        fix="train one with `pclauto train`, or name a model folder with --model",
    )


def list_scans(inputs: Iterable[Path], channels: int) -> list[Scan]:
    """The scans that files and folders hold; ``name_0000``, ``name_0001``, … are the channels of one scan.

    Raises:
        UsageError: nothing to segment, or two scans whose masks would have the same name.
    """
    problems, files = [], []
    for path in inputs:
        if path.is_dir():
            found = [file for file in sorted(path.iterdir()) if _suffix(file) and not file.name.startswith(".")]
            files += found
            if not found:
                problems.append(
                    Problem("no scan", str(path), "name another folder", expected=f"files {' '.join(SUFFIXES)}")
                )
        elif path.exists():
            files.append(path)
        else:
            problems.append(Problem("no such file or folder", str(path), "check the path"))
    scans = _group_channels(files, channels)
    for case in sorted({scan.id for scan in scans}):
        same = [scan for scan in scans if scan.id == case]
        if len(same) > 1:
            problems.append(
                Problem(
                    what=f"{len(same)} scans would write {case}.nii.gz",
                    where=", ".join(str(scan.files[0]) for scan in same),
                    fix="predict them into different folders, or rename them",
                )
            )
    if problems:
        raise UsageError(problems)
    return scans


def _suffix(path: Path) -> str | None:
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)


def _stem(path: Path) -> str:
    return path.name[: -len(_suffix(path) or "")] if _suffix(path) else path.name


def _group_channels(files: Sequence[Path], channels: int) -> list[Scan]:
    groups: dict[tuple[Path, str], dict[int, Path]] = {}
    for file in files:
        match = _CHANNEL.match(_stem(file))
        if match:
            groups.setdefault((file.parent, match["case"]), {})[int(match["channel"])] = file
    complete = {
        key: tuple(group[index] for index in range(channels))
        for key, group in groups.items()
        if set(group) == set(range(channels))
    }
    grouped = {file for group in complete.values() for file in group}
    scans = [Scan(case, group) for (_, case), group in complete.items()]
    scans += [Scan(_stem(file), (file,)) for file in files if file not in grouped]
    return sorted(scans, key=lambda scan: scan.id)


def predict(
    inputs: Sequence[Path],
    output: Path,
    model: Path,
    *,
    device: str = "auto",
    mirroring: bool = True,
    overwrite: bool = False,
    listener: Listener,
) -> list[Prediction]:
    """Segment every scan in ``inputs`` into ``output``, each mask on its scan's grid and named after it.

    Masks of the same model that are there already are kept, unless ``overwrite``.

    Raises:
        StateError: no usable model, or masks of another model in ``output``.
        ResourceError: no room on the disk; the masks made before are whole.
        UsageError: nothing to segment, a device that is not there, or scans that lie in ``output`` themselves.
    """
    chosen = choose_device(device)
    prepare_environment()
    with output_to(Path("/dev/null")):
        from pcl_auto.nnunet.images import write_mask
        from pcl_auto.nnunet.predictor import ModelPredictor

        predictor = ModelPredictor(model, chosen, mirroring=mirroring)
    scans = list_scans(inputs, predictor.channels)
    _refuse_scan_folder(scans, output)
    record = _record(model, mirroring=mirroring)
    made = _claim(output, record, {scan.id for scan in scans} if overwrite else set())

    results = []
    for index, scan in enumerate(scans):
        target = output / f"{scan.id}.nii.gz"
        try:
            status: Status = "kept"
            files = _identify(scan)
            if made.get(scan.id) != files or not _is_whole(target):
                if made.get(scan.id) != files:
                    _refuse_another_mask(target)
                _refuse_damaged(scan)
                with output_to(Path("/dev/null")):
                    mask, properties = predictor.segment(scan.files)
                    with atomic_path(target) as temporary:
                        write_mask(mask, temporary, properties)
                        # Before the mask has its name: a mask that nobody has on record is somebody else's.
                        made[scan.id] = files
                        write_json(output / RECORD, {**record, "scans": made})
                status = "done"
            results.append(Prediction(scan.id, str(target), status))
        except ResourceError:
            raise  # the next scan would find no room either
        except Exception as error:  # noqa: BLE001 (one bad scan, whatever is bad about it, does not stop the others)
            code = error.exit_code if isinstance(error, PclautoError) else 1
            results.append(Prediction(scan.id, None, "failed", str(error) or type(error).__name__, code))
        listener("predict", {"done": index + 1, "total": len(scans)})
    return results


def _refuse_scan_folder(scans: Sequence[Scan], output: Path) -> None:
    """Scans are never written over, also not where a mask would have another name than its scan."""
    if output.resolve() in {file.parent.resolve() for scan in scans for file in scan.files}:
        raise UsageError(
            Problem(
                what="the masks would lie among the scans",
                where=str(output),
                fix="choose another folder with -o",
            )
        )


def _refuse_damaged(scan: Scan) -> None:
    """SimpleITK reads a truncated NIfTI as zeros and NaN as 0: look before it does."""
    problems = [
        problem for file in scan.files if _suffix(file) in (".nii", ".nii.gz") for problem in probe_image(file)[1]
    ]
    if problems:
        raise DataError(problems)


def _record(model: Path, *, mirroring: bool) -> dict[str, Any]:
    checkpoints = sorted(model.glob("fold_*/checkpoint_final.pth"))
    return {
        "model": str(model),
        "checkpoints": {
            f"{path.parent.name}/{path.name}": [path.stat().st_size, path.stat().st_mtime_ns] for path in checkpoints
        },
        "mirroring": mirroring,
    }


def _identify(scan: Scan) -> list[list[Any]]:
    """Which files a mask was made from, and in what state they were."""
    return [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in scan.files]


def _is_whole(mask: Path) -> bool:
    """Whether a mask that was written here is there and still readable."""
    return mask.is_file() and not probe_image(mask)[1]


def _refuse_another_mask(target: Path) -> None:
    """A mask that is there, and was not made from the scan at hand, stays."""
    if target.is_file():
        raise StateError(
            Problem(
                what="there is a mask of another scan, or of this scan as it was before",
                where=str(target),
                fix="choose another folder with -o, or --overwrite",
            )
        )


def _claim(output: Path, record: dict[str, Any], replaced: set[str]) -> dict[str, Any]:
    """Note in ``output`` which model fills it; masks of ``replaced`` scans are removed, to be made anew.

    Returns:
        what each mask that stays was made from.

    Raises:
        StateError: it holds other masks, that another model, or nobody knows which, has made.
    """
    file = output / RECORD
    recorded = read_json(file) if file.is_file() else {}
    made: dict[str, Any] = recorded.pop("scans", {})
    masks = {_stem(mask): mask for mask in sorted(output.glob("*.nii.gz"))}
    staying = [mask.name for case, mask in masks.items() if case not in replaced]
    if recorded != record and staying:
        raise StateError(
            Problem(
                what="the folder holds masks of another model",
                where=str(output),
                expected=record["model"],
                found=f"{len(staying)} ({staying[0]}, …) of " + recorded.get("model", "an unknown one"),
                fix="choose an empty folder with -o, or replace all of its masks with --overwrite",
            )
        )
    for case in replaced & masks.keys():
        masks[case].unlink()
    made = {case: files for case, files in made.items() if case in masks and case not in replaced}
    output.mkdir(parents=True, exist_ok=True)
    write_json(file, {**record, "scans": made})
    return made
