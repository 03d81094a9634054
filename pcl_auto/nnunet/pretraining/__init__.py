"""Pre-train nnU-Net's networks on stored images, without any label."""
