"""Jobs, recipes and runs: what a section of a recipe is, how a recipe is read, and how it is executed."""
