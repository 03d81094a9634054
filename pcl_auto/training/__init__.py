"""Resolve a training request to a run, train it, and find models."""
