"""One pass over the voxels of a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from pcl_auto.data.formats.nifti_bytes import Voxels
from pcl_auto.data.formats.nifti_header import Header
from pcl_auto.data.formats.usable_voxels import Spread
from pcl_auto.errors import Problem

Index = tuple[int, ...]
Quartiles = tuple[float, float, float]

# Voxels looked at together; keeps every temporary array small beside the volume.
_SLAB_VOXELS = 1 << 21
# Voxels of a channel that its quartiles are taken from, at most.
_SAMPLE = 1 << 16


@dataclass
class Survey:
    """Facts that one pass over the voxels gathers, in the order of the file: x first, channels last."""

    occupied: tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]
    spreads: list[Spread]
    samples: list[list[npt.NDArray[np.float32]]]
    every: int
    # Of each channel's values alone: the same scan in other files, compressed or typed otherwise, has the same ones.
    digests: list[hashlib.blake2b]
    bad_count: int = 0
    first_bad: Index = ()

    @classmethod
    def of(cls, header: Header, voxels: Voxels) -> Survey:
        """Survey the voxels of a file."""
        x, y, z = (np.zeros(size, dtype=np.bool_) for size in header.shape)
        channels = range(header.channels)
        every = max(1, int(np.prod(header.shape)) // _SAMPLE)
        shape = repr((header.shape, 1)).encode()
        digests = [hashlib.blake2b(shape, digest_size=16) for _ in channels]
        survey = cls((x, y, z), [Spread() for _ in channels], [[] for _ in channels], every, digests)
        for start, channel, values in iter_chunks(header, voxels):
            survey.add(start, channel, values)
        return survey

    def add(self, start: int, channel: int, values: Voxels) -> None:
        """Take in ``values`` (x, y, slab), whose first slice is slice ``start`` of ``channel``."""
        with np.errstate(over="ignore"):
            as_read = values.astype("<f4")
        plain = as_read.ravel(order="F")
        self.digests[channel].update(plain.data)
        nonzero = values != 0
        if values.dtype.kind == "f":
            # nnU-Net reads 32 bits: what is larger becomes infinite there.
            finite = np.isfinite(as_read)
            if not finite.all():
                self._note_bad(start, channel, finite)
                nonzero &= finite
                as_read = as_read[finite]
        plane = nonzero.any(axis=2)
        x, y, z = self.occupied
        x |= plane.any(axis=1)
        y |= plane.any(axis=0)
        z[start : start + nonzero.shape[2]] |= nonzero.any(axis=(0, 1))
        self.spreads[channel].add(as_read)
        drawn = plain[:: self.every]
        self.samples[channel].append(drawn[np.isfinite(drawn) & (drawn != 0)])

    @property
    def digest(self) -> str:
        """The digest of every channel, joined by dashes."""
        return "-".join(digest.hexdigest() for digest in self.digests)

    def quartiles(self) -> tuple[Quartiles, ...]:
        """Return the quartiles of every channel's nonzero voxels, from a sample; 0 where there are none."""
        joined = [np.concatenate(drawn) if drawn else np.zeros(0) for drawn in self.samples]
        found = [np.quantile(values, (0.25, 0.5, 0.75)) if values.size else np.zeros(3) for values in joined]
        return tuple((float(low), float(middle), float(high)) for low, middle, high in found)

    def _note_bad(self, start: int, channel: int, finite: npt.NDArray[np.bool_]) -> None:
        bad = ~finite
        if not self.bad_count:
            x, y, z = first_index(bad)
            self.first_bad = (x, y, z + start, channel)
        self.bad_count += int(bad.sum())

    def not_finite(self, where: str) -> list[Problem]:
        """Return the problem of NaN or infinite voxels, if there are any."""
        if not self.bad_count:
            return []
        *voxel, channel = self.first_bad
        found = f"{self.bad_count}, the first at voxel ({', '.join(map(str, voxel))})"
        found += f" of channel {channel}" if len(self.spreads) > 1 else ""
        fix = "restore the volume from its source, or replace these voxels by a value that means nothing there"
        return [Problem("data.not-finite", "NaN or infinite voxels", where, fix, "finite values in 32 bits", found)]

    def out_of_range(self, where: str) -> list[Problem]:
        """Return the problems of channels that nnU-Net cannot normalize."""
        named = [f"channel {channel}" if len(self.spreads) > 1 else "" for channel in range(len(self.spreads))]
        return [
            problem
            for spread, name in zip(self.spreads, named, strict=True)
            for problem in spread.out_of_range(where, name)
        ]

    def constant_channels(self) -> tuple[int, ...]:
        """Return the channels that hold one value, as nnU-Net reads them, in 32 bits."""
        return tuple(channel for channel, spread in enumerate(self.spreads) if spread.is_constant)


def iter_chunks(header: Header, voxels: Voxels) -> Iterator[tuple[int, int, Voxels]]:
    """Yield slab after slab of ``voxels``: its first slice, its channel, its real (scaled) values (x, y, slab)."""
    width, height, depth = header.shape
    step = max(1, _SLAB_VOXELS // (width * height))
    for channel, start in product(range(header.channels), range(0, depth, step)):
        yield start, channel, header.scale(voxels[:, :, start : start + step, channel])


def first_index(marked: npt.NDArray[np.bool_]) -> tuple[int, int, int]:
    """Return the index of the first true voxel in file order; there must be one."""
    x, y, z = np.unravel_index(int(np.argmax(marked.ravel(order="F"))), marked.shape, order="F")
    return int(x), int(y), int(z)
