"""Change the headers of MetaImage and NRRD files at random: refused, or read alike by ITK and by plain counting."""

from __future__ import annotations

import contextlib
import gzip
import random
import resource
import signal
import sys
import zlib
from pathlib import Path

import numpy as np
import SimpleITK
from headed_files import VOXELS, Changes, metaimage, nrrd

from pcl_auto.data.formats.itk_files import read_by_itk, require_sound
from pcl_auto.data.formats.text_header import TextHeader
from pcl_auto.errors import DataError

# A list of values per voxel, as 3D Slicer writes it.
VECTORS: Changes = {"dimension": "4", "sizes": "2 4 5 3", "kinds": "list domain domain domain"}
VECTORS |= {"space directions": "none (0,0.5,0) (-1,0,0) (0,0,2.5)"}
SECONDS, MAX_BYTES = 10, 6 << 30
WORDS = "nan inf -inf 0 -1 1 2 1e400 1e-320 99999999999 none True False LIST ../x /etc/passwd % %d raw gzip = : big"


def main(files: int, folder: Path) -> int:
    """Print how many were accepted and refused; return 1 if the two readings differ."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    draw, accepted = random.Random(0), 0
    (folder / "a.raw").write_bytes(VOXELS.tobytes())
    for index in range(6):
        (folder / f"s{index}.raw").write_bytes(VOXELS[20 * index : 20 * index + 20].tobytes())
    sources = [
        metaimage(folder / "a.mha"),
        metaimage(folder / "b.mha", {"CompressedData": "True"}),
        metaimage(folder / "a.mhd", {"ElementDataFile": "a.raw"}),
        nrrd(folder / "a.nrrd"),
        nrrd(folder / "b.nrrd", {"encoding": "gzip"}),
        nrrd(folder / "a.nhdr", {"data file": "a.raw"}),
        metaimage(folder / "l.mhd", {"ElementDataFile": "LIST 2"}, None, *(f"s{index}.raw" for index in range(6))),
        metaimage(folder / "p.mhd", {"ElementDataFile": "s%d.raw 0 5 1"}),
        nrrd(folder / "l.nhdr", {"data file": "LIST 2"}, None, *(f"s{index}.raw" for index in range(6))),
        nrrd(folder / "p.nhdr", {"data file": "s%d.raw 0 5 1"}),
        nrrd(folder / "v.nrrd", VECTORS),
    ]
    wholes = [(source.suffix, source.read_bytes()) for source in sources]
    for _ in range(files):
        suffix, whole = draw.choice(wholes)
        file = folder / f"fuzzed{suffix}"
        file.write_bytes(changed(whole, draw))
        signal.alarm(SECONDS)
        try:
            header, image = require_sound(file), read_by_itk(file)
        except (DataError, RuntimeError):
            continue
        finally:
            signal.alarm(0)
        accepted += 1
        ours, itk = counted(header), SimpleITK.GetArrayViewFromImage(image).tobytes()
        if ours != itk or not np.isfinite([*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection()]).all():
            print(f"ITK reads otherwise:\n{file.read_bytes()[:900]!r}")
            return 1
    print(accepted, files - accepted)
    return 0


def changed(whole: bytes, draw: random.Random) -> bytes:
    """Return a file with one to three changes in its header: of bytes, words, or whole lines."""
    length = whole.find(b"LOCAL\n") + 6 if b"LOCAL\n" in whole else max(whole.find(b"\n\n"), 0) or len(whole)
    header, data = bytearray(whole[:length]), whole[length:]
    for _ in range(draw.randint(1, 3)):
        kind = draw.randrange(4)
        if kind == 0:
            header[draw.randrange(len(header))] = draw.randrange(256)
        elif kind == 1:
            words = bytes(header).split(b" ")
            words[draw.randrange(len(words))] = draw.choice(WORDS.split()).encode()
            header = bytearray(b" ".join(words))
        elif kind == 2:
            lines = bytes(header).split(b"\n")
            with contextlib.suppress(IndexError):
                lines.insert(draw.randrange(len(lines)), lines.pop(draw.randrange(len(lines) - 1)))
            header = bytearray(b"\n".join(lines))
        else:
            place = draw.randrange(len(header))
            del header[place : place + draw.randint(1, 4)]
            header = header or bytearray(b"\n")
    return bytes(header) + data


def counted(header: TextHeader) -> bytes:
    """Return the voxels as the header counts them, in this machine's byte order, by no code of ours."""
    found = b""
    for piece in header.pieces:
        content = piece.file.read_bytes()
        start = len(content) - header.piece_bytes if piece.start == -1 else piece.start
        content = content[start : None if piece.packed_bytes is None else start + piece.packed_bytes]
        if header.encoding == "zlib":
            content = zlib.decompress(content)
        elif header.encoding == "gzip":
            content = gzip.decompress(content)
        found += content[piece.skipped_bytes :][: header.piece_bytes]
    return np.frombuffer(found, header.dtype).astype(header.dtype.newbyteorder("=")).tobytes()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])))
