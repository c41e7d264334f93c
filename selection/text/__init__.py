"""Text compared by its wording: keys, shared beginnings, shingles, n-grams, spans; compiled where it is hot."""
