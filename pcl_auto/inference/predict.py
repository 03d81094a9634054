"""Segment scans with a trained model; one bad scan does not stop the others."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from pcl_auto.data.formats.dicom import Series, differ_in_frame
from pcl_auto.data.formats.scans import Scan, list_scans
from pcl_auto.errors import DataError, PclautoError, Problem, ResourceError, StateError, UsageError
from pcl_auto.inference.mask_record import DICOM_SEG, PREVIEW, MadeBy
from pcl_auto.inference.masks import MaskFolder
from pcl_auto.nnunet.environment import choose_device, prepare_environment
from pcl_auto.workspace.events import Listener
from pcl_auto.workspace.output import contains, refuse_input_folder, same_file
from pcl_auto.workspace.processes import output_to
from pcl_auto.workspace.resources import as_resource_error, require
from pcl_auto.workspace.run_record import model_folder

# A mask like its scan; of an .mhd too it is one file.
_LIKE = {".nrrd": ".nrrd", ".nhdr": ".nrrd", ".mha": ".mha", ".mhd": ".mha"}
_PLAIN = ".nii.gz"
# For what nnU-Net, ITK and highdicom print.
NOWHERE = Path("/dev/null")
# Of a file, in all file systems.
_MAX_NAME_BYTES = 255
# Resources that another scan may find sufficient.
_OF_ONE_SCAN = {"memory.too-small", "disk.name-too-long"}
# Headers hold about seven digits.
_SPACING_TOLERANCE = 1e-3

Status = Literal["done", "kept", "failed", "skipped"]
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Outputs:
    """Files to write for a scan: its mask in NIfTI or like the scan, a picture, a DICOM SEG beside a DICOM series."""

    keep_format: bool = False
    preview: bool = False
    dicom_seg: bool = False
    # With the confidence of each mask, which takes longer.
    quality: bool = True


@dataclass(frozen=True)
class Prediction:
    """Outcome of one scan; ``error`` describes ``problems``, ``exit_code`` is that of their kind."""

    id: str
    output: str | None
    status: Status
    error: str | None = None
    exit_code: int = 0
    problems: tuple[Problem, ...] = ()
    volumes_ml: dict[str, float] | None = None
    # As :class:`pcl_auto.method.confidence.Quality` has it.
    quality: dict[str, Any] | None = None
    # More than one where the memory did not suffice for the scan as a whole.
    slabs: int = 1
    preview: str | None = None
    dicom_seg: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the prediction as plain values."""
        return asdict(self)


