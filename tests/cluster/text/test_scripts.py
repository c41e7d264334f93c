"""The table of scripts against Unicode's own names, and the rule for texts of mixed scripts."""

import itertools
import re
import sys
import unicodedata

import pytest

from gristmill.cluster.text.scripts import (
    HAN,
    HANGUL,
    KANA,
    UNSPACED,
    WIDE_SIGNS,
    Ranges,
    east_asian,
    is_chinese,
    script_of,
)
from tests.paths import ROOT

NAMES = {
    "CJK UNIFIED IDEOGRAPH": HAN,
    "CJK COMPATIBILITY IDEOGRAPH": HAN,
    "IDEOGRAPHIC ITERATION MARK": HAN,
    "IDEOGRAPHIC NUMBER ZERO": HAN,
    "HIRAGANA LETTER": KANA,
    "HALFWIDTH KATAKANA LETTER": KANA,
    "HANGUL SYLLABLE": HANGUL,
    "THAI CHARACTER": UNSPACED,
    "LAO LETTER": UNSPACED,
    "KHMER LETTER": UNSPACED,
    "FULLWIDTH LATIN": WIDE_SIGNS,
}


def test_a_character_is_of_the_script_that_unicode_names_it_after() -> None:
    table = {name: re.compile(f"[{ranges}]") for name, ranges in NAMES.items()}
    for char in map(chr, (*range(0x10000), *range(0x20000, sys.maxunicode + 1))):  # without ancient kana
        said = unicodedata.name(char, "")
        for name, ranges in table.items():
            assert not said.startswith(name) or ranges.match(char), said


def test_no_character_of_another_script_is_in_a_table() -> None:
    known = re.compile("CJK|IDEOGRAPHIC|(COMBINING |HALFWIDTH )?(HIRAGANA|KATAKANA)|HANGUL|THAI|LAO|MYANMAR|KHMER")
    for first, last in (*UNSPACED, *HANGUL):
        strange = [chr(p) for p in range(first, last + 1) if not known.match(unicodedata.name(chr(p), "CJK"))]
        assert strange == []


@pytest.mark.parametrize("ranges", [HAN, KANA, HANGUL, UNSPACED, WIDE_SIGNS])
def test_ranges_ascend_and_do_not_overlap(ranges: Ranges) -> None:
    ends = [end for both in ranges for end in both]
    assert all(before <= after for before, after in itertools.pairwise(ends))
    assert all(last < first for (_, last), (first, _) in itertools.pairwise(ranges))


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("请写一首诗", "zh"),
        ("用 Python 写一个函数", "zh"),
        ("用PyTorch Lightning写DataLoader", ""),
        ("What does 你好 mean in English, please?", ""),
        ("12 + 30 = 多少？", "zh"),
        ("𠀀〇々", "zh"),
        ("これを日本語で書いてください", "ja"),
        ("東京大学入学試験問題集の解説を読む人", "zh"),
        ("東京大学の入学試験について", "ja"),
        ("API 서버를 설정해 주세요", "ko"),
        ("Привет, 世界 и мир", ""),
        ("2 + 2", ""),
        ("", ""),
    ],
)
def test_the_language_is_that_of_most_words(text: str, language: str) -> None:
    assert east_asian(text) == language
    assert is_chinese(text) == (language == "zh")


def test_no_other_file_spells_a_range_of_a_script() -> None:
    point = "3040|30ff|3400|4dbf|4e00|9fff|f900|faff|ac00|d7a3|d7af|0e00"
    spelled = re.compile(rf"(?:\\u|0x)(?:{point})|一-", re.IGNORECASE)
    packages = ("cluster", "generation", "selection", "training")
    files = [path for name in packages for path in (ROOT / name).rglob("*.py")]
    assert [path.name for path in files if spelled.search(path.read_text(encoding="utf-8"))] == ["scripts.py"]


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("The cat, 12 mats.", "Latin"),
        ("ＡＢＣ naïve", "Latin"),
        ("写一首诗, please", "Han"),
        ("Write a poem about 秋", "Latin"),
        ("ねこがすき", "Kana"),
        ("แมวนอนอยู่บนเก้าอี้", "Thai"),
        ("ឆ្មាកំពុងដេក", "Khmer"),
        ("ድመቷ ወንበር ላይ", "Ethiopic"),
        ("Кошка спит", "Cyrillic"),
        ("고양이가 잔다", "Hangul"),
        ("1 + 2 = 3 !", ""),
        ("", ""),
    ],
)
def test_the_script_of_a_text_is_that_of_most_of_its_words(text: str, script: str) -> None:
    assert script_of(text) == script
