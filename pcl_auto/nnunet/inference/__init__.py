"""Segment scans with nnU-Net's networks."""
