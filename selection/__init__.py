"""Embedding, duplicates and choice: what of a dataset is worth training on."""
