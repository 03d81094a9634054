"""Read weights that were trained before, by whom ever, match them with a planned network, and begin with them."""
