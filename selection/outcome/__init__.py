"""The output of a selection: decisions, the breaker, comparisons with baselines, topics."""
