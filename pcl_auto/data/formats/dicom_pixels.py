"""The voxels of a DICOM slice: whether the file holds as many as its header says.

GDCM reads on beyond voxels that are too few, and takes the first of too many, without a word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pcl_auto.data.formats.dicom_compressed import ENCODINGS, is_sound, is_whole

# The encoding of a file (TransferSyntaxUID) as it stands in its first group.
_ENCODING = re.compile(rb"\x02\x00\x10\x00UI..([\d.]+)", re.DOTALL)
ENCODING_WITHIN = 4096
# Voxels as they are, in little or big endian.
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_PLAIN = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", _BIG_ENDIAN}
_IMPLICIT = "1.2.840.10008.1.2"
_PREAMBLE = 128
# Values of these kinds have lengths of four bytes, after two that mean nothing.
_LONG_KINDS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_ITEM, _ITEM_END, _UNDEFINED = b"\xfe\xff", b"\xfe\xff\xdd\xe0", 0xFFFFFFFF
_VOXELS = b"\xe0\x7f\x10\x00"
_DEFLATED = "1.2.840.10008.1.2.1.99"
# Sequences that change the values of voxels, each with an item, which GDCM leaves alone in files of single slices.
_SEQUENCES = {
    "ModalityLUTSequence": b"\x28\0\0\x30",
    "SharedFunctionalGroupsSequence": b"\x00\x52\x29\x92",
    "PerFrameFunctionalGroupsSequence": b"\x00\x52\x30\x92",
}


def holds_voxels(file: Path, rows: int, columns: int, bits: int) -> bool:
    """Tell whether a slice holds ``rows`` x ``columns`` voxels of ``bits`` bits, and no more.

    Less than a row more is padding.

    Raises:
        OSError: the file cannot be read.
    """
    content = file.read_bytes()
    encoding = encoding_of(content)
    if encoding in ENCODINGS:
        return is_sound(frame_of(content), encoding, rows, columns, bits)
    if encoding and encoding not in _PLAIN:
        return True  # refused for its encoding
    wanted = math.ceil(rows * columns * bits / 8)
    most = wanted + max(2, math.ceil(columns * bits / 8))
    order: Literal["big", "little"] = "big" if encoding == _BIG_ENDIAN else "little"
    tag = _VOXELS if order == "little" else _swapped(_VOXELS)
    place = content.rfind(tag)
    # An icon has voxels of its own, and voxels may look like the tag: any place that fits will do.
    while place >= 0:
        for length_at in (place + 8, place + 4):  # with the type of the value, or without
            begin = length_at + 4
            length = int.from_bytes(content[length_at:begin], order)
            if wanted <= length < most and begin + length <= len(content):
                return True
        place = content.rfind(tag, 0, place)
    return False


def may_be_read(content: bytes) -> bool:
    """Tell whether GDCM may be given a file: damage may cost it all memory, or end the process."""
    encoding = encoding_of(content)
    return not claims_too_much(content) and (encoding not in ENCODINGS or is_whole(frame_of(content), encoding))


def claims_too_much(content: bytes) -> bool:
    """Tell whether a value in a file's ``content`` claims more bytes than follow it: GDCM would take the memory.

    Sequences, their items and frames are walked into. What is not understood is left to GDCM.
    """
    return any(length != _UNDEFINED and begin + length > len(content) for _, begin, length in _elements(content))


def frame_of(content: bytes) -> bytes:
    """Return the compressed frame of a file's ``content``; of several all in one, of damaged ones less."""
    frames: list[bytes] = []
    is_open = False
    for tag, begin, length in _elements(content):
        if tag == _VOXELS:  # that of an icon comes before
            frames, is_open = [], length == _UNDEFINED
        elif tag == _ITEM_END:
            is_open = False
        elif is_open:
            frames.append(content[begin : begin + length])
    return b"".join(frames[1:])  # the first tells where others begin


def _elements(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield tag (in little endian), place and claimed length of the values of a file, as far as they are understood."""
    encoding = encoding_of(content)
    if content[_PREAMBLE : _PREAMBLE + 4] != b"DICM" or encoding not in _PLAIN | ENCODINGS:
        return
    place = _PREAMBLE + 4
    order: Literal["big", "little"] = "little"
    in_frames = False
    unknown = 0  # depth in a sequence of unknown type, which is implicit everywhere
    while place + 8 <= len(content):
        tag, kind = content[place : place + 4], content[place + 4 : place + 6]
        is_first_group = tag[:2] == b"\x02\0"
        if encoding == _BIG_ENDIAN and not is_first_group:
            tag, order = _swapped(tag), "big"
        is_item = tag[:2] == _ITEM
        explicit = is_first_group or not (encoding == _IMPLICIT or is_item or unknown)
        if explicit and not (kind.isalpha() and kind.isupper()):
            return
        if explicit and kind not in _LONG_KINDS:
            begin, length = place + 8, int.from_bytes(content[place + 6 : place + 8], order)
        else:
            begin = place + (12 if explicit else 8)
            length = int.from_bytes(content[begin - 4 : begin], order)
        yield tag, begin, length
        if tag == _VOXELS:
            in_frames = length == _UNDEFINED
        elif tag == _ITEM_END:
            in_frames, unknown = False, max(0, unknown - 1)
        elif length == _UNDEFINED and not is_item and (unknown or (explicit and kind == b"UN")):
            unknown += 1
        is_walked_into = length == _UNDEFINED or (explicit and kind == b"SQ") or (is_item and not in_frames)
        place = begin + (0 if is_walked_into else length)


def unread_fields(content: bytes) -> str:
    """Name what changes the values in the ``content`` of a slice and is not read; nothing where there is nothing."""
    encoding = encoding_of(content)
    if encoding == _DEFLATED:
        return "a deflated file"
    if encoding and encoding not in _PLAIN | ENCODINGS:
        return f"voxels in the encoding {encoding}"
    swap = _swapped if encoding == _BIG_ENDIAN else bytes
    item = swap(_ITEM + b"\0\xe0")
    found = []
    for name, tag in _SEQUENCES.items():
        # The type of the value, which implicit files leave out, its length, and the first item.
        pattern = re.escape(swap(tag)) + rb"(?:SQ\0\0)?.{4}" + re.escape(item)
        if re.search(pattern, content, re.DOTALL):
            found.append(name)
    return ", ".join(found)


def encoding_of(content: bytes) -> str:
    """Return the transfer syntax of a file; nothing where none is named."""
    match = _ENCODING.search(content[:ENCODING_WITHIN])
    return match[1].decode("ascii") if match else ""


def _swapped(tag: bytes) -> bytes:
    """Return group and element with the larger byte first."""
    return bytes((tag[1], tag[0], tag[3], tag[2]))
