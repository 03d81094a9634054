"""Train nnU-Net's networks by a recipe, with rounds of self-training."""
