"""The adversarial loop: the discriminator's two-sample test and verdicts, and the demonstrations that it steers."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.text.scripts import is_chinese
from gristmill.generation.contracts import Snapshot, Verdict
from gristmill.generation.filters.discriminator import (
    Discriminator,
    TrainedClassifier,
    even,
    matched,
    p_value,
    two_sample,
)
from gristmill.generation.methods.adversarial import Adversarial
from gristmill.generation.prompting.regression import probability, regression
from tests.fakes import ScriptedAsk

HUMAN_ZH, MADE_ZH = "请帮我写一封信给老家的亲戚，内容", "作为指令，请列出若干要点，编号"
HUMAN, MADE = "Could you help me with a letter to my aunt about", "Provide a comprehensive overview of topic number"


def row(text: str, n: int, kind: str, language: str = "en", dropped: str | None = None, like: float = 0.5) -> Sample:
    turns = (Message("user", f"{text} {n}"), Message("assistant", "Sure."))
    scores = {"human_like": like} if kind == "made" else {}
    return Sample(
        f"{kind}-{n}-{language}", turns, method=kind, scores=scores, tags={"language": language}, dropped=dropped
    )


def pool(text: str, kind: str, count: int, language: str = "en") -> list[Sample]:
    return [row(text, n, kind, language) for n in range(count)]


def refused(text: str, count: int, language: str = "en") -> list[Sample]:
    dropped = "discriminator: told from human"
    return [
        replace(row(text, n, "made", language, dropped, 0.01 * n), id=f"refused-{n}-{language}") for n in range(count)
    ]


class CountingAsk(ScriptedAsk):
    """Keeps the texts that were embedded."""

    def __init__(self, *replies: str, **named: Any) -> None:
        super().__init__(*replies, **named)
        self.embedded: list[str] = []

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.embedded += texts
        return await super().embed(texts)


def trained(
    step: Discriminator, snapshot: Snapshot, before: Any = None, ask: ScriptedAsk | None = None
) -> TrainedClassifier:
    return asyncio.run(step.prepare(snapshot, before, ask or ScriptedAsk()))


def judged(step: Discriminator, sample: Sample, prepared: TrainedClassifier) -> Verdict:
    return asyncio.run(step.judge(sample, ScriptedAsk(prepared=prepared)))


@pytest.mark.parametrize(
    ("accuracy", "size", "value"),
    [(0.5, 100, 0.5), (0.55, 100, 0.158655), (0.6, 100, 0.0227501), (0.55, 400, 0.0227501)],
)
def test_the_p_value_is_that_of_the_paper(accuracy: float, size: int, value: float) -> None:
    """Lopez-Paz and Oquab 2017, section 3.1: under the null the accuracy follows N(1/2, 1/(4 n))."""
    assert p_value(accuracy, size) == pytest.approx(value, rel=1e-5)


def test_two_samples_of_one_distribution_cannot_be_told_apart_and_others_can() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 1 / 4, (400, 16)), rng.normal(0, 1 / 4, (300, 16))
    same = two_sample(one[:300], other, 5, 100.0)
    assert 0.44 < same["accuracy"] < 0.56 and same["p_value"] > 0.02
    apart = two_sample(one[:300], other + 0.4, 5, 100.0)
    assert apart["accuracy"] > 0.95 and apart["p_value"] < 1e-6
    assert two_sample(one[:300], other, 5, 100.0) == same


def test_the_regression_has_the_slope_of_zero_at_its_minimum() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(0, 0.5, (60, 4))
    labels = np.repeat([1.0, 0.0], [20, 40])
    weight = even(labels, ["en"] * 60)
    assert weight.tolist() == [1.5] * 20 + [0.75] * 40
    weights = regression(vectors, labels, weight, 2.0)
    wide = np.hstack([vectors * 2.0, np.ones((60, 1))])
    penalty = np.array([2.0, 2.0, 2.0, 2.0, 1e-6])

    def loss(at: NDArray[np.float64]) -> float:
        chance = 1 / (1 + np.exp(-wide @ at))
        ends = labels * np.log(chance) + (1 - labels) * np.log(1 - chance)
        return float(-(weight * ends).sum() + (penalty * at**2).sum() / 2)

    assert all(loss(weights) <= loss(weights + step) for step in 0.01 * rng.normal(0, 1, (50, 5)))
    told = probability(vectors, weights)
    assert (weight * told).sum() == pytest.approx((weight * labels).sum(), rel=1e-3)  # both classes weigh the same


@pytest.mark.parametrize(("human", "made", "language"), [(HUMAN, MADE, "en"), (HUMAN_ZH, MADE_ZH, "zh")])
def test_what_is_told_from_the_seeds_is_dropped_and_what_is_not_passes(human: str, made: str, language: str) -> None:
    step = Discriminator(min_rows=20, l2=1.0)
    snapshot = Snapshot(2, seeds=pool(human, "seed", 30, language), made=pool(made, "made", 40, language))
    found = trained(step, snapshot)
    assert found.figures["human"] == 30 and found.figures["synthetic"] == 40
    assert found.figures["accuracy"] > 0.95 and found.figures["p_value"] < 1e-6
    assert found.figures["accuracy_kept"] == found.figures["accuracy"]
    bad = judged(step, row(made, 99, "new", language), found)
    assert bad.dropped == "discriminator: told from human" and bad.scores["human_like"] < 0.3
    good = judged(step, row(human, 99, "new", language), found)
    assert good.dropped is None and good.scores["human_like"] > 0.7


def test_languages_are_not_told_apart_in_place_of_people() -> None:
    seeds = pool(HUMAN, "seed", 40) + pool(HUMAN_ZH, "seed", 40, "zh")
    made = [replace(s, id=f"x{s.id}", messages=(*s.messages, Message("user", "."))) for s in pool(HUMAN, "made", 60)]
    one, other = matched(seeds, made, 1)
    assert len(one) == len(other) == 40 and {s.tags["language"] for s in one + other} == {"en"}
    found = trained(Discriminator(min_rows=20), Snapshot(2, seeds, (), made))
    assert found.figures["human"] == 40 and found.figures["accuracy"] < 0.7  # the Chinese seeds alone would give 1.0
    labels = np.array([1.0, 1.0, 0.0, 0.0, 0.0, 1.0])
    assert even(labels, ["en", "en", "en", "zh", "zh", "zh"]).tolist() == [0.75, 0.75, 1.5, 0.75, 0.75, 1.5]
    assert even(labels, ["en", "en", "de", "zh", "zh", "zh"]).tolist() == [0.0, 0.0, 0.0, 0.75, 0.75, 1.5]


def test_nothing_is_judged_before_there_are_rows_enough() -> None:
    step = Discriminator(min_rows=20)
    few = trained(step, Snapshot(1, seeds=pool(HUMAN, "seed", 30), made=pool(MADE, "made", 19)))
    assert few.weights is None and few.figures == {"human": 30, "synthetic": 19}
    assert judged(step, row(MADE, 1, "new"), few) == Verdict()
    empty = trained(step, Snapshot(0))
    assert judged(step, row("", 1, "new"), empty) == Verdict()


def test_only_its_own_refusals_are_learned_from() -> None:
    other = [row("Broken", n, "broken", dropped="length: answer too long") for n in range(30)]
    snapshot = Snapshot(3, pool(HUMAN, "seed", 30), (), pool(MADE, "made", 25), [*other, *refused(MADE, 25)])
    found = trained(Discriminator(min_rows=20), snapshot)
    assert found.figures["synthetic"] == 50 and not any(name.startswith("broken") for name in found.vectors)


def test_rows_are_embedded_once_and_a_fresh_worker_finds_the_same() -> None:
    step, seeds, made = Discriminator(min_rows=20), pool(HUMAN, "seed", 30), pool(MADE, "made", 40)
    ask = CountingAsk()
    first = trained(step, Snapshot(2, seeds, (), made[:30]), None, ask)
    assert len(ask.embedded) == 60
    second = trained(step, Snapshot(3, seeds, (), made), first, ask)
    assert len(ask.embedded) == 70
    alone = trained(step, Snapshot(3, seeds, (), made))
    assert alone.figures == second.figures
    assert alone.weights is not None and second.weights is not None and np.array_equal(alone.weights, second.weights)


def test_long_pools_are_cut_to_the_latest_rows() -> None:
    step = Discriminator(min_rows=5, max_rows=10)
    found = trained(step, Snapshot(4, pool(HUMAN, "seed", 30), (), pool(MADE, "made", 40), refused(MADE, 30)))
    assert found.figures["human"] == 10 and found.figures["synthetic"] == 20
    assert {f"made-{n}-en" for n in range(30, 40)} | {f"refused-{n}-en" for n in range(20, 30)} <= set(found.vectors)
    assert len(found.vectors) == 30


@pytest.mark.parametrize(("part", "text"), [("instruction", "ask"), ("answer", "say"), ("both", "ask\nsay")])
def test_the_chosen_part_is_embedded(part: str, text: str) -> None:
    step, ask = Discriminator.model_validate({"min_rows": 2, "part": part}), CountingAsk()
    sample = Sample("a", (Message("user", "ask"), Message("assistant", "say")))
    rows = [replace(sample, id=name) for name in "abcd"]
    found = trained(step, Snapshot(2, rows[:2], (), rows[2:]), None, ask)
    assert ask.embedded == [text] * 4 and found.figures["accuracy"] == 0.5


def test_demonstrations_are_those_that_fooled_it_most() -> None:
    made = [row(MADE, n, "made", like=n / 100) for n in range(100)]
    method = Adversarial()
    shown = [s for n in range(60) for s in method.draw(Snapshot(3, pool(HUMAN, "seed", 20), (), made), n, Random(n))]
    likes = [s.scores["human_like"] for s in shown if s.method == "made"]
    assert len(shown) == 60 * 9 and len(likes) == 60 * 3
    assert sum(likes) / len(likes) > 0.8  # of eight looked at for each, the best
    assert len({s.id for s in shown if s.method == "made"}) > 10


def test_demonstrations_share_a_language_and_seeds_stand_in() -> None:
    seeds = pool(HUMAN, "seed", 20) + pool(HUMAN_ZH, "seed", 20, "zh")
    made = pool(MADE, "made", 30) + pool(MADE_ZH, "made", 30, "zh")
    for n in range(20):
        drawn = Adversarial(languages=("zh",)).draw(Snapshot(3, seeds, (), made), n, Random(n))
        assert {s.tags["language"] for s in drawn} == {"zh"}
        assert sum(s.method == "made" for s in drawn) == 3
    assert len(Adversarial().draw(Snapshot(0, seeds), 0, Random(0))) == 9


@pytest.mark.parametrize(
    ("language", "text", "says"), [("en", MADE, "as if a machine had written them"), ("zh", MADE_ZH, "机器写的")]
)
def test_what_was_found_out_is_shown_as_what_not_to_write(language: str, text: str, says: str) -> None:
    method = Adversarial(num_machine=0)
    other = "zh" if language == "en" else "en"
    rows = refused(text, 5, language) + refused("anders", 5, other)
    rows += [replace(row("too long", 1, "made", language), id="x", dropped="length: answer too long")]
    hints = asyncio.run(method.prepare(Snapshot(2, refused=rows), None, ScriptedAsk()))
    assert [hint for hint in hints if hint[0] == language] == [(language, f"{text} 0"), (language, f"{text} 1")]
    seeds = pool(HUMAN if language == "en" else HUMAN_ZH, "seed", 8, language)
    ask = ScriptedAsk(" Name three rivers in Asia. ", prepared=hints)
    (draft,) = asyncio.run(method.expand(seeds, ask, Random(0)))
    ((messages, settings),) = ask.asked
    assert says in messages[0].text and f"- {text} 0\n- {text} 1" in messages[0].text
    assert "anders" not in messages[0].text and "{" not in messages[0].text
    assert is_chinese(messages[0].text) == (language == "zh")
    assert settings["prefix"].startswith("1. ")
    assert draft.messages == (Message("user", "Name three rivers in Asia."),) and draft.dropped is None


def test_without_refusals_it_drafts_as_self_instruct_does() -> None:
    ask = ScriptedAsk("", prepared=())
    (draft,) = asyncio.run(Adversarial().expand(pool(HUMAN, "seed", 8), ask, Random(0)))
    assert "machine" not in ask.asked[0][0][0].text
    assert draft.dropped == "adversarial: instruction too short"
    assert asyncio.run(Adversarial().prepare(Snapshot(0), None, ScriptedAsk())) == ()


def test_its_settings_are_those_of_self_instruct_and_its_own() -> None:
    method = Adversarial.model_validate({"kind": "adversarial", "num_human": 4, "num_refused": 0})
    assert method.num_human == 4 and method.fingerprint() != Adversarial().fingerprint()
    assert {"prompts", "answer_prompts", "avoid_prompts"} <= method.__class__.model_fields.keys()
    assert asyncio.run(method.prepare(Snapshot(2, refused=refused(MADE, 3)), None, ScriptedAsk())) == ()
