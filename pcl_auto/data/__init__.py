"""Data sets on disk: the decathlon reader, the file probe, and the checks that judge every file before any work."""
