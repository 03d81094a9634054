"""Segment scans with a trained model and write their masks."""
