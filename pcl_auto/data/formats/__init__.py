"""Read and check image files: NIfTI, DICOM, and the geometry they share."""
