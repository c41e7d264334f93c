"""Evaluation: models compared on held-out rows and suites, and training data compared by lift."""
