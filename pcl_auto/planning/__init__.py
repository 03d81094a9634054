"""From a decathlon folder to a plan and a case store; from a split to what nnU-Net trains on."""
