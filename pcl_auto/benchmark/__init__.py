"""Compare recipes with supervised nnU-Net on the same cases, steps and images."""
