"""Near-duplicates: planted copies in English and Chinese, signatures against true Jaccard, greedy keep, hard cases."""

import random
from dataclasses import replace
from random import Random

import numpy as np
import pyarrow as pa
import pytest

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.text import keys as texts
from gristmill.selection.contracts import Choice, View
from gristmill.selection.duplicates import bands, shingles, units
from gristmill.selection.duplicates.carriers import NEGATIONS_ZH, NUMBERS_ZH
from gristmill.selection.duplicates.shingles import ShingleSpec
from gristmill.selection.selectors.exact import Exact
from gristmill.selection.selectors.minhash import MinHash
from tests.selection.made import kept_of, made, view_of, winner_of

LETTERS = "etaoinshrdlucmfwypvbgk"
SIGNS = [c for c in (chr(0x4E00 + 7 * n) for n in range(2000)) if c not in NUMBERS_ZH + NEGATIONS_ZH]


def run(samples: list[Sample], **fields: object) -> tuple[View, Choice, set[str]]:
    view = view_of(samples)
    choice = MinHash.model_validate({"answers": False} | fields).pick(view, Random(0))
    return view, choice, kept_of(view, choice)


def word(rng: random.Random) -> str:
    return "".join(rng.choices(LETTERS, k=rng.randrange(2, 10)))


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(word(rng) for _ in range(words))


def edited(text: str, share: float, rng: random.Random) -> str:
    """Replace a share of the words, at least one."""
    words = text.split()
    for place in rng.sample(range(len(words)), max(1, round(share * len(words)))):
        words[place] = word(rng)
    return " ".join(words)


def true_jaccard(left: str, right: str, size: int) -> float:
    """The definition, over sets of strings of the normal forms."""
    one, other = (
        {key[n : n + size] for n in range(max(1, len(key) - size + 1))} for key in map(texts.key, (left, right))
    )
    return len(one & other) / len(one | other)


def slots_of(values: list[str], shape: ShingleSpec, permutations: int = 128) -> shingles.Slots:
    array = pa.array(values, pa.large_string())
    return shingles.sketch(array, units.NOTHING, shape, permutations, numbers=True).slots


@pytest.mark.parametrize("words", [3, 12, 60, 400])
def test_signatures_estimate_the_jaccard_similarity_of_the_sets(words: int) -> None:
    rng = random.Random(words)
    left = [sentence(rng, words) for _ in range(200)]
    right = [edited(text, rng.choice([0.05, 0.2, 0.5]), rng) for text in left]
    slots = slots_of(left + right, ShingleSpec("character", 5), 256)
    found = bands.estimate_jaccard(slots, np.arange(200), np.arange(200, 400))
    true = np.array([true_jaccard(a, b, 5) for a, b in zip(left, right, strict=True)])
    spread = np.sqrt(true * (1 - true) / 256)
    assert abs((found - true).mean()) < 3 * spread.mean() / np.sqrt(200) + 0.002
    assert (abs(found - true) < 4.5 * spread + 0.03).all()


def test_signatures_of_strangers_agree_by_chance_alone() -> None:
    rng = random.Random(0)
    values = ["".join(rng.choices([chr(0x3400 + n) for n in range(6000)], k=60)) for _ in range(400)]
    slots = slots_of(values, ShingleSpec("character", 5))
    found = bands.estimate_jaccard(slots, np.arange(200), np.arange(200, 400))
    assert found.mean() < 0.003


def test_a_shingle_is_five_characters_or_two_chinese_ones_or_two_words() -> None:
    pairs = [
        ("abcdefgh", "abcdexyz", ShingleSpec("character", 5), 1 / 7),
        ("一二三四五六", "一二三四七八", ShingleSpec("character", 5), 3 / 7),
        ("a b c d", "a b c e", ShingleSpec("word", 2), 2 / 4),
        ("用python写", "用java写", ShingleSpec("word", 2), 0.0),
        ("中文字", "中文学", ShingleSpec("word", 2), 1 / 3),
    ]
    for left, right, shape, expected in pairs:
        slots = slots_of([left, right], shape, 1024)
        assert bands.estimate_jaccard(slots, np.array([0]), np.array([1]))[0] == pytest.approx(expected, abs=0.05)


def test_copies_with_edited_words_lose_to_the_better_one() -> None:
    rng = random.Random(0)
    samples = []
    for _ in range(150):
        text = sentence(rng, 50)
        samples += [made(text, judge=3), made(edited(text, 0.06, rng), judge=4), made(sentence(rng, 50))]
    view, choice, kept = run(samples)
    assert {sample.id for sample in samples if sample.scores.get("judge") != 3} == kept
    scores = choice.scores["minhash_similarity"]
    assert np.isnan(scores[choice.kept]).all()
    assert (scores[~choice.kept] >= 0.65).all()
    lost = winner_of(view, choice)
    assert all(lost[samples[n].id.encode()] == samples[n + 1].id.encode() for n in range(0, 450, 3))


