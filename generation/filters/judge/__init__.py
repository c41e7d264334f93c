"""The filter `judge` and its rubrics."""