class PredictionJob:
    """A model, the scans to segment with it, and the folder for their masks; ``masks.writing`` is the first to write.

    Raises:
        StateError: no usable model, or masks of another model in ``output``.
        UsageError: nothing to segment, a device that is not there, or scans that lie in ``output``.
    """

    def __init__(
        self,
        inputs: Sequence[Path],
        output: Path,
        model: Path,
        outputs: Outputs,
        *,
        device: str,
        mirroring: bool,
        overwrite: bool,
    ) -> None:
        refuse_input_folder(output)
        before = MadeBy.of(model, mirroring=mirroring)
        if not overwrite and not _overlap(inputs, output):
            MaskFolder(output, before, (), overwrite=False)  # refuses masks of another model before torch is there
        self.device = choose_device(device)
        prepare_environment()
        with output_to(NOWHERE):
            from pcl_auto.nnunet.inference.predictor import ModelPredictor

            self.predictor = ModelPredictor(model, self.device, mirroring=mirroring)
            made_by = MadeBy.of(model, mirroring=mirroring)
            _refuse_change(before, made_by)
            self.scans = _apart(inputs, list_scans(inputs, self.predictor.channels), output)
        self.outputs, self.model_name = outputs, model_folder(model).name
        self.masks = MaskFolder(output, made_by, [scan.id for scan in self.scans], overwrite=overwrite)

    def decide(self, scan: Scan, segment: Callable[[Scan, str], Outcome]) -> Prediction | Outcome:
        """Skip a scan or keep its mask; else return what ``segment`` makes of it and of the name for its mask.

        Raises:
            DataError: the scan is damaged, or none at all.
            StateError: a mask of another scan has the name.
            ResourceError: the name is too long for a file system, as where a mask's ending is longer than its scan's.
        """
        if scan.problem and scan.is_auxiliary:
            return Prediction(scan.id, None, "skipped", str(scan.problem), problems=(scan.problem,))
        if scan.problem:
            raise DataError(scan.problem)
        name = scan.id + (_LIKE.get(scan.suffix, _PLAIN) if self.outputs.keep_format else _PLAIN)
        self._refuse_long(name, scan.id)
        kept = self.masks.kept(scan, name)
        if kept is not None:
            facts, problem = kept
            told: dict[str, Any] = {} if problem is None else {"error": str(problem), "problems": (problem,)}
            return Prediction(scan.id, str(self.masks.folder / name), "kept", **facts, **told)
        return segment(scan, name)

    def _refuse_long(self, name: str, case: str) -> None:
        """Refuse a mask's name, or that of what goes beside it, before the scan is segmented."""
        beside = {PREVIEW: self.outputs.preview, DICOM_SEG: self.outputs.dicom_seg}
        longest = max((name, *(case + ending for ending, wanted in beside.items() if wanted)), key=len)
        if (length := len(os.fsencode(longest))) > _MAX_NAME_BYTES:
            what, fix = "the name of an output would be too long", "give the scan a shorter name"
            expected, where = f"at most {_MAX_NAME_BYTES} bytes", str(self.masks.folder / longest)
            raise ResourceError(Problem("disk.name-too-long", what, where, fix, expected, str(length)))

    def segment(self, scan: Scan, name: str) -> Prediction:
        """Segment a scan and write its mask under ``name``."""
        from pcl_auto.method.confidence import assess
        from pcl_auto.nnunet.data.images import write_mask

        mask, properties, confidence, slabs, remarks = self.predictor.segment(
            scan.files, confidence=self.outputs.quality
        )
        volumes_ml = _volumes_ml(mask, properties["sitk_stuff"]["spacing"], self.predictor.classes)
        if differ_in_frame([source for source in scan.files if isinstance(source, Series)]):
            remarks = (*remarks, "channels are in different frames of reference")
        quality = assess(confidence, volumes_ml, self.predictor.reference, remarks) if self.outputs.quality else None
        facts: dict[str, Any] = {"volumes_ml": volumes_ml, "quality": quality and quality.as_dict(), "slabs": slabs}
        self.masks.add(scan, name, facts, lambda file: write_mask(mask, file, properties))
        return Prediction(scan.id, str(self.masks.folder / name), "done", **facts)

    def finish(self, scan: Scan) -> Prediction:
        """Decide on a scan, segment it if need be, and draw and convert its mask where that is asked for."""
        result = self.decide(scan, self.segment)
        if result.output is None:
            return result
        mask = Path(result.output)
        try:
            if self.outputs.preview:
                result = replace(result, preview=str(self._preview(scan, mask, result.quality)))
            if self.outputs.dicom_seg and isinstance(scan.files[0], Series):
                result = replace(result, dicom_seg=str(self._dicom_seg(scan.id, scan.files[0], mask)))
        except (DataError, StateError) as error:  # the mask is there all the same
            return replace(
                result, status="failed", error=str(error), exit_code=error.exit_code, problems=error.problems
            )
        return result

    def _preview(self, scan: Scan, mask: Path, quality: dict[str, Any] | None) -> Path:
        def write(target: Path) -> None:
            from pcl_auto.inference.preview import draw
            from pcl_auto.nnunet.data.images import read_image

            image, properties = read_image(scan.files)
            grid = properties["sitk_stuff"]
            classes = self.predictor.classes
            draw(image[0], _read_mask(mask), grid["spacing"], grid["direction"], classes, scan.id, target, quality)

        return self.masks.beside(scan.id, PREVIEW, write)

    def _dicom_seg(self, case: str, series: Series, mask: Path) -> Path:
        def write(target: Path) -> None:
            from pcl_auto.data.formats.dicom_seg import write_dicom_seg

            write_dicom_seg(_read_mask(mask), series, self.predictor.classes, self.model_name, target)

        return self.masks.beside(case, DICOM_SEG, write)


def _overlap(inputs: Sequence[Path], output: Path) -> bool:
    """Tell whether scans lie in the folder for masks, or it among them, which is refused by what they are."""
    folder = output.resolve()
    return any(folder in (path, *path.parents) or path in folder.parents for path in map(Path.resolve, inputs))


