"""The number format that a network computes in: half precision where the device is fast in it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def fast_in_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 numbers itself; others emulate it, slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def half_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast as nnU-Net has it on CUDA, to bfloat16 on a CPU that is fast in it, nothing elsewhere."""
    if device.type == "cuda":
        return torch.autocast("cuda")
    if device.type == "cpu" and fast_in_bfloat16():
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()
