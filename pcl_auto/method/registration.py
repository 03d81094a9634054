"""Register one scan to another: affine, then deformable, by gradient descent on the correlation of intensities.

Scans are arrays (C, z, y, x) with normalized intensities. A place is in millimeters along x, y, z from the center of
its scan. Both parts maximize the correlation in small windows about every voxel (Avants et al., MedIA 12 (2008) 26);
the deformable one by displacements that are kept smooth and are changed with Adam (Siebert et al., Learn2Reg 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# A scan is registered on a grid of about so many voxels: displacements are smooth, and time and memory are bounded.
WORKING_VOXELS = 60_000
# No axis of the working grid has fewer, unless the scan has.
MIN_VOXELS = 8
AFFINE_STEPS, AFFINE_RATE = 100, 0.02
# On a grid of half as many voxels along every axis, then on the working grid.
LEVELS = (2.0, 1.0)
STEPS = (60, 30)
RATE = 0.2
# Weight of the squared differences of neighboring displacements, in voxels of the working grid.
ROUGHNESS = 0.1
# Standard deviation of the smoothing of displacements, in voxels of the working grid.
SMOOTHING = 1.0
# Local correlation is over windows of 2 * RADIUS + 1 voxels along every axis.
RADIUS = 2
# Of the intensities of a channel: what lies below or above does not count.
LOW_PERCENT, HIGH_PERCENT = 1.0, 99.0
_EPSILON = 1e-4


@dataclass(frozen=True)
class Scan:
    """A scan (C, z, y, x) and the spacing of its voxels in millimeters along z, y, x."""

    image: Tensor
    spacing_mm: tuple[float, float, float]

    @property
    def extent_mm(self) -> Tensor:
        """Return the lengths along x, y, z, shape (3,)."""
        lengths = [n * each for n, each in zip(self.image.shape[1:], self.spacing_mm, strict=True)]
        return torch.tensor(lengths[::-1], dtype=torch.float32, device=self.image.device)


def with_even_contrast(scan: Scan, device: torch.device) -> Scan:
    """Return the scan on ``device`` with each channel's percentiles 1 and 99 at 0 and 1, clipped to these."""
    channels = []
    for channel in scan.image.to(device, torch.float32):
        low, high = _percentile(channel, LOW_PERCENT), _percentile(channel, HIGH_PERCENT)
        channels.append(((channel - low) / (high - low + _EPSILON)).clamp(0, 1))
    return Scan(torch.stack(channels), scan.spacing_mm)


def _percentile(values: Tensor, percent: float) -> Tensor:
    """Return the value that ``percent`` of all values do not exceed; torch's quantile takes 16 million at most."""
    flat = values.flatten()
    return flat.kthvalue(1 + round(percent / 100 * (len(flat) - 1))).values


def register(fixed: Scan, moving: Scan) -> Tensor:
    """Find for every voxel of ``fixed`` its place in ``moving``.

    Returns:
        Places in ``moving`` in units of half its extent, as :func:`torch.nn.functional.grid_sample` takes them,
        shape (1, z, y, x, 3).
    """
    step_mm = max(_working_step_mm(fixed), _working_step_mm(moving))
    matrix, shift_mm = _affine(*(_shrunk(scan, 2 * step_mm) for scan in (fixed, moving)))
    moves_mm = torch.zeros(1, 3, 1, 1, 1, device=fixed.image.device)
    for level, steps in zip(LEVELS, STEPS, strict=True):
        shrunk_fixed, shrunk_moving = (_shrunk(scan, level * step_mm) for scan in (fixed, moving))
        moves_mm = _deformation(shrunk_fixed, shrunk_moving, matrix, shift_mm, moves_mm, steps)
    moves_mm = _resized(moves_mm, fixed.image.shape[1:])
    return _in_moving(_places(fixed) + moves_mm.permute(0, 2, 3, 4, 1), matrix, shift_mm, moving)


def move(image: Tensor, places: Tensor) -> Tensor:
    """Bring an image (C, z, y, x) of the moving scan to the fixed one; beyond its border it repeats the border.

    Args:
        image: of the moving scan, floating.
        places: from :func:`register`.
    """
    moved: Tensor = functional.grid_sample(image[None], places, padding_mode="border", align_corners=False)[0]
    return moved


def local_correlation(first: Tensor, second: Tensor, radius: int = RADIUS) -> Tensor:
    """Return the correlation of two images (C, z, y, x) in the window about each voxel, mean of channels, (z, y, x).

    At the border the window repeats the border; an image without contrast has correlation 0 with any.
    """
    means = [_window_mean(each, radius) for each in (first, second)]
    variances = [
        (_window_mean(each * each, radius) - mean * mean).clamp_min(0)
        for each, mean in zip((first, second), means, strict=True)
    ]
    covariance = _window_mean(first * second, radius) - means[0] * means[1]
    return (covariance / ((variances[0] + _EPSILON) * (variances[1] + _EPSILON)).sqrt()).mean(0)


# --- affine -------------------------------------------------------------------------------------------------------


