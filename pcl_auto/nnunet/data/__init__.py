"""Store preprocessed cases and pseudo-labels, and stream patches from them."""
