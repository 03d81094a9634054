"""Check every file of a data set before any work begins."""
