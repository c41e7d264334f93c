"""Words inside longer ones, in scripts with spaces and without."""

import re

import pytest

from gristmill.cluster.text.words import whole


@pytest.mark.parametrize(
    ("word", "text", "finds"),
    [
        ("cat", "a cat, a Cat", True),
        ("cat", "concatenate", False),
        ("cat", "cat_5", False),
        ("cat", "cat5", False),
        ("Python", "用Python写一个函数", True),
        ("好", "很好吃", True),
        ("schön", "schöner", False),
        ("été", "un été,", True),
        ("긍정", "긍정입니다", True),
        ("c++", "in c++11", True),
        ("$5", "a$5", True),
        ("5%", "15%", False),
    ],
)
def test_a_word_is_found_where_it_is_no_part_of_a_longer_one(word: str, text: str, finds: bool) -> None:
    assert bool(re.search(whole(word), text)) == finds
