"""Talk to the terminal: results, progress, interrupts, shared options."""
