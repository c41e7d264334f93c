"""The word operations of EDA and AEDA on pieces of a text, and the table of synonyms, in English and in Chinese."""

from random import Random

import pytest

from gristmill.generation.methods.augment import wordplay
from gristmill.generation.methods.augment.synonyms import CHINESE, ENGLISH, forms, synonyms, table
from gristmill.generation.methods.augment.wordplay import Piece, join, take_apart

ENGLISH_TEXT = "A sad, superior human comedy played out on the back roads of life where nothing good ends quickly"
CHINESE_TEXT = "这家店的味道很好，送餐的速度也非常快，服务员的态度很热情"
GUARDED = (
    "Ask Dr. Smith in Paris about `x = 1`, the $20 fee, foo.bar(), {name}, <b>, me@a.org and https://a.org/b?c=1, or "
    '"the big movie"; never quote two films.'
)
GUARDED_ZH = "请问张伟，北京的《好看的电影》为什么没有20元的票？见https://a.org，代码`好=1`，模板{名字}，“很好的味道”。"


def lookup(language: str) -> wordplay.Lookup:
    return lambda piece: synonyms(piece.text.lower(), "", language)


@pytest.mark.parametrize(
    ("language", "text"), [("en", ENGLISH_TEXT), ("zh", CHINESE_TEXT), ("en", GUARDED), ("en", "")]
)
def test_pieces_joined_are_the_text(language: str, text: str) -> None:
    assert join(take_apart(text, language)) == text


@pytest.mark.parametrize(("words", "changed"), [(5, 1), (9, 1), (10, 1), (19, 1), (20, 2), (29, 2), (30, 3), (100, 10)])
def test_the_number_of_changes_is_that_of_eda(words: int, changed: int) -> None:
    """Wei and Zou 2019 and their code: n = max(1, int(0.1 * length))."""
    assert wordplay.count(0.1, take_apart(" ".join(["word"] * words), "en")) == changed


def test_chinese_is_counted_in_words_of_jieba() -> None:
    pieces = take_apart("服务员的态度非常热情", "zh")
    assert [piece.text for piece in pieces] == ["服务员", "的", "态度", "非常", "热情"]
    assert wordplay.count(0.4, pieces) == 2


@pytest.mark.parametrize(("language", "text"), [("en", ENGLISH_TEXT), ("zh", CHINESE_TEXT)])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_exchange_replaces_so_many_words_by_their_synonyms(language: str, text: str, number: int) -> None:
    pieces = take_apart(text, language)
    for place in range(20):
        made = wordplay.exchange(pieces, number, Random(place), lookup(language), same_part=False)
        changed = [(a.text.lower(), b.text.lower()) for a, b in zip(pieces, made, strict=True) if a.text != b.text]
        changed = [pair for pair in changed if pair[0] not in ("a", "an")]
        assert len(set(changed)) == number
        assert all(new in synonyms(old, "", language) for old, new in changed)


def test_a_word_is_replaced_in_all_its_places_and_keeps_its_form() -> None:
    pieces = take_apart("Movies are fun. She watched movies, and movies watched her.", "en")
    made = join(
        wordplay.exchange(
            pieces, 1, Random(3), lambda p: {"movies": ["films"]}.get(p.text.lower(), []), same_part=False
        )
    )
    assert made == "Films are fun. She watched films, and films watched her."
    assert set(synonyms("chose", "verb", "en")) == {"selected", "picked"}
    assert set(synonyms("happier", "adjective", "en")) == {"gladder"}
    assert "tries" in synonyms("attempts", "verb", "en") and "try" not in synonyms("attempts", "verb", "en")
    assert set(synonyms("好吃", "", "zh")) == {"美味", "可口"}
    assert synonyms("真", "", "zh") == synonyms("", "", "zh") == ()
    assert set(synonyms("挺好吃", "", "zh")) == {"挺美味", "挺可口"} and not synonyms("挺", "noun", "zh")


def test_the_article_agrees_with_the_new_word() -> None:
    made = wordplay.exchange(
        take_apart("It is a great day", "en"),
        1,
        Random(0),
        lambda p: ["excellent"] if p.text == "great" else [],
        same_part=True,
    )
    assert join(made) == "It is an excellent day"


