"""The ground: Ray session, actor pool, store, ledger, recipes, ingest and export, command line."""
