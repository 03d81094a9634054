"""Read and check data sets, split their cases, and make or download example data."""
