"""Samples to packed tokens: chat templates, masks, bins."""