def attempt(scan: Scan, action: Callable[[Scan], Outcome]) -> Prediction | Outcome:
    """Return what ``action`` makes of a scan, or why the scan failed: whatever is bad about it, the others go on.

    Raises:
        ResourceError: no room on the disk: the next scan would find none either.
    """
    try:
        return action(scan)
    except ResourceError as error:
        if any(problem.code not in _OF_ONE_SCAN for problem in error.problems):
            raise
        return _failed(scan, error)
    except Exception as error:  # noqa: BLE001 (see above)
        return _failed(scan, error)


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

    Masks of the same model that are there already are kept, unless ``overwrite``: then each is replaced when the new
    one is there, and where a scan fails, its old mask stays, on record as old.

    Raises:
        StateError, UsageError: see :class:`PredictionJob`; and a package that is not there.
        LockedError: another process writes masks there.
        ResourceError: no room on the disk; the masks made before are whole.
    """
    if outputs.dicom_seg:
        require("highdicom", "dicom", "--dicom-seg")
    job = PredictionJob(inputs, output, model, outputs, device=device, mirroring=mirroring, overwrite=overwrite)
    listener("device", {"device": str(job.device)})
    results: list[Prediction] = []
    with job.masks.writing():
        for scan in job.scans:
            with output_to(NOWHERE):
                results.append(attempt(scan, job.finish))
            listener("predict", {"done": len(results), "total": len(job.scans)})
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
        affine: where the scan's header has one (x, y, z to mm in RAS, shape (4, 4)), to check the order of axes by, and
            to turn the scan by where the model's reader does.
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
    with output_to(NOWHERE):
        from pcl_auto.nnunet.data.images import finite_voxels
        from pcl_auto.nnunet.inference.predictor import ModelPredictor

        predictor = ModelPredictor(model, chosen, mirroring=mirroring)
        properties = {"spacing": spacing, **({} if affine is None else {"sitk_stuff": _direction(affine)})}
        return predictor.segment_image(finite_voxels(volume, "image"), properties, "image").mask


def _direction(affine: np.ndarray) -> dict[str, Any]:
    """Return the direction cosines of an affine as ITK has them: row by row, in LPS."""
    to_mm = np.asarray(affine, dtype=float)[:3, :3] * [[-1], [-1], [1]]
    return {"direction": tuple((to_mm / np.linalg.norm(to_mm, axis=0)).flatten())}


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


def _failed(scan: Scan, error: Exception) -> Prediction:
    """Describe a scan that cannot be segmented: by its problems, or of a fault of the program by its text."""
    known = error if isinstance(error, PclautoError) else as_resource_error(error)
    if known is None:
        return Prediction(scan.id, None, "failed", str(error) or type(error).__name__, PclautoError.exit_code)
    return Prediction(scan.id, None, "failed", str(known), known.exit_code, known.problems)


def _volumes_ml(
    mask: np.ndarray, spacing_mm: Sequence[float], classes: Mapping[str, tuple[int, ...]]
) -> dict[str, float]:
    """Return the volume of every class, to a cubic millimeter."""
    # Slice by slice: counting takes eight bytes for each voxel.
    values = 1 + int(mask.max(initial=0))
    voxels = sum((np.bincount(plane.ravel(), minlength=values) for plane in mask), np.zeros(values, dtype=np.int64))
    voxel_ml = math.prod(spacing_mm) / 1000
    return {
        name: round(float(sum(voxels[value] for value in values if value < len(voxels)) * voxel_ml), 3)
        for name, values in classes.items()
    }


def _read_mask(file: Path) -> np.ndarray:
    from pcl_auto.nnunet.data.images import read_label

    mask: np.ndarray = read_label(file)[0].astype(np.uint16)  # it comes in float32
    return mask


def _refuse_change(before: MadeBy, after: MadeBy) -> None:
    """Refuse a model that was exchanged as it was loaded: masks would be on record as another one's.

    Raises:
        StateError: it is another one.
    """
    if not before.is_still(after):
        what, fix = "the model was changed as it was loaded", "wait until nothing writes there, and repeat the command"
        raise StateError(Problem("model.changed-meanwhile", what, before.model, fix))


def _apart(inputs: Iterable[Path], scans: Sequence[Scan], output: Path) -> list[Scan]:
    """Return the scans without what lies in ``output`` itself, where that is a folder below one of ``inputs``.

    Raises:
        UsageError: masks would be written where scans lie, also where a mask would have another name than its scan.
    """
    folders = [path for path in inputs if path.is_dir()]
    if any(contains(folder, output) for folder in folders):
        given = set(inputs)
        scans = [scan for scan in scans if given & {*scan.paths} or not _lies_in(output, scan)]
    # A link may stand among the scans, or the scan among the masks that the link leads to.
    places = {place for scan in scans for path in scan.paths for place in (path.parent, path.resolve().parent)}
    if any(same_file(output, place) for place in [*folders, *places]):
        raise UsageError(
            Problem(
                code="predict.masks-among-scans",
                what="the masks would lie among the scans",
                where=str(output),
                fix="choose another folder with -o",
            )
        )
    return list(scans)


def _lies_in(folder: Path, scan: Scan) -> bool:
    paths = scan.paths
    return bool(paths) and all(contains(folder, path) for path in paths)
