"""Evaluation: two models compared on the held-out rows."""
