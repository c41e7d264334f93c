"""The gate: the rule by which a challenger takes the champion's place, as pure functions of values of items.

A family of items is one observation: the mean over its items of challenger minus champion, from -1 to 1. The test of
a suite asks whether the mean over all families that the suite could have is above a margin. `tests/proof/gate.py`
plays 100,000 years of rounds for it (`benchmarks/gate.json`).
"""
