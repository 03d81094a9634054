"""What a run leaves on disk: workspace, atomic files, lock, events."""
