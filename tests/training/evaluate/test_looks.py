"""Suites are asked in blocks until the gate needs no more; engines are scripted."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.sample import Message, seed
from gristmill.cluster.models.engine import Request
from gristmill.cluster.store.store import Store
from gristmill.training.evaluate.suites import ask, compare, looks
from gristmill.training.evaluate.suites.freeze import freeze
from gristmill.training.gate.blocks import blocks
from gristmill.training.gate.rule import Decision, Gate
from tests.training.conftest import dataset
from tests.training.evaluate.items import Models
from tests.training.evaluate.test_scorers import scorer
from tests.training.evaluate.test_suites import DRAWS, answers, bench


def decided(store: Store, output: str, rule: Gate, engines: Models, rows: int) -> tuple[Any, Decision]:
    suite = looks.in_blocks(freeze(store, "numbers", scorer("exact_match"), questions(store, rows)), rule)
    ground = bench(store, [suite], output)
    figures, decision, _ = looks.ask(
        ground,
        rule,
        lambda some, values: compare.compare(some, ["base", "tuned"], values, {}, DRAWS),
        engines.open,
        None,
    )
    assert decision
    return figures[0], decision


def questions(store: Store, rows: int) -> str:
    """A dataset of questions that have nothing in common but the number that is their answer."""
    made = [seed([Message("user", f"{ids.digest(n)} {n}?"), Message("assistant", str(n))]) for n in range(rows)]
    return dataset(store, made, f"ingest-{rows:012d}")


def knows_some(divisor: int) -> Callable[[Request], str]:
    """Answers that are wrong for one of so many numbers."""

    def reply(request: Request) -> str:
        number = request.messages[-1].text.split()[1].removesuffix("?")
        return number if int(number) % divisor else "none"

    return reply


def test_the_gate_asks_no_more_items_than_it_needs(store: Store) -> None:
    rule = Gate(looks=4)
    clear = Models(b=answers(lambda _: "none"), t=answers(knows_some(10)))
    figures, decision = decided(store, "evaluate-1", rule, clear, 400)
    assert (decision.verdict, decision.findings[0].look, figures.items, figures.unasked) == ("promote", 1, 100, 0)
    assert len(clear.asked) == 200
    close = Models(b=answers(knows_some(3)), t=answers(knows_some(4)))
    figures, decision = decided(store, "evaluate-2", rule, close, 400)
    assert decision.findings[0].look > 1 and figures.items == 100 * decision.findings[0].look
    assert len(close.asked) == 2 * figures.items


def test_a_killed_evaluation_decides_at_the_same_look(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "AT_ONCE", 30)
    rule = Gate(looks=4)

    def both(fail_at: int = 0) -> Models:
        return Models(fail_at, b=answers(knows_some(3)), t=answers(knows_some(4)))

    whole = decided(store, "evaluate-1", rule, engines := both(), 160)
    for place in (len(engines.asked) // 2, len(engines.asked) - 1):
        output = f"evaluate-{place + 2}"
        with pytest.raises(KeyboardInterrupt):
            decided(store, output, rule, both(place), 160)
        assert decided(store, output, rule, both(), 160) == whole
        assert ask.committed(store, output).equals(ask.committed(store, "evaluate-1"))


def test_items_that_are_held_back_are_asked_in_another_round(store: Store) -> None:
    asked = []
    for number in range(2):
        engines = Models(b=answers(knows_some(3)), t=answers(knows_some(4)))
        figures, _ = decided(store, f"evaluate-{number}", Gate(held_back=0.5, round=number), engines, 200)
        assert (figures.items, figures.unasked) == (100, 0)
        asked.append({request.messages[-1].text for _, request in engines.asked})
    assert 30 <= len(asked[0] & asked[1]) <= 70, "each round draws its half anew"


def test_blocks_keep_families_whole_and_are_of_one_size() -> None:
    names, families = np.array([ids.digest(n) for n in range(300)], object), np.arange(300) // 3
    found = blocks(names, families, looks=4, held_back=0.2, round_=7)
    assert (np.bincount(found) / 3).tolist() == [20, 20, 20, 20, 20]
    assert (found.reshape(100, 3) == found[::3, None]).all()
    order = np.random.default_rng(0).permutation(300)
    moved = blocks(names[order], families[order], looks=4, held_back=0.2, round_=7)
    assert (moved == found[order]).all(), "they follow from the ids alone"
    assert blocks(names[:2], np.arange(2), looks=4, held_back=0, round_=0).tolist() in ([2, 4], [4, 2])
