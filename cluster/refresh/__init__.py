"""Periodic refresh of a model: rounds, promotion, rollback, watch and lineage."""
