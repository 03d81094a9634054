"""``pclauto predict``: segment scans with a trained model, one bad scan not stopping the others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pcl_auto.data.formats.dicom import Series
from pcl_auto.data.formats.nifti import probe_image
from pcl_auto.data.formats.scans import Scan, list_scans
from pcl_auto.data.formats.suffixes import NIFTI_SUFFIXES, split_suffix
from pcl_auto.errors import DataError, PclautoError, Problem, ResourceError, UsageError
from pcl_auto.inference.masks import MaskFolder
from pcl_auto.nnunet.environment import choose_device, prepare_environment
from pcl_auto.workspace.events import Listener
from pcl_auto.workspace.processes import output_to
from pcl_auto.workspace.system import as_resource_error, require

if TYPE_CHECKING:
    from pcl_auto.nnunet.inference.predictor import ModelPredictor

# A mask like its scan; of an .mhd too it is one file.
_LIKE = {".nrrd": ".nrrd", ".nhdr": ".nrrd", ".mha": ".mha", ".mhd": ".mha"}
_PLAIN = ".nii.gz"
# For what nnU-Net, ITK and highdicom print.
_NOWHERE = Path("/dev/null")

# Headers hold about seven digits.
_SPACING_TOLERANCE = 1e-3

Status = Literal["done", "kept", "failed", "skipped"]


@dataclass(frozen=True)
class Outputs:
    """What is written for a scan: its mask in NIfTI or like the scan, a picture, a DICOM SEG beside a DICOM series."""

    keep_format: bool = False
    preview: bool = False
    dicom_seg: bool = False
    # Whether it is estimated how far each mask is to be trusted.
    quality: bool = True


@dataclass(frozen=True)
class Prediction:
    """Hold the outcome of one scan; ``error`` describes ``problems``, ``exit_code`` is that of their kind."""

    id: str
    output: str | None
    status: Status
    error: str | None = None
    exit_code: int = 0
    problems: tuple[Problem, ...] = ()
    volumes_ml: dict[str, float] | None = None
    # As :class:`pcl_auto.method.confidence.Quality` has it.
    quality: dict[str, Any] | None = None
    # In how many it was segmented, one after the other: more than one where the memory does not suffice for all.
    slabs: int = 1
    preview: str | None = None
    dicom_seg: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The prediction as plain values."""
        return asdict(self)


def predict(
    inputs: Sequence[Path],
    output: Path,
    model: Path,
    *,
    device: str = "auto",
    mirroring: bool = True,
    overwrite: bool = False,
    outputs: Outputs = Outputs(),
    listener: Listener,
) -> list[Prediction]:
    """Segment every scan in ``inputs`` into ``output``, each mask on its scan's grid and named after it.

    Masks of the same model that are there already are kept, unless ``overwrite``.

    Raises:
        StateError: no usable model, or masks of another model in ``output``.
        ResourceError: no room on the disk; the masks made before are whole.
        UsageError: nothing to segment, a device or package that is not there, or scans that lie in ``output``.
    """
    if outputs.dicom_seg:
        require("highdicom", "dicom", "--dicom-seg")
    chosen = choose_device(device)
    prepare_environment()
    with output_to(_NOWHERE):
        from pcl_auto.nnunet.inference.predictor import ModelPredictor

        predictor = ModelPredictor(model, chosen, mirroring=mirroring)
        scans = list_scans(inputs, predictor.channels)
    refuse_scan_folder(inputs, scans, output)
    masks = mask_folder(output, model, scans, mirroring=mirroring, overwrite=overwrite)
    masks.begin()
    results = []
    for index, scan in enumerate(scans):
        try:
            with output_to(_NOWHERE):
                results.append(_segment(scan, predictor, masks, outputs))
        except ResourceError:
            raise  # no room on the disk: the next scan would find none either
        except Exception as error:  # noqa: BLE001 (one bad scan, whatever is bad about it, does not stop the others)
            results.append(failed(scan, error))
        listener("predict", {"done": index + 1, "total": len(scans)})
    return results


