"""Adapt nnU-Net; the only package that imports nnunetv2, where a new nnU-Net release is met."""
