"""Texts of any script: words, languages, prompts, and what comes back from a model."""
