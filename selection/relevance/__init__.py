"""How near samples are to a small target set: pure functions, one file for each method."""
