"""Jobs, recipes and runs: the sections of a recipe, how a recipe is read, and how it is executed."""
