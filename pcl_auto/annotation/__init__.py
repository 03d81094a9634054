"""Choose cases to label next, and export pseudo-labels for correction."""
