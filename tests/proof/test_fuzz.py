"""A part of the fuzz for every test run: 5,000 mutated inputs over all kinds end in words."""

from collections import Counter

import pytest

from tests.proof.damage import WHOLE
from tests.proof.fuzz import ALL, command, peak_gb, shares, try_block
from tests.proof.inputs import KINDS

COUNTS = dict.fromkeys(WHOLE, 200) | {"reply": 1900, "stored recipe": 900, "model": 250, "recipe": 100, "template": 50}
COUNTS |= {kind: 40 for kind in ALL if kind not in COUNTS}


def test_all_kinds_are_tried() -> None:
    assert set(COUNTS) == set(ALL) == set(shares(100_000))
    assert (sum(COUNTS.values()), sum(shares(100_000).values())) == (5000, 100_000)


@pytest.mark.parametrize("kind", ALL)
def test_mutated_inputs_are_used_or_refused_in_words(kind: str) -> None:
    before = peak_gb()
    outcomes, found = try_block(kind, 0, COUNTS[kind])
    assert found == []
    assert sum(outcomes.values()) == COUNTS[kind]
    assert peak_gb() - before < 1


def test_a_traceback_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(folder: object, stream: object) -> None:
        raise KeyError(str(stream))

    monkeypatch.setitem(KINDS, "reply", fails)
    outcomes, found = try_block("reply", 0, 2)
    assert outcomes == Counter(traceback=2)
    assert "KeyError" in found[1]["error"] and found[1]["number"] == 1


def test_a_whole_command_ends_in_words() -> None:
    facts = command(1)
    assert facts["code"] in (0, 1, 2) and "said" not in facts, facts