def test_chinese_copies_are_found() -> None:
    rng = random.Random(0)
    samples, copies = [], set()
    for _ in range(150):
        text = rng.choices(SIGNS, k=50)
        other = list(text)
        for place in rng.sample(range(50), 3):
            other[place] = rng.choice(SIGNS)
        samples += [made("".join(text), judge=3), made("".join(other), judge=4)]
        copies.add(samples[-2].id)
    _, _, kept = run(samples)
    assert len(copies & kept) <= 1
    assert len(kept) <= 151


def test_a_text_shorter_than_a_shingle_is_one_shingle() -> None:
    samples = [
        made("cat"),
        made("Cat!", "a better answer"),
        made("dog"),
        made("猫"),
        made("狗"),
        made("猫。", "更好的回答"),
    ]
    _, _, kept = run(samples)
    assert kept == {samples[n].id for n in (1, 2, 4, 5)}


def test_texts_whose_numbers_differ_are_different() -> None:
    base = "A train leaves the station with {} passengers and picks up {} more at the next stop. How many are on board?"
    samples = [made(base.format(a, b)) for a, b in ((15, 27), (15, 28), (27, 15), (152, 7))]
    samples.append(made(base.format(15, 27).replace("train", "tram"), "a much longer answer"))
    _, _, kept = run(samples)
    assert kept == {sample.id for sample in samples[1:]}
    assert len(run(samples[:2], numbers=False)[2]) == 1


def test_a_sign_that_stands_for_many_letters_is_those_letters() -> None:
    short, long = "㌖" * 4000, "キロメートル" * 4000
    _, _, kept = run([made(short), made(long, "a much longer answer")])
    assert kept == {made(long, "a much longer answer").id}
    assert np.array_equal(*slots_of([short, long], ShingleSpec("character", 5)))


def test_a_chain_is_not_followed() -> None:
    rng = random.Random(3)
    chain = [sentence(rng, 60).split()]
    for step in range(1, 5):
        chain.append(list(chain[-1]))
        for place in range(5 * step, 5 * step + 5):
            chain[-1][place] = word(rng)
    samples = [made(" ".join(words), judge=5 - n) for n, words in enumerate(chain)]
    _, choice, kept = run(samples, threshold=0.6)
    assert samples[0].id in kept
    assert samples[1].id not in kept
    assert samples[2].id in kept  # near to the second alone, which is gone
    assert (choice.scores["minhash_similarity"][~choice.kept] >= 0.6).all()


def test_ten_thousand_samples_behind_one_prompt_stay() -> None:
    rng = random.Random(0)
    prompt = sentence(rng, 240)
    samples = [made(f"{prompt}\n\n{sentence(rng, rng.randrange(6, 30))}") for _ in range(10_000)]
    samples = [replace(sample, messages=(Message("system", prompt), *sample.messages)) for sample in samples]
    view = view_of(samples)
    for step in (MinHash(), MinHash(unit="word", shingle=2), Exact()):
        assert len(kept_of(view, step.pick(view, Random(0)))) >= 0.995 * len(samples)


def test_one_text_behind_two_prompts_is_two_samples_and_behind_one_a_copy() -> None:
    rng = random.Random(0)
    prompts = [sentence(rng, 60), sentence(rng, 60)]
    samples = [made(f"{prompt} {sentence(rng, 12)}") for prompt in prompts for _ in range(100)]
    text = sentence(rng, 30)
    samples += [made(f"{prompts[0]} {text}", judge=1), made(f"{prompts[1]} {text}", judge=1)]
    samples.append(made(f"{prompts[0]} {edited(text, 0.03, rng)}", judge=0))
    _, _, kept = run(samples)
    assert kept == {sample.id for sample in samples[:-1]}


def test_a_hot_sample_leaves_one_of_thousands() -> None:
    rng = random.Random(0)
    text = sentence(rng, 60)
    samples = [made(text, "a" * n) for n in range(500)] + [made(edited(text, 0.01, rng), "b" * 9) for _ in range(1500)]
    view, choice, kept = run(list({sample.id: sample for sample in samples}.values()))
    assert kept == {samples[499].id}
    assert set(winner_of(view, choice).values()) == {b"", samples[499].id.encode()}


def test_the_order_of_the_samples_changes_nothing() -> None:
    rng = random.Random(1)
    bases = [sentence(rng, 30) for _ in range(100)]
    samples = [made(edited(rng.choice(bases), 0.05, rng), "a" * rng.randrange(3)) for _ in range(400)]
    first = run(samples)[2]
    rng.shuffle(samples)
    assert run(samples)[2] == first


def test_an_empty_view_a_single_sample_and_all_identical_ones() -> None:
    assert run([])[2] == set()
    assert len(run([made("Hi")])[2]) == 1
    assert len(run([made("Hi", "a" * n) for n in range(30)])[2]) == 1


def test_bands_have_a_few_slots_each() -> None:
    with pytest.raises(ValueError, match="bands is 30, must be 128 permutations by 1, 2, 4 or 8"):
        MinHash(bands=30)
