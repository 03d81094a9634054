"""Plan a data set, and prepare a split of it for training."""
