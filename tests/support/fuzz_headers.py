"""Change bytes of NIfTI headers at random: each is accepted or refused quickly; ITK reads alike what is accepted."""

from __future__ import annotations

import gzip
import random
import signal
import sys
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK

from pcl_auto.data.formats.nifti import probe_image

HEADER_BYTES, SECONDS = 348, 5


def main(files: int, folder: Path) -> int:
    """Print how many were accepted and refused; return 1 if the two readers see different volumes."""
    draw, file = random.Random(0), folder / "fuzzed.nii.gz"
    voxels = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 2.0, 3.0, 1.0])), file)
    whole = gzip.decompress(file.read_bytes())
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    accepted = 0
    for _ in range(files):
        content = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(HEADER_BYTES)] = draw.randrange(256)
        file.write_bytes(gzip.compress(bytes(content), compresslevel=1))
        signal.alarm(SECONDS)
        volume, problems = probe_image(file)
        signal.alarm(0)
        if volume is None or problems:
            assert problems
            continue
        accepted += 1
        read = SimpleITK.ReadImage(str(file))
        if read.GetSize()[:3] != volume.shape:
            print(f"ITK reads {read.GetSize()}, we {volume.shape}")
            return 1
    print(accepted, files - accepted)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])))
