"""Novelty: the pruned search finds what all pairs would, whatever the floor and however many samples count."""

import random
from itertools import pairwise

import numpy as np
import pytest

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.text.words import tokens
from gristmill.generation.contracts import Verdict
from gristmill.generation.filters.novelty import (
    Instructions,
    Novelty,
    common,
    insert,
    lcs,
    reach,
    room,
    rouge_l,
    search,
)

WORDS = [f"w{n}" for n in range(12)]
HAN = "春夏秋冬山水花月"


def sample(text: str) -> Sample:
    return Sample(id=text[:8], messages=(Message("user", text),))


def filled(texts: list[str], floor: float = 0.0) -> Instructions:
    memory = Instructions(floor)
    for text in texts:
        memory.add(sample(text))
    return memory


def drawn(seed: int, count: int) -> list[str]:
    """English and Chinese texts of few different words, some the one before with a word changed."""
    rng = random.Random(seed)
    texts: list[str] = []
    for n in range(count):
        many = rng.randint(1, 14)
        text = " ".join(rng.choices(WORDS, k=many)) if n % 2 else "".join(rng.choices(HAN, k=many))
        if n > 2 and rng.random() < 0.3:
            letters = texts[-2].split() if n % 2 else list(texts[-2])
            letters[rng.randrange(len(letters))] = rng.choice(WORDS if n % 2 else HAN)
            text = (" " if n % 2 else "").join(letters)
        texts.append(text)
    return texts


def all_pairs(text: str, others: list[str]) -> tuple[float, int]:
    """Return the largest ROUGE-L F and the first place that has it, from whole tables."""

    def subsequence(a: list[str], b: list[str]) -> int:
        table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
        return table[-1][-1]

    one = tokens(text)
    pairs = [(subsequence(one, tokens(other)), len(one), len(tokens(other))) for other in others]
    scores = [2 * (c / m) * (c / n) / (c / m + c / n) if c else 0.0 for c, m, n in pairs]
    best = max(scores, default=0.0)
    return best, scores.index(best) if best else -1


@pytest.mark.parametrize("floor", [0.0, 0.3, 0.5, 0.7, 0.9])
def test_the_pruned_search_is_that_of_all_pairs(floor: float) -> None:
    texts = drawn(int(10 * floor), 160)
    memory = Instructions(floor)
    found = 0
    for n, text in enumerate(texts):
        expected, place = all_pairs(text, texts[:n])
        named = sample(texts[place]).id if place >= 0 else ""
        assert memory.nearest(text) == ((expected, named) if expected > floor else (0.0, ""))
        found += expected > floor
        memory.add(sample(text))
    assert found > 10 and len(memory) == 160


def test_only_the_first_samples_count() -> None:
    texts = drawn(3, 120)
    memory = filled(texts)
    for size in (0, 1, 50, 119, 120, 500):
        for text in drawn(4, 20):
            assert memory.nearest(text, size)[0] == all_pairs(text, texts[:size])[0]
    step = Novelty()
    assert step.compare(sample(texts[60]), memory, 120).dropped is not None
    assert step.compare(sample("Entirely other words"), memory, 0) == Verdict({"novelty": 1.0})


def test_a_search_leaves_the_memory_as_it_is() -> None:
    texts, asked = drawn(5, 60), ["quite unknown words here", "w1 w2 unknown w3", "山水陌生"]
    memory, untouched = filled(texts, 0.5), filled(texts, 0.5)
    before = [memory.nearest(text) for text in texts + asked]
    assert [memory.nearest(text) for text in texts + asked] == before
    for text in drawn(6, 60):
        memory.add(sample(text))
        untouched.add(sample(text))
    assert [memory.nearest(text) for text in asked] == [untouched.nearest(text) for text in asked]


