"""The samples of a selection as columns and matrices, and what is kept of earlier runs."""