def _affine(fixed: Scan, moving: Scan) -> tuple[Tensor, Tensor]:
    """Return matrix (3, 3) and shift (3,) that bring places of ``fixed`` to ``moving``, in millimeters."""
    device = fixed.image.device
    places, unit_mm = _places(fixed), fixed.extent_mm.mean() / 2
    change = torch.zeros(3, 4, device=device, requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=AFFINE_RATE)
    for _ in range(AFFINE_STEPS):
        matrix, shift_mm = torch.eye(3, device=device) + change[:, :3], change[:, 3] * unit_mm
        moved = move(moving.image, _in_moving(places, matrix, shift_mm, moving))
        loss = -local_correlation(fixed.image, moved).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    found = change.detach()
    return torch.eye(3, device=device) + found[:, :3], found[:, 3] * unit_mm


# --- deformable ---------------------------------------------------------------------------------------------------


def _deformation(fixed: Scan, moving: Scan, matrix: Tensor, shift_mm: Tensor, begin_mm: Tensor, steps: int) -> Tensor:
    """Return the displacement of each voxel of ``fixed`` along x, y, z in millimeters, shape (1, 3, z, y, x).

    It begins with ``begin_mm``, on any grid.
    """
    voxel_mm = torch.tensor(fixed.spacing_mm[::-1], device=fixed.image.device).view(1, 3, 1, 1, 1)
    moves = (_resized(begin_mm, fixed.image.shape[1:]) / voxel_mm).requires_grad_()
    optimizer = torch.optim.Adam([moves], lr=RATE)
    places = _places(fixed)
    for _ in range(steps):
        smooth = _smoothed(moves)
        moved_places = places + (smooth * voxel_mm).permute(0, 2, 3, 4, 1)
        moved = move(moving.image, _in_moving(moved_places, matrix, shift_mm, moving))
        roughness = sum(smooth.diff(dim=axis).square().mean() for axis in (2, 3, 4) if smooth.shape[axis] > 1)
        loss = ROUGHNESS * roughness - local_correlation(fixed.image, moved).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return _smoothed(moves.detach()) * voxel_mm


def _smoothed(moves: Tensor) -> Tensor:
    """Smooth displacements (1, 3, z, y, x) with a Gaussian, axis by axis."""
    reach = math.ceil(3 * SMOOTHING)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=moves.device) / SMOOTHING) ** 2)
    kernel = (kernel / kernel.sum()).to(moves.dtype)
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = len(kernel)
        weights = kernel.view(1, 1, *shape).expand(3, 1, *shape)
        moves = functional.conv3d(_bordered(moves, axis, reach), weights, groups=3)
    return moves


# --- grids --------------------------------------------------------------------------------------------------------


def _working_step_mm(scan: Scan) -> float:
    """Return the step of the finest grid with at most WORKING_VOXELS, on which no axis gets finer than it was."""
    low, high = 0.0, float(scan.extent_mm.max())
    for _ in range(40):
        middle = (low + high) / 2
        if math.prod(_shape_at(scan, middle)) > WORKING_VOXELS:
            low = middle
        else:
            high = middle
    return high


def _shape_at(scan: Scan, step_mm: float) -> list[int]:
    extents = reversed(scan.extent_mm.tolist())
    return [
        min(n, max(MIN_VOXELS, round(extent / step_mm)))
        for n, extent in zip(scan.image.shape[1:], extents, strict=True)
    ]


def _shrunk(scan: Scan, step_mm: float) -> Scan:
    """Average the scan over voxels of about ``step_mm``; axes that are coarser already stay."""
    shape = _shape_at(scan, step_mm)
    image = functional.interpolate(scan.image[None], size=shape, mode="area")[0]
    spacing = [each * n / m for each, n, m in zip(scan.spacing_mm, scan.image.shape[1:], shape, strict=True)]
    return Scan(image, (spacing[0], spacing[1], spacing[2]))


def _places(scan: Scan) -> Tensor:
    """Return the places of the voxels, shape (1, z, y, x, 3)."""
    device = scan.image.device
    axes = [
        (torch.arange(n, device=device) - (n - 1) / 2) * each
        for n, each in zip(scan.image.shape[1:], scan.spacing_mm, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1)[None]


def _in_moving(places_mm: Tensor, matrix: Tensor, shift_mm: Tensor, moving: Scan) -> Tensor:
    """Bring places of the fixed scan to the moving one, in units of half its extent."""
    return (places_mm @ matrix.T + shift_mm) / (moving.extent_mm / 2)


def _resized(moves: Tensor, shape: Sequence[int]) -> Tensor:
    """Interpolate displacements (1, 3, z, y, x) on a grid of another shape."""
    return functional.interpolate(moves, size=tuple(shape), mode="trilinear", align_corners=False)


def _bordered(volume: Tensor, axis: int, voxels: int) -> Tensor:
    """Repeat the border of a volume (1, C, z, y, x) along an axis."""
    pad = [0] * 6
    pad[2 * (2 - axis)] = pad[2 * (2 - axis) + 1] = voxels
    return functional.pad(volume, pad, mode="replicate")


def _window_mean(image: Tensor, radius: int) -> Tensor:
    """Average an image (C, z, y, x) over windows, axis by axis."""
    volume = image[None]
    for axis in range(3):
        kernel = [1, 1, 1]
        kernel[axis] = 2 * radius + 1
        volume = functional.avg_pool3d(_bordered(volume, axis, radius), kernel, stride=1)
    return volume[0]
