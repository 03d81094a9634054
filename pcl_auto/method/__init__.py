"""The method as pure functions of tensors and arrays: no disk, no environment, no nnU-Net."""