def test_the_threshold_is_that_of_self_instruct() -> None:
    """Wang et al. 2023, section 2.2: an instruction stays while its ROUGE-L with any other is below 0.7."""
    ten = "one two three four five six seven eight nine ten"
    memory = filled([ten, "一二三四五六七八九十"], 0.5)
    step = Novelty()
    for other, chinese, drops in [
        ("one two three four five six seven eight a b", "一二三四五六七八甲乙", True),  # 0.8
        ("one two three four five six seven a b c", "一二三四五六七甲乙丙", False),  # 0.7, which is not above it
        ("one two three four five six a b c d", "一二三四五六甲乙丙丁", False),
    ]:
        for text in (other, chinese):
            assert (step.compare(sample(text), memory, 2).dropped is not None) == drops


def test_the_score_is_exact_above_its_floor_and_a_bound_below() -> None:
    memory = Novelty().memory()
    memory.add(sample("one two three four five six seven eight nine ten"))
    near = Novelty().compare(sample("one two three four five six a b c d"), memory, 1)
    assert near.scores == {"novelty": pytest.approx(0.4)}
    far = Novelty().compare(sample("one two a b c d e f g h"), memory, 1)
    assert far.scores == {"novelty": 0.5} and far.dropped is None
    nearest = Novelty(exact_from=0.0)
    whole = nearest.memory()
    whole.add(sample("一二三四五六七八九十"))
    assert nearest.compare(sample("一二甲乙丙丁戊己庚辛"), whole, 1).scores == {"novelty": pytest.approx(0.8)}
    assert Novelty(exact_from=0.9).memory().floor == 0.7  # never above what decides


@pytest.mark.parametrize("floor", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_the_reach_is_the_least_that_loses_no_pair(floor: float) -> None:
    for size in range(1, 40):
        needed = [c for c in range(1, size + 1) if any(2 * c > floor * (size + n) for n in range(c, 100))]
        least = size - min(needed) + 1 if needed else 0
        fewest = floor * size / (2 - floor)
        whole = abs(fewest - round(fewest)) < 1e-6  # on the line, one word more is looked at than needed
        assert reach(size, floor) == least + (whole and floor > 0)
    assert reach(0, floor) == 0


def test_the_index_grows_in_place_and_finds_each_posting() -> None:
    slots, pool, used = np.zeros((3, 3), np.int64), np.zeros((64, 2), np.int32), 0
    for place in range(9):
        bag = np.array([-2, -1, -1], np.int32)
        needed = room(bag, slots, 0.0)
        before, used = used, insert(bag, place, pool, slots, used, 0.0)
        assert used - before == needed == (4 if place in (0,) else 2 * 2 * place if place in (2, 4, 8) else 0)
    for word, j in ((2, 0), (1, 1)):
        begin, count, most = slots[word]
        assert (count, most) == (9, 16)
        assert pool[begin : begin + count].tolist() == [[place, j] for place in range(9)]
    assert all(a + slots[w, 2] <= used for w, a in ((1, slots[1, 0]), (2, slots[2, 0])))


def test_the_kernels_are_plain_functions_too() -> None:
    a, b = np.array([1, 2, 2, 5], np.int32), np.array([2, 2, 3, 5, 5], np.int32)
    assert common(a, b) == lcs(a, b) == 3
    assert common(a, b, 4.0) < 4
    texts = drawn(8, 40)
    memory = filled(texts, 0.4)
    flat = (memory._words, memory._bags, memory._ends[: len(memory) + 1])
    for stamp, text in enumerate(drawn(9, 20), 1000):
        words = np.array(memory._encode(text, grow=False), np.int32)
        index = (memory._pool, memory._slots[: len(memory._numbers)], memory._stamps, stamp)
        score, place = search(words, np.sort(-words), flat, index, 0.4)
        assert (score if place >= 0 else 0.0) == memory.nearest(text)[0]


def test_rouge_l_does_not_depend_on_order_of_its_texts() -> None:
    for one, other in pairwise(drawn(10, 40)):
        assert rouge_l(one, other) == rouge_l(other, one) == all_pairs(one, [other])[0]