def predict_array(
    image: np.ndarray,
    spacing_mm: Sequence[float],
    model: Path,
    *,
    affine: np.ndarray | None = None,
    device: str = "auto",
    mirroring: bool = True,
) -> np.ndarray:
    """Segment an image in memory: the same voxels as :func:`predict` writes for the same scan in a file.

    Args:
        image: shape (z, y, x), or (C, z, y, x) with the channels in the order of the model's.
        spacing_mm: of the voxels along z, y and x.
        model: a model folder.
        affine: where the scan's header has one (x, y, z to mm, shape (4, 4)), to check the order of axes by.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        mirroring: as of :func:`predict`.

    Returns:
        the mask (z, y, x).

    Raises:
        DataError: the array is no image, or its spacing is not that of the ``affine``.
        StateError: no usable model, or one for another number of channels.
        ResourceError, NumericalError: see :func:`predict`.
    """
    volume = np.asarray(image)
    volume = volume[None] if volume.ndim == 3 else volume
    if volume.ndim != 4 or not volume.size or volume.dtype.kind not in "biuf":
        raise DataError(
            Problem(
                code="data.not-a-volume",
                what="the array is no image",
                where="image",
                expected="real numbers of shape (z, y, x), or (C, z, y, x) with the channels first",
                found=f"{volume.dtype} of shape {np.shape(image)}",
                fix="give volumes",
            )
        )
    spacing = [float(step) for step in spacing_mm]
    _require_spacing(spacing, affine)
    chosen = choose_device(device)
    prepare_environment()
    with output_to(_NOWHERE):
        from pcl_auto.nnunet.data.images import finite_voxels
        from pcl_auto.nnunet.inference.predictor import ModelPredictor

        predictor = ModelPredictor(model, chosen, mirroring=mirroring)
        return predictor.segment_image(finite_voxels(volume, "image"), {"spacing": spacing}, "image").mask


def _require_spacing(spacing_mm: Sequence[float], affine: np.ndarray | None) -> None:
    """Refuse a spacing that is none, or not that of the ``affine``, as where axes come as x, y and z."""
    fix = "give the spacing along z, y and x in mm, and the array with its axes in that order"
    if len(spacing_mm) != 3 or not all(0 < step < math.inf for step in spacing_mm):
        found = str(tuple(spacing_mm))
        raise DataError(Problem("data.spacing", "no spacing", "spacing_mm", fix, "three positive lengths", found))
    steps_mm = None if affine is None else np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)[::-1]
    if steps_mm is not None and not np.allclose(spacing_mm, steps_mm, rtol=_SPACING_TOLERANCE, atol=0):
        expected = f"{tuple(steps_mm.round(4).tolist())}, as the affine has it along z, y and x"
        found = str(tuple(spacing_mm))
        raise DataError(Problem("data.spacing", "spacing unlike the affine's", "spacing_mm", fix, expected, found))


def checkpoints_of(model: Path) -> list[Path]:
    """The finished folds of a model."""
    return sorted(model.glob("fold_*/checkpoint_final.pth"))


def mask_folder(output: Path, model: Path, scans: Iterable[Scan], *, mirroring: bool, overwrite: bool) -> MaskFolder:
    """The folder ``output`` for masks that ``model`` makes of ``scans``.

    Raises:
        StateError: it holds masks of another model, or made otherwise.
    """
    made_by = {
        "model": str(model),
        "checkpoints": {
            f"{path.parent.name}/{path.name}": [path.stat().st_size, path.stat().st_mtime_ns]
            for path in checkpoints_of(model)
        },
        "mirroring": mirroring,
    }
    return MaskFolder(output, made_by, {scan.id for scan in scans} if overwrite else set())


def mask_name(scan: Scan, outputs: Outputs) -> str:
    """The name of a scan's mask."""
    return scan.id + (_LIKE.get(scan.suffix, _PLAIN) if outputs.keep_format else _PLAIN)


