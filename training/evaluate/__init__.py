"""Evaluation: two models on the rows that were held out."""
