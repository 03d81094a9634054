"""The voxels of a compressed DICOM slice: whether they are sound, and what a decoder other than GDCM's makes of them.

GDCM believes a codestream before the header, prints of damage at most, and ends the process for some.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt

Stored = npt.NDArray[np.int32]

# By transfer syntax.
_RLE = "1.2.840.10008.1.2.5"
_JPEG = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70)}
_JPEG_LS = {f"1.2.840.10008.1.2.4.{number}" for number in (80, 81)}
_JPEG_2000 = {f"1.2.840.10008.1.2.4.{number}" for number in (90, 91)}
ENCODINGS = {_RLE} | _JPEG | _JPEG_LS | _JPEG_2000
# Those whose voxels are what was compressed, and how far decoders may be apart in the others.
_LOSSLESS = {_RLE} | {f"1.2.840.10008.1.2.4.{number}" for number in (57, 70, 80, 90)}
_LOSSY_TOLERANCE = 2
_RLE_HEADER = 64
_START, _END = b"\xff\xd8", b"\xff\xd9"
_START_2000 = b"\xff\x4f\xff\x51"
_BOX_2000, _MOST_BOXES = b"\0\0\0\x0cjP  ", 1024
_HEADER_2000 = 45  # with one component
_SCAN, _TABLE, _RESTART = 0xDA, 0xC4, 0xDD
_LOSSLESS_FRAME = 0xC3
# Frames of JPEG that there are decoders for: baseline, extended, progressive, lossless, JPEG-LS.
_FRAMES = {0xC0, 0xC1, 0xC2, _LOSSLESS_FRAME, 0xF7}


@dataclass(frozen=True)
class _Jpeg:
    """The markers of a JPEG or JPEG-LS codestream, to the start of its only scan."""

    kind: int
    rows: int
    columns: int
    bits: int
    components: int
    # Bits of the Huffman code of each category, by table; none in JPEG-LS.
    code_lengths: dict[int, dict[int, int]]
    restart: int
    scan: bytes  # the parameters of the scan
    data_at: int


def is_whole(frame: bytes, encoding: str) -> bool:
    """Tell whether the codestream of one or more frames begins and ends as it should: GDCM may not live to tell."""
    if encoding == _RLE:
        return _segments_are_sound(frame, int.from_bytes(frame[:4], "little"))
    return (_size_2000(frame) if encoding in _JPEG_2000 else _size_jpeg(frame)) is not None


def is_sound(frame: bytes, encoding: str, rows: int, columns: int, bits: int) -> bool:
    """Tell whether a frame's codestream is whole, and of ``rows`` x ``columns`` voxels that ``bits`` bits are for."""
    if encoding == _RLE:
        return _segments_are_sound(frame, bits // 8)
    found = _size_2000(frame) if encoding in _JPEG_2000 else _size_jpeg(frame)
    if found is None:
        return False
    *size, precision, components = found
    if _holds_another(frame, encoding):
        return False
    # In whole bytes: to GDCM a precision of its own is the header's fault, or the codestream's, as it happens.
    return size == [rows, columns] and components == 1 and 2 <= precision <= 16 and 8 * math.ceil(precision / 8) == bits


def decode(frame: bytes, encoding: str, rows: int, columns: int, bits: int, *, signed: bool, stored: int) -> Stored:
    """Return the stored values of a sound frame, shape (y, x), int32.

    Args:
        frame: for which :func:`is_sound` is true.
        encoding: transfer syntax.
        rows: of the slice.
        columns: of the slice.
        bits: allocated to a voxel.
        signed: if the header says so.
        stored: bits of a value, the last of which is its sign.

    Raises:
        ValueError: the frame is damaged.
    """
    try:
        values = _decode_by_codec(frame, encoding, rows, columns, bits)
    except Exception as error:  # each codec has errors of its own
        raise ValueError(str(error)) from error
    if values.shape != (rows, columns):
        raise ValueError(f"shape {values.shape}")
    if encoding in _JPEG and not _is_used_up(frame, values):
        raise ValueError("other data than its voxels")
    whole: Stored = values.astype(np.int32)
    if signed and whole.min() >= 0:
        whole = (whole + (1 << stored - 1)) % (1 << stored) - (1 << stored - 1)
    return whole


def tolerance(encoding: str) -> int:
    """Return how far the values of two decoders may be apart."""
    return 0 if encoding in _LOSSLESS else _LOSSY_TOLERANCE


def _decode_by_codec(frame: bytes, encoding: str, rows: int, columns: int, bits: int) -> npt.NDArray[Any]:
    if encoding == _RLE:
        dtype = np.dtype(f"<u{bits // 8}")
        return np.frombuffer(imagecodecs.dicomrle_decode(frame, dtype), dtype).reshape(rows, columns)
    if encoding in _JPEG_LS:
        return imagecodecs.jpegls_decode(frame)
    if encoding in _JPEG_2000:
        return imagecodecs.jpeg2k_decode(frame)
    return imagecodecs.jpeg8_decode(frame)


def _segments_are_sound(frame: bytes, bytes_per_voxel: int) -> bool:
    """Tell whether a run-length encoded frame has a segment for each byte of a voxel."""
    if len(frame) < _RLE_HEADER:
        return False
    count, *offsets = np.frombuffer(frame[:_RLE_HEADER], "<u4").tolist()
    used = offsets[:count]
    return (
        count == bytes_per_voxel > 0
        and used[0] == _RLE_HEADER
        and all(first < second for first, second in zip(used, [*used[1:], len(frame)], strict=True))
    )


def _size_2000(frame: bytes) -> tuple[int, int, int, int] | None:
    """Return rows, columns, bits and components of a whole JPEG 2000 codestream, also in JP2's boxes."""
    begin = frame.find(_START_2000, 0, _MOST_BOXES) if frame.startswith(_BOX_2000) else 0
    frame = frame[max(0, begin) :]
    if not frame.startswith(_START_2000) or not _ends(frame) or len(frame) < _HEADER_2000:
        return None
    right, bottom, left, top = np.frombuffer(frame[8:24], ">u4").tolist()
    components = int.from_bytes(frame[40:42], "big")
    precision = (frame[42] & 0x7F) + 1
    return bottom - top, right - left, precision, components


def _size_jpeg(frame: bytes) -> tuple[int, int, int, int] | None:
    """Return rows, columns, bits and components of a whole JPEG or JPEG-LS codestream."""
    header = _read_jpeg(frame)
    if header is None or not _ends(frame):
        return None
    return header.rows, header.columns, header.bits, header.components


def _holds_another(frame: bytes, encoding: str) -> bool:
    """Tell whether a second image follows the first; in the data of one there is no such marker."""
    if encoding in _JPEG_2000:
        return frame.count(_START_2000) > 1
    header = _read_jpeg(frame)
    return header is not None and _START in frame[header.data_at :]


def _ends(frame: bytes) -> bool:
    return frame.rstrip(b"\0").endswith(_END)


def _read_jpeg(frame: bytes) -> _Jpeg | None:
    kind, rows, columns, bits, components, restart = 0, 0, 0, 0, 0, 0
    code_lengths: dict[int, dict[int, int]] = {}
    for marker, place, segment in _markers(frame):
        if marker in _FRAMES and len(segment) >= 6:
            kind, bits, components = marker, segment[0], segment[5]
            rows, columns = int.from_bytes(segment[1:3], "big"), int.from_bytes(segment[3:5], "big")
        elif marker == _TABLE:
            code_lengths |= _tables(segment)
        elif marker == _RESTART:
            restart = int.from_bytes(segment[:2], "big")
        elif marker == _SCAN:
            data_at = place + len(segment)
            return _Jpeg(kind, rows, columns, bits, components, code_lengths, restart, segment, data_at)
    return None


def _markers(frame: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield marker, place and content of the segments before the data of the first scan."""
    place = 2 if frame.startswith(_START) else len(frame)
    while place + 4 <= len(frame) and frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker == 0xFF:  # filling
            place += 1
            continue
        end = place + 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
        yield marker, place + 4, frame[place + 4 : end]
        place = end


def _tables(segment: bytes) -> dict[int, dict[int, int]]:
    """Return, for each Huffman table in a segment, how long the code of each category is."""
    tables: dict[int, dict[int, int]] = {}
    while len(segment) >= 17:
        counts, symbols = segment[1:17], segment[17:]
        lengths = [length for length, count in enumerate(counts, start=1) for _ in range(count)]
        tables[segment[0] & 0x0F] = dict(zip(symbols, lengths, strict=False))
        segment = symbols[len(lengths) :]
    return tables


def _is_used_up(frame: bytes, values: npt.NDArray[Any]) -> bool:
    """Tell whether a lossless JPEG holds as many bits as its voxels take: decoders make up those that are missing.

    ITU-T T.81, annex H: of each voxel the difference to what its neighbors predict is stored, as its category in
    Huffman's code and as many bits more as the category says. True of what has restarts, or loss, where nothing is
    counted.
    """
    header = _read_jpeg(frame)
    if header is None or header.kind != _LOSSLESS_FRAME or header.restart:
        return True
    if len(header.scan) < 6:
        return False
    # One component: its number, its table; then the predictor, and by how many bits values were shifted.
    table, predictor, shift = header.scan[2] >> 4, header.scan[3], header.scan[5] & 0x0F
    voxels = values.astype(np.int64) >> shift
    left, above, corner = voxels[1:, :-1], voxels[:-1, 1:], voxels[:-1, :-1]
    rules = {
        1: left, 2: above, 3: corner, 4: left + above - corner, 5: left + (above - corner >> 1),
        6: above + (left - corner >> 1), 7: left + above >> 1,
    }  # fmt: skip
    if predictor not in rules:
        return False
    predicted = np.empty_like(voxels)
    predicted[0, 0] = 1 << header.bits - shift - 1
    predicted[0, 1:] = voxels[0, :-1]
    predicted[1:, 0] = voxels[:-1, 0]
    predicted[1:, 1:] = rules[predictor]
    # Modulo 2^16; of 32768 the sign is left out, and so are its bits.
    apart = (voxels - predicted + 32767) % 65536 - 32767
    categories, numbers = np.unique(np.frexp(np.abs(apart))[1], return_counts=True)
    lengths = header.code_lengths.get(table, {})
    if not set(categories.tolist()) <= lengths.keys():
        return False
    bits = sum(
        number * (lengths[category] + category % 16)
        for category, number in zip(categories.tolist(), numbers.tolist(), strict=True)
    )
    data = frame[header.data_at : frame.rfind(_END)].rstrip(b"\xff")  # filling; as data a zero would follow
    return bool(math.ceil(bits / 8) == len(data) - data.count(b"\xff\x00"))
