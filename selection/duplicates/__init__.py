"""Search for copies by wording and by meaning: keys, shingles, n-grams, spans, clusters, neighbours, groups."""
