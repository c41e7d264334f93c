"""Looks: the suites are asked block by block, until the gate needs no more of their items."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from gristmill.training.evaluate.serving import AskAll
from gristmill.training.evaluate.suites.bench import Bench, OpenEngine
from gristmill.training.evaluate.suites.compare import trials
from gristmill.training.evaluate.suites.freeze import Suite
from gristmill.training.evaluate.suites.values import Gathered, gathered
from gristmill.training.figures import SuiteFigures
from gristmill.training.gate.blocks import blocks
from gristmill.training.gate.rule import Decision, Gate, decide

Compare = Callable[[Sequence[Suite], Gathered], tuple[SuiteFigures, ...]]
"""A function that returns the figures of suites from the values of their items."""


def in_blocks(suite: Suite, rule: Gate | None) -> Suite:
    """Return a suite with the looks of a gate at its items."""
    if rule is None or not rule.decides(suite.name) or (rule.looks == 1 and not rule.held_back):
        return suite
    names = np.array([item.id for item in suite.items], object)
    found = blocks(names, suite.families, looks=rule.looks, held_back=rule.held_back, round_=rule.round)
    return replace(suite, looks=found)


def ask(
    bench: Bench, rule: Gate | None, compare: Compare, open_engine: OpenEngine, first: Callable[[AskAll], None] | None
) -> tuple[tuple[SuiteFigures, ...], Decision | None, int]:
    """Ask all models the suites until the gate needs no more; return figures, decision and number of written tokens.

    Args:
        bench: the models and the suites; the suites are `in_blocks` of the gate.
        rule: the gate, or None. Without one, all items are asked.
        compare: the function that makes the figures.
        open_engine: a function that starts an engine.
        first: a function to call with the tuned model's first engine, or None.
    """
    store, tokens, started = bench.run.store, 0, False

    def values_at(looks: Mapping[str, int]) -> Gathered:
        nonlocal tokens, started
        parts = [part for part in bench.parts if part.look <= looks[part.suite.name]]
        tokens += bench.run_models(open_engine, None if started else first, parts)
        started = True
        bench.run_judges()
        return gathered(store, bench.output, store.committed(bench.output).values(), bench.suites)

    compared, decision = look(bench.suites, list(bench.models), rule, compare, values_at)
    return compared, decision, tokens


def look(
    suites: Sequence[Suite],
    models: Sequence[str],
    rule: Gate | None,
    compare: Compare,
    values_at: Callable[[Mapping[str, int]], Gathered],
) -> tuple[tuple[SuiteFigures, ...], Decision | None]:
    """Look at the suites until the gate needs no more of them; return the figures and the decision.

    A look reads only the items that were asked before it. So an evaluation that was killed and goes on decides as one
    that was not, and so does one that is read from the store.

    Args:
        suites: the suites, `in_blocks` of the gate.
        models: names of the models: the base model, the tuned one, then the others.
        rule: the gate, or None.
        compare: the function that makes the figures.
        values_at: returns the values of the items that are asked before so many looks at each suite, or of more.
    """
    looks = {suite.name: 1 for suite in suites}
    while True:
        every = values_at(looks)
        places = {suite.name: suite.until(looks[suite.name]) for suite in suites}
        values = {key: one.part(places[key[1]]) for key, one in every.items()}
        some = [suite.part(places[suite.name]) for suite in suites]
        compared = compare(some, values)
        if not rule:
            return compared, None
        decision = decide(rule, trials(rule, some, models[:2], values, compared, looks))
        if not decision.waits:
            return compared, decision
        looks |= {name: looks[name] + 1 for name in decision.waits}