def _segment(scan: Scan, predictor: ModelPredictor, masks: MaskFolder, outputs: Outputs) -> Prediction:
    if scan.problem:
        if scan.is_auxiliary:
            return Prediction(scan.id, None, "skipped", str(scan.problem), problems=(scan.problem,))
        raise DataError(scan.problem)
    name = mask_name(scan, outputs)
    facts = masks.kept(scan, name)
    status: Status = "kept"
    if facts is None:
        from pcl_auto.method.confidence import assess
        from pcl_auto.nnunet.data.images import write_mask

        status = "done"
        refuse_damaged(scan)
        try:
            mask, properties, confidence, slabs = predictor.segment(scan.files, confidence=outputs.quality)
        except ResourceError as error:
            return failed(scan, error)  # too large for the memory; another may not be
        volumes_ml = _volumes_ml(mask, properties["sitk_stuff"]["spacing"], predictor.classes)
        quality = assess(confidence, volumes_ml, predictor.reference).as_dict() if outputs.quality else None
        facts = {"volumes_ml": volumes_ml, "quality": quality, "slabs": slabs}
        masks.add(scan, name, facts, lambda file: write_mask(mask, file, properties))
    result = Prediction(scan.id, str(masks.folder / name), status, **facts)
    try:
        return _with_extras(result, scan, predictor.classes, masks, outputs)
    except DataError as error:  # the mask is there all the same
        return replace(result, status="failed", error=str(error), exit_code=error.exit_code, problems=error.problems)


def failed(scan: Scan, error: Exception) -> Prediction:
    """Say what is told of a scan that cannot be segmented: of a fault of the program no problem, but its text."""
    told = error if isinstance(error, PclautoError) else as_resource_error(error)
    if told is None:
        return Prediction(scan.id, None, "failed", str(error) or type(error).__name__, PclautoError.exit_code)
    return Prediction(scan.id, None, "failed", str(told), told.exit_code, told.problems)


def _volumes_ml(
    mask: np.ndarray, spacing_mm: Sequence[float], classes: Mapping[str, tuple[int, ...]]
) -> dict[str, float]:
    """The volume of every class, to a cubic millimeter."""
    # Slice by slice: counting takes eight bytes for each voxel.
    values = 1 + int(mask.max(initial=0))
    voxels = sum((np.bincount(plane.ravel(), minlength=values) for plane in mask), np.zeros(values, dtype=np.int64))
    voxel_ml = math.prod(spacing_mm) / 1000
    return {
        name: round(float(sum(voxels[value] for value in values if value < len(voxels)) * voxel_ml), 3)
        for name, values in classes.items()
    }


def _with_extras(
    result: Prediction, scan: Scan, classes: Mapping[str, tuple[int, ...]], masks: MaskFolder, outputs: Outputs
) -> Prediction:
    """The picture and the DICOM SEG of a mask, made where they are asked for and not there."""
    from pcl_auto.nnunet.data.images import read_image

    mask_file = Path(str(result.output))
    picture, segmentation = masks.preview(scan.id), masks.dicom_seg(scan.id)
    if outputs.preview:
        if not picture.is_file():
            from pcl_auto.inference.preview import draw

            image, properties = read_image(scan.files)
            grid = properties["sitk_stuff"]
            draw(image[0], _read_mask(mask_file), grid["spacing"], grid["direction"], classes, scan.id, picture)
        result = replace(result, preview=str(picture))
    if outputs.dicom_seg and isinstance(scan.files[0], Series):
        if not segmentation.is_file():
            from pcl_auto.data.formats.dicom_seg import write_dicom_seg

            write_dicom_seg(
                _read_mask(mask_file), scan.files[0], classes, Path(masks.made_by["model"]).name, segmentation
            )
        result = replace(result, dicom_seg=str(segmentation))
    return result


def _read_mask(file: Path) -> np.ndarray:
    from pcl_auto.nnunet.data.images import read_label

    mask: np.ndarray = read_label(file)[0].astype(np.uint16)  # it comes in float32
    return mask


def refuse_scan_folder(inputs: Iterable[Path], scans: Sequence[Scan], output: Path) -> None:
    """Scans are never written over, also not where a mask would have another name than its scan.

    Raises:
        UsageError: the folder for the masks is one that scans lie in.
    """
    folders = {path.resolve() for path in inputs if path.is_dir()}
    if output.resolve() in folders | {path.parent.resolve() for scan in scans for path in scan.paths}:
        raise UsageError(
            Problem(
                code="predict.masks-among-scans",
                what="the masks would lie among the scans",
                where=str(output),
                fix="choose another folder with -o",
            )
        )


def refuse_damaged(scan: Scan) -> None:
    """SimpleITK reads a truncated NIfTI as zeros and NaN as 0: look before it does.

    Raises:
        DataError: the scan is damaged.
    """
    problems = [
        problem
        for path in scan.paths
        if split_suffix(path.name)[1] in NIFTI_SUFFIXES
        for problem in probe_image(path)[1]
    ]
    if problems:
        raise DataError(problems)
