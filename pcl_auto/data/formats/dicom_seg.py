"""Write masks as DICOM SEG (needs the extra ``dicom``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pydicom
from highdicom.content import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from pcl_auto import __version__
from pcl_auto.data.formats.dicom import Series
from pcl_auto.errors import DataError, Problem
from pcl_auto.workspace.atomic import atomic_path
from pcl_auto.workspace.files import printable

_SERIES_NUMBER = 900
# What a series must have for others to find a segmentation's images.
_IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPClassUID", "SOPInstanceUID")
# Of DICOM's long strings (LO).
_LONGEST_TEXT = 64


def write_dicom_seg(
    mask: np.ndarray, series: Series, classes: Mapping[str, tuple[int, ...]], model: str, target: Path
) -> None:
    """Write a mask (z, y, x) of ``series`` to ``target``, a segment per class, with the names of the classes.

    Raises:
        DataError: the series lacks what DICOM asks of one that is segmented.
    """
    algorithm = AlgorithmIdentificationSequence(
        printable(model)[:_LONGEST_TEXT], codes.DCM.ArtificialIntelligence, f"pclauto {__version__}"
    )
    descriptions = [
        SegmentDescription(
            segment_number=number,
            segment_label=printable(name)[:_LONGEST_TEXT],
            # The meaning of the names is unknown: the most general codes there are.
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.BodyStructure,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for number, name in enumerate(classes, start=1)
    ]
    try:
        slices = [pydicom.dcmread(file, force=True) for file in series.files]  # without a preamble too
        if missing := [name for name in _IDENTITY if not all(each.get(name) for each in slices)]:
            raise ValueError(f"no {', '.join(missing)}")
        step_mm = _step_mm(slices)
        for each in slices:
            each.SpacingBetweenSlices = step_mm  # which highdicom copies
        segmentation = Segmentation(
            source_images=slices,
            pixel_array=np.stack([np.isin(mask, values) for values in classes.values()], axis=-1),
            segmentation_type="BINARY",
            segment_descriptions=descriptions,
            series_instance_uid=generate_uid(),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="pclauto",
            manufacturer_model_name="pclauto",
            software_versions=__version__,
            device_serial_number="0",
            series_description="pclauto segmentation",
        )
    except (AttributeError, LookupError, ValueError, TypeError) as error:
        fix = "export the series with all of its patient, study and frame-of-reference tags, or leave out --dicom-seg"
        what = "no DICOM SEG can be made"
        raise DataError(Problem("dicom.no-segmentation", what, str(series), fix, found=str(error))) from error
    with atomic_path(target) as temporary:
        segmentation.save_as(temporary)


def _step_mm(slices: Sequence[pydicom.Dataset]) -> float:
    """Return the distance between slices by their positions; headers may state another one."""
    first = slices[0]
    normal = np.cross(*np.reshape(first.ImageOrientationPatient, (2, 3)).astype(float))
    depths_mm = [float(np.dot(normal, np.asarray(each.ImagePositionPatient, float))) for each in slices]
    step_mm = abs(depths_mm[-1] - depths_mm[0]) / (len(slices) - 1)
    return float(f"{step_mm:.10g}")  # DICOM's decimal strings have 16 characters
