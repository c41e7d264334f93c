"""The report of a run, which is one HTML page."""
