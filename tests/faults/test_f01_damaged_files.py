"""F1 to F4, F10 to F13: files that are not what they should be are refused, each by name, before any work."""

from __future__ import annotations

import gzip
import random
import struct
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from refusal import codes
from refusals import accepted, image, label, refusal, small_task
from shared import SUPPORT

FUZZ = SUPPORT / "fuzz_headers.py"
BOMB = """
import sys
from pathlib import Path
from pcl_auto.data.formats.nifti import probe_image
from pcl_auto.workspace.resources import peak_memory_mb
for file in map(Path, sys.argv[1:]):
    volume, problems = probe_image(file)
    print(file.name, volume is None, *[problem.code for problem in problems])
print(peak_memory_mb())
"""


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return small_task(tmp_path)


def cut(file: Path, share: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])


def unzipped(file: Path) -> Path:
    """Write the same volume as .nii, which dataset.json's name finds too."""
    plain = file.with_suffix("")
    plain.write_bytes(gzip.decompress(file.read_bytes()))
    file.unlink()
    return plain


@pytest.mark.parametrize("share", [0.25, 0.5, 0.999])
def test_f01_truncated_gz(task: Path, share: float) -> None:
    cut(image(task), share)
    cut(label(task, 2), share)
    problems = refusal(task)
    assert codes(problems) == ["data.truncated"] * 2
    assert [problem.where for problem in problems] == [str(image(task)), str(label(task, 2))]
    assert all("copy the file again" in problem.fix for problem in problems)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.999])
def test_f02_truncated_nii(task: Path, share: float) -> None:
    plain = unzipped(image(task))
    voxels_bytes = plain.stat().st_size - 352
    cut(plain, share)
    (problem,) = refusal(task)
    assert problem.code == "data.truncated"
    assert problem.where == str(plain)
    assert problem.expected == f"{voxels_bytes} bytes of voxels"
    assert int(problem.found) == plain.stat().st_size - 352


def test_f03_bit_flips_and_a_wrong_checksum(task: Path) -> None:
    draw, file = random.Random(0), image(task)
    whole = file.read_bytes()
    for _ in range(40):
        data = bytearray(whole)
        data[draw.randrange(10, len(data) - 8)] ^= 1 << draw.randrange(8)
        file.write_bytes(data)
        (problem,) = refusal(task)
        assert problem.where == str(file)
        assert problem.code in {"data.gzip-damaged", "data.gzip-checksum", "nifti.not-nifti", "data.truncated"}
    file.write_bytes(whole[:-8] + struct.pack("<I", struct.unpack("<I", whole[-8:-4])[0] ^ 1) + whole[-4:])
    assert codes(refusal(task)) == ["data.gzip-checksum"]


@pytest.mark.parametrize(
    ("content", "code", "found"),
    [
        (b"", "data.empty", "0 bytes"),
        (b"patient, age\n1, 2\n", "nifti.not-nifti", "text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(400), "nifti.not-nifti", "PNG"),
    ],
)
def test_f04_other_content(task: Path, content: bytes, code: str, found: str) -> None:
    image(task).write_bytes(content)
    (problem,) = refusal(task)
    assert (problem.code, problem.where) == (code, str(image(task)))
    assert found in problem.found


def test_f04_gzip_data_without_the_name(task: Path) -> None:
    image(task).rename(image(task).with_suffix(""))
    assert codes(refusal(task)) == ["nifti.name-and-content"]


@pytest.mark.parametrize(
    ("change", "code"),
    [((0, 1, 0.01), "nifti.sheared"), ((0, 3, 1e9), "nifti.far-away")],
)
def test_f10_orientations_that_itk_does_not_read(task: Path, change: tuple[int, int, float], code: str) -> None:
    row, column, value = change
    volume = nibabel.load(image(task))
    affine = volume.affine.copy()
    affine[row, column] = value
    made = nibabel.Nifti1Image(np.asanyarray(volume.dataobj), affine)
    made.header.set_qform(None, 0)
    nibabel.save(made, image(task))
    assert [(problem.code, problem.where) for problem in refusal(task)] == [(code, str(image(task)))]
    with pytest.raises(RuntimeError):
        SimpleITK.ReadImage(str(image(task)))


def header(file: Path, offset: int, layout: str, *values: float) -> None:
    content = bytearray(gzip.decompress(file.read_bytes()))
    struct.pack_into(layout, content, offset, *values)
    file.write_bytes(gzip.compress(bytes(content)))


@pytest.mark.parametrize(
    ("offset", "layout", "values", "code", "field"),
    [
        (80, "<f", (0.0,), "nifti.spacing-impossible", "pixdim"),
        (80, "<f", (-1.0,), "nifti.spacing-impossible", "pixdim"),
        (80, "<f", (float("nan"),), "nifti.spacing-impossible", "pixdim"),
        (280, "<f", (float("nan"),), "nifti.no-orientation", "sform"),
        (280, "<12f", (0.0,) * 12, "nifti.no-orientation", "sform"),
        (108, "<f", (1e9,), "nifti.offset-beyond-end", "vox_offset"),
        (42, "<h", (-3,), "nifti.size-impossible", "-3"),
        (40, "<h", (0,), "nifti.dimension-count", "dim[0]"),
        (70, "<h", (9999,), "nifti.voxel-type", "9999"),
    ],
)
def test_f10_f11_impossible_headers(
    task: Path, offset: int, layout: str, values: tuple[float, ...], code: str, field: str
) -> None:
    header(image(task), offset, layout, *values)
    (problem,) = refusal(task)
    assert (problem.code, problem.where) == (code, str(image(task)))
    assert field in str(problem)


def test_f10_a_volume_without_any_transform_is_accepted_by_its_spacing(task: Path) -> None:
    for file in (image(task), label(task)):
        header(file, 252, "<hh", 0, 0)
    # Another orientation than the rest is for `pclauto check`; both files agree, so training can use them.
    assert accepted(task)


@pytest.mark.slow
def test_f11_f13_what_claims_or_unpacks_to_more_than_there_is_takes_no_memory(tmp_path: Path) -> None:
    claim, bomb = tmp_path / "claim.nii.gz", tmp_path / "bomb.nii.gz"
    empty = nibabel.Nifti1Header()
    empty.set_data_dtype("int16")
    empty.set_data_shape((30000, 30000, 30000))
    empty["vox_offset"] = 352
    head = bytes(empty.binaryblock) + bytes(4)
    claim.write_bytes(gzip.compress(head + bytes(1000)))
    empty.set_data_shape((10, 10, 10))
    with gzip.open(bomb, "wb", compresslevel=9) as file:
        file.write(bytes(empty.binaryblock) + bytes(4))
        for _ in range(1024):
            file.write(bytes(2**20))
    assert bomb.stat().st_size < 2**21
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(claim), str(bomb)], capture_output=True, text=True, timeout=60
    )
    first, second, peak_mb = done.stdout.splitlines()
    assert first == "claim.nii.gz True nifti.claims-too-much"
    assert second == "bomb.nii.gz True nifti.trailing-data"
    assert int(peak_mb) < 500


def test_f12_600_fuzzed_headers(tmp_path: Path) -> None:
    # In a process of its own: a crash of a library would be a negative exit code.
    done = subprocess.run([sys.executable, FUZZ, "600", str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    accepted, refused = map(int, done.stdout.split())
    assert accepted + refused == 600
    assert accepted > 30
    assert refused > 100
