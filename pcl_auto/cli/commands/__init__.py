"""Define the verbs of `pclauto`, one file each."""
