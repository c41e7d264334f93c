"""Suites of frozen items: made, asked of every model, judged, and compared."""
