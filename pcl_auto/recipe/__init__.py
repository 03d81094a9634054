"""Define, load and fit recipes: every setting of a training."""
