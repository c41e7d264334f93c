"""What must not differ between copies, and what may: in English and Chinese, in short texts and long ones."""

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from gristmill.cluster.contract.sample import Sample
from gristmill.selection.contracts import Selector
from gristmill.selection.selectors.exact import Exact
from gristmill.selection.selectors.minhash import MinHash
from gristmill.selection.selectors.semantic import Semantic
from tests.selection.made import kept_of, made, unit, view_of

BRIDGES = "How many of the old stone bridges cross the river Vltava?"
LONG = "It rained in Leipzig all day, and the players of both teams were wet and tired when the match went on anyway."
COPIES = [
    (BRIDGES, f"1. {BRIDGES}"),
    (BRIDGES, "how many of teh old stone brigdes cross the rivver vltava"),
    (BRIDGES, "How many of he old stone bridge cross the rive Vltava?"),
    ("Anna earns 12 dollars per hour without a contract.", "Anna earns 12 dolars per our withut a contract."),
    ("Anna's dog sleeps on the porch of the old house.", "Anna'd dog sleeps on the porhc of the old house."),
    (f"{LONG} He has a horse.", f"{LONG} He has v horse."),
    (BRIDGES, f"Please answer the following question: {BRIDGES}"),
    ("It rained in Leipzig. The match went on anyway.", "The match went on anyway. It rained in Leipzig."),
    ("A farm sells 12,500 eggs and 3 hens at the market.", "A farm sells 12500 eggs and 3 hens at the market."),
    ("The “own” words: don't panic & read on.", "The &quot;own&quot; words: don&#39;t panic &amp; read on."),
    ("请问长城从哪里开始，到哪里结束，全长是多少公里？", "請問長城從哪裡開始，到哪裡結束，全長是多少公里？"),
    ("长城从哪里开始，到哪里结束，全长是多少公里？", "3、长城从哪里开始，到哪里结束，全长是多少公里"),
    ("长城从哪里开始，到哪里结束，全长是多少公里？", "长城从哪里开使，到哪里结束，全长是多少公里？"),
    ("长城从哪里开始，到哪里结束，全长是多少公里？", "你好，请问长城从哪里开始，到哪里结束，全长是多少公里？"),
]  # fmt: skip
OTHERS = [
    ("How many of the 15 old stone bridges cross the river?", "How many of the 16 old stone bridges cross the river?"),
    ("She buys three apples and eats one of them today.", "She buys three apples and eats two of them today."),
    ("Is it safe to take this medicine together with wine?", "Is it unsafe to take this medicine together with wine?"),
    (
        "Which of these animals can swim across the wide river?",
        "Which of these animals cannot swim across the wide river?",
    ),
    ("Name the largest lake in the north of the country.", "Name the smallest lake in the north of the country."),
    ("He has 15 apples and buys 27 pears at the market.", "He has 27 apples and buys 15 pears at the market."),
    ("What is 5! and how do you compute it by hand?", "What is 5 and how do you compute it by hand?"),
    ("What is 2⁵ and how do you compute it by hand?", "What is 25 and how do you compute it by hand?"),
    ("What does a?.b give when a is undefined in JavaScript?", "What does a.b give when a is undefined in JavaScript?"),
    ("When does `if (!done)` run its block in this program?", "When does `if (done)` run its block in this program?"),
    ("What is the value of x - 3 when x is known?", "What is the value of x + 3 when x is known?"),
    ("Solve for x when the sum of all terms is known.", "Solve for y when the sum of all terms is known."),
    ("Which foods help a man who has vitamin a deficiency?", "Which foods help a man who has vitamin c deficiency?"),
    (f"{LONG} He is short of vitamin a tablets.", f"{LONG} He is short of vitamin c tablets."),
    ("The big dog ran after the small red cat today.", "The small dog ran after the small red cat today."),
    ("小明有三个苹果，又买了两个，一共有几个？", "小明有三个苹果，又买了四个，一共有几个？"),
    ("这家店的外卖送得很快，味道也好，会再来。", "这家店的外卖送得很慢，味道也好，会再来。"),
    ("这家店的外卖味道好，下次我会再来这里吃饭。", "这家店的外卖味道不好，下次我会再来这里吃饭。"),
]


def kept(samples: list[Sample], step: Selector) -> int:
    view = view_of(samples, unit(np.ones((len(samples), 4))))
    return len(kept_of(view, step.pick(view, Random(0))))


@pytest.mark.parametrize("pair", COPIES)
def test_copies_are_found(pair: tuple[str, str]) -> None:
    assert kept([made(text) for text in pair], MinHash()) == 1


@pytest.mark.parametrize("pair", OTHERS)
def test_samples_that_differ_in_what_carries_meaning_stay(pair: tuple[str, str]) -> None:
    for step in (Exact(), MinHash(), Semantic()):
        assert kept([made(text) for text in pair], step) == 2


@pytest.mark.parametrize("step", [Exact(), MinHash(), Semantic()])
def test_one_question_with_another_label_number_or_result_is_another_sample(step: Any) -> None:
    question = "Is the film in this review any good, or is it not?"
    long = "First we add the hours of both days, then we take off the break, which leaves us with {}\n#### {}"
    for one, other in (("positive", "negative"), ("4", "5"), (long.format(7, 7), long.format(8, 8))):
        assert kept([made(question, one), made(question.upper(), other)], step) == 2
        assert kept([made(question, one), made(question.upper(), one)], step) == 1
    texts = [f"It depends, since people's tastes differ, and so I would {say} it." for say in ("watch", "skip")]
    assert kept([made(question, texts[0]), made(question.upper(), texts[1])], step) == 1
    assert kept([made(question, "yes"), made(question.upper(), "no")], step.model_copy(update={"answers": False})) == 1


@pytest.mark.parametrize("where", ["before", "after", "around"])
def test_what_many_share_does_not_count_wherever_it_is(where: str) -> None:
    rng = Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=7)) for _ in range(200)]
    lead, tail = "Translate the following English word into French and say nothing else: ", " as it was used long ago"
    samples = [made(f"{lead * (where != 'after')}{word}{tail * (where != 'before')}") for word in words]
    assert kept(samples, MinHash()) == len(set(words))
    assert kept([*samples, made(f"1. {samples[0].instruction}")], MinHash()) == len(set(words))


def test_a_letter_that_makes_another_thing_is_no_slip_of_the_pen() -> None:
    for thing, other in (("car", "cat"), ("card", "cart"), ("seat", "meat"), ("he", "she")):
        texts = [f"Where do I leave the old {word} that is in my garage?" for word in (thing, other)]
        assert (
            kept([*map(made, texts), *(made(f"Tell me of a {thing} and a {other} in {n}") for n in "xyz")], MinHash())
            == 5
        )


def test_a_word_that_the_template_has_too_still_fills_it() -> None:
    frame = "Translate the following English word into French and say nothing else: {} as the people of the town say"
    words = ["".join(Random(n).choices("etaoinshrdlu", k=7)) for n in range(40)]
    samples = [made(frame.format(word)) for word in (*words, "the", "tiles", "she")]
    assert kept(samples, MinHash()) == len(samples)


@pytest.mark.parametrize("step", [Exact(), MinHash(), Semantic()])
def test_candidates_for_one_prompt_stay_though_their_answers_are_long(step: Any) -> None:
    rows = [made("Why is the sky blue?", f"Because {word} " * 20) for word in ("air scatters blue", "it is painted")]
    grouped = [replace(row, tags={"group": "a pair"}) for row in rows]
    assert kept(rows, step) == 1
    assert kept(grouped, step) == 2
