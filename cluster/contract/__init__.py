"""The contract between all packages: errors, ids, settings and fingerprints, tables, and the sample."""
