"""Texts of any script: words, languages, and keys in which copies are equal."""
