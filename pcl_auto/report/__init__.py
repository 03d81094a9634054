"""Render what a run did from the files that it left."""
