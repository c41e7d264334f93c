"""Texts of any script: their words, their languages, and keys that are equal for copies."""
