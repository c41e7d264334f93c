"""What a selection says afterwards: decisions, the breaker, comparisons with baselines, topics."""
