"""Fair comparisons: recipes against supervised nnU-Net, on the same cases, steps and images."""
