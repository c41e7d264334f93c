"""Keys and words of texts, in English and Chinese."""

import pytest

from gristmill.cluster.text.keys import key, overlap, words


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Name three  rivers.", "name three rivers"),
        ("“Hello”, world!", "hello world"),
        ("列举三条河流。", "列举三条河流"),
        ("列举 三条 河流！", "列举三条河流。"),
        ("Ｗｈａｔ？", "what"),
        ("用 Python 写一个函数", "用Python写一个函数。"),
        ("人々 の 〇", "人々の〇"),
        ("บอกชื่อ แม่น้ำ", "บอกชื่อแม่น้ำ"),
    ],
)
def test_copies_have_one_key(left: str, right: str) -> None:
    assert key(left) == key(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("What is 5-3?", "What is 5/3?"),
        ("What is 5.3?", "What is 53?"),
        ("1,000 or 2", "1 000 or 2"),
        ("call f(x)", "call f[x]"),
        ("a < b", "a > b"),
        ("列举三条河流", "列举四条河流"),
        ("?", "!"),
    ],
)
def test_different_questions_have_different_keys(left: str, right: str) -> None:
    assert key(left) != key(right)


def test_overlap_counts_words_and_pairs_of_chinese_characters() -> None:
    assert words("Name THREE rivers.") == {"name", "three", "rivers"}
    assert words("三条河流") == {"三条", "条河", "河流"}
    assert words("用Python写") == {"用", "python", "写"}
    assert overlap(words("name three rivers"), words("name three very long rivers")) == 1
    assert overlap(words("为恐怖电影写一个开场"), words("推荐一部周末观影的电影")) < 0.3
    assert overlap(words("?"), words("name")) == 1
