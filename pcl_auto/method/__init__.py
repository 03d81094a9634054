"""Compute the method on tensors and arrays; no disk, no environment, no nnU-Net."""
