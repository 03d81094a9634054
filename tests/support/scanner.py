"""DICOM series as a scanner exports them, one file per slice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

STEP_MM = 2.5
SPACING_MM = (0.8, 0.7)  # between columns, between rows
ORIENTATION = (1, 0, 0, 0, 1, 0)
INTERCEPT = -10


def volume(seed: int = 0, shape: tuple[int, int, int] = (6, 12, 10)) -> np.ndarray:
    """Draw noise with a bright box, shape (z, y, x)."""
    voxels = np.random.default_rng(seed).integers(0, 100, shape).astype(np.int16)
    voxels[1:4, 3:8, 2:7] += 1000
    return voxels


def write_series(
    folder: Path,
    voxels: np.ndarray,
    *,
    positions_mm: Sequence[Sequence[float]] | None = None,
    orientation: Sequence[float] = ORIENTATION,
    uid: str | None = None,
    **tags: Any,
) -> list[Path]:
    """Write a slice (y, x) of ``voxels`` per file, in names that do not say where they lie.

    ``positions_mm`` are of the first pixels; without them slices are ``STEP_MM`` apart along their normal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(orientation[:3], orientation[3:])
    if positions_mm is None:
        positions_mm = [(np.array([1.5, 2, 3]) + STEP_MM * index * normal).tolist() for index in range(len(voxels))]
    uid = uid or str(generate_uid())
    written = []
    for index, (plane, position) in enumerate(zip(voxels, positions_mm, strict=True)):
        slice_ = _slice(plane, position, orientation, uid)
        slice_.InstanceNumber = index + 1
        for keyword, value in tags.items():
            setattr(slice_, keyword, value)
        # Neither names nor their order follow the patient.
        written.append(folder / f"IM{(7 * index + 3) % 100:04d}_{uid[-6:]}")
        slice_.save_as(written[-1], enforce_file_format=True)
    return written


def _slice(plane: np.ndarray, position: Sequence[float], orientation: Sequence[float], uid: str) -> Dataset:
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, generate_uid()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.PatientID, made.PatientName, made.PatientBirthDate, made.PatientSex = "P1", "Phantom^", "", "O"
    made.StudyInstanceUID, made.FrameOfReferenceUID = uid[:60] + ".1", uid[:60] + ".2"
    made.StudyID, made.StudyDate, made.StudyTime, made.AccessionNumber = "1", "", "", ""
    made.ReferringPhysicianName = made.Manufacturer = made.PositionReferenceIndicator = ""
    made.SeriesInstanceUID, made.SeriesNumber, made.Modality = uid, 3, "CT"
    made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    made.Rows, made.Columns = plane.shape
    made.PixelSpacing, made.SliceThickness = [SPACING_MM[1], SPACING_MM[0]], STEP_MM
    made.ImageOrientationPatient = [float(value) for value in orientation]
    made.ImagePositionPatient = [round(float(value), 6) for value in position]
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.RescaleSlope, made.RescaleIntercept = 1, INTERCEPT
    made.PixelData = plane.astype("<i2").tobytes()
    return made
