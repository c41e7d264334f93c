"""Embedding, duplicates and choice: which samples of a dataset are worth training on."""
