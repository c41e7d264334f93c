"""Nearness of samples to a small target set: pure functions, one file for each method."""
