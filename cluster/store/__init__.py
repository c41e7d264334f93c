"""The store of immutable datasets, and the ledger of a run."""