@pytest.mark.parametrize(("language", "text"), [("en", ENGLISH_TEXT), ("zh", CHINESE_TEXT)])
def test_insertion_adds_so_many_words_and_loses_none(language: str, text: str) -> None:
    pieces = take_apart(text, language)
    for place in range(20):
        made = wordplay.insert(pieces, 2, Random(place), lookup(language), language)
        before, after = [sorted(p.text.lower() for p in part if p.kind == "word") for part in (pieces, made)]
        assert len(after) == len(before) + 2
        assert all(after.count(word) >= before.count(word) for word in before)


@pytest.mark.parametrize(("language", "text"), [("en", ENGLISH_TEXT), ("zh", CHINESE_TEXT)])
def test_a_swap_moves_two_words_and_changes_none(language: str, text: str) -> None:
    pieces = take_apart(text, language)
    for place in range(20):
        made = wordplay.swap(pieces, 1, Random(place))
        assert sorted(p.text.lower() for p in made) == sorted(p.text.lower() for p in pieces)
        assert sum(a.text.lower() != b.text.lower() for a, b in zip(pieces, made, strict=True)) in (0, 2)


@pytest.mark.parametrize(("language", "text"), [("en", ENGLISH_TEXT), ("zh", CHINESE_TEXT)])
def test_deletion_keeps_a_word_at_least_and_takes_a_tenth(language: str, text: str) -> None:
    pieces = take_apart(text, language)
    assert [wordplay.length(wordplay.delete([Piece("word", "word")] * 8, 1.0, Random(n))) for n in range(5)] == [1] * 5
    left = [wordplay.length(wordplay.delete(pieces, 0.1, Random(n))) / wordplay.length(pieces) for n in range(400)]
    assert 0.88 < sum(left) / 400 < 0.94  # the negation and names stay
    assert wordplay.delete([], 0.5, Random(0)) == []
    pieces = take_apart("So, and then we left", "en")
    made = {join(wordplay.delete(pieces, 0.4, Random(n))) for n in range(200)}
    assert {"So, then we left", "So, we left", "Then we left"} <= made and not any("  " in text for text in made)


@pytest.mark.parametrize(("language", "text"), [("en", ENGLISH_TEXT), ("zh", CHINESE_TEXT)])
def test_marks_are_one_to_a_third_of_the_words(language: str, text: str) -> None:
    """Karimi et al. 2021, section 3: between 1 and a third of the length, of six marks, words untouched."""
    pieces = take_apart(text, language)
    seen = set()
    for place in range(200):
        made = wordplay.punctuate(pieces, Random(place), language)
        marks = [piece.text for piece in made if piece.text in wordplay.MARKS[language]]
        before = [piece.text for piece in pieces if piece.text in wordplay.MARKS[language]]
        seen.add(len(marks) - len(before))
        assert [p.text for p in made if p.kind != "gap"] == [p.text for p in pieces if p.kind != "gap"]
    assert min(seen) == 1 and max(seen) == wordplay.length(pieces) // 3


@pytest.mark.parametrize(
    ("sentence", "word", "part"),
    [
        ("they show kindness", "show", "verb"),
        ("please answer the question", "answer", "verb"),
        ("the answer is long", "answer", "noun"),
        ("a kind teacher", "kind", "adjective"),
        ("what kind of film", "kind", ""),
        ("he ran slowly", "slowly", "adverb"),
        ("great happiness", "happiness", "noun"),
    ],
)
def test_english_parts_of_speech_come_from_the_neighbours_or_stay_open(sentence: str, word: str, part: str) -> None:
    assert next(piece.part for piece in take_apart(sentence, "en") if piece.text == word) == part


def test_the_table_is_large_and_sound() -> None:
    assert len(table("en")) > 700 and len(table("zh")) > 500 and not table("de")
    for language, groups in (("en", ENGLISH), ("zh", CHINESE)):
        for (word, part), others in table(language).items():
            assert others and word not in others
            assert all(word in table(language)[other, part] for other in others)
            assert word.isalpha()
        assert set(groups) == {"adjective", "noun", "verb", "adverb"}
    assert forms("try", "verb") == {
        "base": "try",
        "s": "tries",
        "past": "tried",
        "participle": "tried",
        "ing": "trying",
    }
    assert forms("use", "verb")["ing"] == "using" and forms("agree", "verb")["ing"] == "agreeing"
