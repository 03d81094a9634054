"""Find the cases of a data set: decathlon folders, nnU-Net's raw format, dataset.json."""
