"""Exact duplicates: keys in compiled code against `texts.key`, and who of equal samples stays."""

import random
import sys
import unicodedata
from random import Random

import numpy as np
import pyarrow as pa
import pytest

from gristmill.cluster.text import keys as texts
from gristmill.selection.duplicates import normal
from gristmill.selection.selectors.exact import Exact
from tests.selection.made import kept_of, made, view_of, winner_of

SIGNS = " \t\n\u3000\x1c\"'`“”‘’「」『』.,;:!?…、。·~～，！？：；．"
MIXED = (
    SIGNS + "abcXYZ0123456789٣٤１２éÉßİıſﬁ½™①㎡ǅ(){}<>+-/*=_%$#@"
    "ｱｶﾞ中文字漢列举河流かなカナ・가각😀👍\u0301\u0345\u1161\u11a8ﷺ𠀀𝔸"
)


def forms(values: list[str]) -> list[str]:
    """The normal form of each text, out of the compiled code."""
    found = normal.normal(pa.array(values, pa.large_string()))
    return [
        found.points[begin : begin + size].tobytes().decode("utf-32-le")
        for begin, size in zip(found.begin, found.size, strict=True)
    ]


def test_every_character_has_the_form_that_key_gives_it() -> None:
    points = [point for point in range(sys.maxunicode + 1) if not 0xD800 <= point < 0xE000]
    chars = [chr(p) for p in points if p < 0x20000 or p % 97 == 0]
    around = [f"1{char}1 a{char}字{char}b{char}" for char in chars if unicodedata.category(char) != "Cn"]
    for values in (chars, around):
        assert forms(values) == [texts.key(value) for value in values]


@pytest.mark.parametrize("seed", range(4))
def test_random_mixtures_have_the_form_that_key_gives_them(seed: int) -> None:
    rng = random.Random(seed)
    alphabets = (SIGNS + "a1中", MIXED, "".join(map(chr, range(32, 127))), "0123456789.,:~ ")
    values = ["".join(rng.choices(alphabets[n % 4], k=rng.randrange(30))) for n in range(4000)]
    assert forms(values) == [texts.key(value) for value in values]


@pytest.mark.parametrize("seed", range(4))
def test_thousands_and_entities_are_read_as_key_reads_them(seed: int) -> None:
    rng = Random(seed)
    pieces = [
        "1",
        "12",
        "345",
        "000",
        ",",
        ",",
        ",",
        ".",
        "(",
        ")",
        "[",
        "]",
        "{",
        "_",
        "a",
        " ",
        "é",
        "百",
        "１２３",
        "，",
    ]
    pieces += ["&amp;", "&#39;", "&lt", "&", ";", "&notit;", "&amp;lt;", "&#x41;"]
    some = ["".join(rng.choices(pieces, k=rng.randrange(2, 12))) for _ in range(3000)]
    assert forms(some) == [texts.key(text) for text in some]


def test_keys_of_long_and_sliced_arrays_are_those_of_their_texts() -> None:
    values = [
        "x" * 3_000_000,
        "",
        "Name three  rivers.",
        "name three rivers",
        "列举 三条 河流！",
        "列举三条河流。",
        "e\u0301 a",
        "\u00e9 A!",
    ]
    array = pa.array(["in front", *values, "behind"], pa.large_string()).slice(1, len(values))
    high, low = normal.keys(array)
    assert len({*zip(high.tolist(), low.tolist(), strict=True)}) == 5
    assert (high[[2, 4, 6]] == high[[3, 5, 7]]).all()
    assert (low[[2, 4, 6]] == low[[3, 5, 7]]).all()


def test_the_best_of_equal_samples_stays_and_the_others_name_it() -> None:
    samples = [
        made("Name three rivers.", "Elbe", judge=3),
        made("name  three rivers", "Elbe, Rhine", judge=5),
        made("NAME THREE RIVERS!", "Elbe, Rhine, Oder", judge=5),
        made("Name four rivers."),
        made("列举三条河流。"),
        made("列举 三条 河流！", "长江、黄河、珠江"),
    ]
    view = view_of(samples)
    choice = Exact(answers=False).pick(view, Random(0))
    assert kept_of(view, choice) == {samples[n].id for n in (2, 3, 5)}
    lost = winner_of(view, choice)
    assert {lost[samples[n].id.encode()] for n in (0, 1)} == {samples[2].id.encode()}
    assert lost[samples[4].id.encode()] == samples[5].id.encode()


def test_the_part_decides_what_is_compared() -> None:
    samples = [made("Hi", "Hello"), made("hi", "Good day"), made("Hey", "hello!")]
    view = view_of(samples)
    assert kept_of(view, Exact(answers=False).pick(view, Random(0))) == {samples[n].id for n in (1, 2)}
    gone = max(samples[0].id, samples[2].id)  # answers of one length: the lower id stays
    answers = Exact(part="answer").pick(view, Random(0))
    assert kept_of(view, answers) == {sample.id for sample in samples} - {gone}
    assert len(kept_of(view, Exact(part="conversation").pick(view, Random(0)))) == 3


def test_an_empty_view_and_a_single_sample_stay_as_they_are() -> None:
    assert kept_of(view_of([]), Exact().pick(view_of([]), Random(0))) == set()
    one = [made("Hi")]
    assert kept_of(view_of(one), Exact().pick(view_of(one), Random(0))) == {one[0].id}


def test_the_order_of_the_samples_changes_nothing() -> None:
    rng = random.Random(1)
    samples = [
        made(f"{rng.choice(['Say', 'say ', 'SAY'])} {rng.randrange(40)}", "a" * rng.randrange(4)) for _ in range(200)
    ]
    samples = list({sample.id: sample for sample in samples}.values())
    first = kept_of(view_of(samples), Exact(answers=False).pick(view_of(samples), Random(0)))
    rng.shuffle(samples)
    assert kept_of(view_of(samples), Exact(answers=False).pick(view_of(samples), Random(0))) == first
    assert len(first) == len({texts.key(sample.instruction) for sample in samples})


def test_samples_behind_one_long_prompt_all_stay() -> None:
    prompt = " ".join(f"rule{n} applies" for n in range(120))
    samples = [made(f"{prompt}\n\nWhat is {n} plus {n * n}?") for n in range(300)]
    view = view_of(samples)
    assert Exact().pick(view, Random(0)).kept.all()
    assert np.array_equal(np.sort(view.order(("length",))), np.arange(300))
