"""Search: BM25 by its formula, fusion and variety by the papers' definitions, English and Chinese."""

import asyncio
import math

import numpy as np
import pytest

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.generation.prompting.search import By, SearchIndex, diverse, find, fuse, index, terms
from tests.fakes import HashingEncoder, ScriptedAsk


def corpus(*texts: str) -> list[Sample]:
    return [Sample(id=f"s{n}", messages=(Message("user", text),)) for n, text in enumerate(texts)]


ENGLISH = corpus(
    "Anna bought three apples and two pears at the market.",
    "A train leaves the station at noon.",
    "Ben sold five apples at the market on Monday.",
    "The teacher reads a poem.",
    "How many apples does Carol have after she sold two apples?",
)
CHINESE = corpus("味道很好，送餐很快。", "米饭太硬了，味道一般。", "骑手态度很差。", "今天的天气很好。")


def test_chinese_is_searched_by_pairs_of_characters() -> None:
    assert terms("Don't eat 送餐很快！好") == ["don't", "eat", "送餐", "餐很", "很快", "好"]
    assert terms("") == terms("！？") == []


def test_bm25_scores_are_those_of_the_formula() -> None:
    texts = ["a b", "b c c", "d"]
    found = SearchIndex(corpus(*texts), "words")
    idf = math.log(1 + (3 - 1 + 0.5) / (1 + 0.5))  # one of three texts has the word
    expected = idf * 2 / (2 + 1.5 * (1 - 0.75 + 0.75 * 3 / 2))  # twice, in three words where two are the average
    assert found._bm25 is not None
    assert found._bm25.get_scores(["c"])[1] == pytest.approx(expected, rel=1e-5)


def test_fusion_adds_up_reciprocal_ranks_with_sixty() -> None:
    fused = fuse([[7, 3, 5], [3, 9]])
    assert list(fused) == [3, 7, 9, 5]
    assert fused[3] == pytest.approx((1 / 62 + 1 / 61) * 61 / 2)
    assert fused[7] == pytest.approx(0.5) and fused[9] == pytest.approx(61 / 62 / 2)
    assert fuse([[4], [4]]) == {4: 1.0}


def test_variety_skips_what_says_the_same_again() -> None:
    similarity = np.array([[1.0, 0.99, 0.1], [0.99, 1.0, 0.1], [0.1, 0.1, 1.0]])
    assert diverse([0.9, 0.8, 0.5], similarity, 2, 1.0) == [0, 1]
    assert diverse([0.9, 0.8, 0.5], similarity, 2, 0.5) == [0, 2]
    assert diverse([0.9, 0.8, 0.5], similarity, 9, 0.5) == [0, 2, 1]
    assert diverse([], np.zeros((0, 0)), 3, 0.5) == []


@pytest.mark.parametrize("by", ["words", "meaning", "both"])
def test_related_texts_come_first_and_the_query_itself_never(by: By) -> None:
    ask = ScriptedAsk()
    cases = [(ENGLISH, ENGLISH[2], {"s0", "s4"}), (CHINESE, CHINESE[0], {"s1", "s3"})]
    for samples, query, first in cases[: 1 if by == "meaning" else 2]:  # the fake encoder tells no Chinese apart
        made = asyncio.run(index(samples, by, ask))
        hits = asyncio.run(find(made, query.instruction, 2, ask, weight=1.0, without=()))
        assert {hit.sample.id for hit in hits} <= first and hits
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert len(made.samples) == len(samples)


def test_ids_can_be_left_out() -> None:
    made = SearchIndex(ENGLISH, "words")
    assert [hit.sample.id for hit in made.find("apples", None, 9)] == ["s4", "s2", "s0"]
    assert [hit.sample.id for hit in made.find("apples", None, 9, without={"s2"})] == ["s4", "s0"]


def test_both_rankings_are_fused() -> None:
    vectors = HashingEncoder().encode([s.instruction for s in ENGLISH])
    query = HashingEncoder().encode(["apples apples"])[0]
    words, meaning = SearchIndex(ENGLISH, "words"), SearchIndex(ENGLISH, "meaning", vectors)
    ranks = [[h.sample.id for h in i.find("apples apples", query, 9)] for i in (words, meaning)]
    both = SearchIndex(ENGLISH, "both", vectors).find("apples apples", query, 9)
    expected = fuse([[int(name[1:]) for name in ranking] for ranking in ranks])
    assert {hit.sample.id: hit.score for hit in both} == {f"s{n}": pytest.approx(s) for n, s in expected.items()}


@pytest.mark.parametrize("by", ["words", "meaning", "both"])
def test_nothing_is_found_in_nothing_or_for_nothing(by: By) -> None:
    ask = ScriptedAsk()
    nothing = asyncio.run(index([], by, ask))
    assert asyncio.run(find(nothing, "apples", 3, ask, weight=0.5, without=())) == []
    blank = asyncio.run(index(corpus("!", "?"), "words", ask))
    assert asyncio.run(find(blank, "apples", 3, ask, weight=0.5, without=())) == []
    assert SearchIndex(ENGLISH, "words").find("!!", None, 3) == []
    assert SearchIndex(ENGLISH, "words").find("giraffe", None, 3) == []


def test_words_alone_give_variety_too() -> None:
    twice = corpus("red apples for sale", "red apples for sale today", "green apples in a bag of straw")
    assert [h.sample.id for h in SearchIndex(twice, "words").find("red apples for", None, 2, weight=0.3)] == [
        "s0",
        "s2",
    ]
