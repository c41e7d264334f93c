"""Made-up reviews of two kinds, whose words show in most of them what they are."""

import random
from collections.abc import Sequence

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.sample import Message, Sample

GOOD = ("lovely", "tasty", "quick", "fresh", "warm", "friendly", "crisp", "generous", "tender", "clean")
BAD = ("cold", "late", "stale", "greasy", "rude", "burnt", "soggy", "tiny", "sour", "dirty")
THINGS = ("soup", "rice", "noodles", "tea", "bread", "salad", "driver", "box", "sauce", "fish", "cake", "lid")
LABELS = {"good": GOOD, "bad": BAD}


def text_of(label: str, rng: random.Random, clear: float = 0.85) -> str:
    """Three things with a word about each; the word fits the label with this probability."""
    other = next(name for name in LABELS if name != label)
    parts = [
        f"the {rng.choice(THINGS)} was {rng.choice(LABELS[label if rng.random() < clear else other])}" for _ in range(3)
    ]
    return f"Order {rng.randrange(10**6)}: " + ", ".join(parts) + "."


def review(label: str, text: str, *, method: str = "seed", said: str = "", dropped: str | None = None) -> Sample:
    """A labelled text; `said` is another label than the right one."""
    name = said or label
    messages = (Message("user", text), Message("assistant", name))
    sample = ids.made_id("0" * 32, [], int(ids.digest(text)[:12], 16))
    return Sample(sample, messages, method=method, tags={"label": name}, dropped=dropped)


def reviews(count: int, seed: int, *, method: str = "seed", wrong: float = 0.0) -> list[Sample]:
    """As many reviews of both kinds by turns; a share of the labels is the wrong one."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        label = ("good", "bad")[number % 2]
        said = ("bad", "good")[number % 2] if rng.random() < wrong else label
        found.append(review(label, text_of(label, rng), method=method, said=said))
    return found


def texts(samples: Sequence[Sample]) -> list[str]:
    return [sample.instruction for sample in samples]
