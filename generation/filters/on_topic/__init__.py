"""A text on its topic: the filter, and the texts on everything else that it compares with."""
