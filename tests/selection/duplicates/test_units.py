"""What many texts have in common, and the numbers and signs of a text, against plain Python."""

from collections import Counter
from random import Random

import numpy as np
import pyarrow as pa

from gristmill.selection.duplicates import kin, normal, units


def texts_of(*texts: str) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


def test_counts_are_the_numbers_of_texts_that_have_a_hash_however_far_the_table_grows() -> None:
    rng, counts, true = Random(0), units.Counts(), Counter[int]()
    for looked in range(0, 3000, 1000):
        rows = [[rng.choice((rng.randrange(1, 40), rng.getrandbits(63) + 1)) for _ in range(60)] for _ in range(1000)]
        true.update(one for row in rows for one in set(row))
        ends = np.arange(0, 60 * 1000 + 1, 60)
        counts.add(ends, np.array([one for row in rows for one in row], np.uint64), looked)
    for enough in (2, 500):
        expected = sorted(one for one, number in true.items() if number >= enough)
        assert counts.frequent(enough).tolist() == expected


def test_a_run_of_six_words_that_many_share_is_common_and_one_of_few_is_not() -> None:
    many = [f"begin {n} with one two red blue green six and go {n}" for n in range(30)]
    few = [f"other {n} words that only three texts have here {n}" for n in range(3)]
    texts = texts_of(*many, *few)
    found = units.common([units.occurring(texts)])
    made = units.units(normal.normal(texts_of("one two red blue green six", "words that only three texts have")))
    table, marks = units.run_table(found), np.empty(6, np.uint8)
    assert units.shared(made.hashes[:6], table.keys, table.slots, marks) == 6
    assert units.shared(made.hashes[6:], table.keys, table.slots, marks) == 0


def test_letters_of_any_script_are_no_signs_that_calculate() -> None:
    made = kin.kins(normal.normal(texts_of("오늘 날씨가 좋네요", "오늘 날씨는 좋군요", "今天", "the day", "")))
    assert len(set(made.tolist())) == 1
    made = kin.kins(normal.normal(texts_of("오늘 3", "오늘 4", "오늘 ≤ 4", "x² 4", "x2 4", "a - 4", "a, 4")))
    assert len(set(made.tolist())) == 6
