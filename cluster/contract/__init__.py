"""What all packages agree on: errors, ids, settings and fingerprints, the tables, one sample."""
