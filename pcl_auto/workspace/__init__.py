"""Keep the files of a workspace: folders, atomic writes, locks, events, records."""
