"""Score predicted masks and compare the scores of several models."""
