"""Tests of the tokenisation by pieces: it gives what the tokenizer gives for the whole text."""

import random
import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from gristmill.training.data import pieces
from gristmill.training.data.pieces import Joined, TextReader, Whole

LETTERS = ["a", "b", "S", "s", "ll", "re", "é", "е", "好", "ß", "ǅ", "ʰ", "e\u0301", "\u0301", "हि", "𝒳"]
DIGITS = ["0", "7", "42", "1234", "½", "Ⅷ", "٣", "²"]
SIGNS = ["'", "’", ".", ",", "-", "_", "/", "<", "🙂", "\u200b", "\u200d", "\x04", "\x1c", "。", "<|end|>", "<|5|>"]
SPACES = [" ", " ", " ", "  ", "\n", "\n\n", "\r\n", "\t", "\xa0", "\u3000", "\u2028", "\x85"]
WORDS = "it's we'll the theory of 42 answers, (or 1234.5)\n\nSee\tthe  code: x = y_1/2 \n don't STOP'S é好 "


def gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def split(regex: str, behavior: str = "isolated", *, invert: bool = False) -> pre_tokenizers.PreTokenizer:
    cut = pre_tokenizers.Split(Regex(regex), behavior, invert=invert)
    return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def made(
    cutter: pre_tokenizers.PreTokenizer,
    normalizer: Any = None,
    *,
    alphabet: bool = True,
    trim: bool = False,
    **how: Any,
) -> Tokenizer:
    """Return a tokenizer with a few merges and two control tokens."""
    tok = Tokenizer(models.BPE(**how))
    tok.pre_tokenizer = cutter
    if normalizer:
        tok.normalizer = normalizer
    letters = pre_tokenizers.ByteLevel.alphabet() if alphabet else []
    tok.train_from_iterator([WORDS] * 3, trainers.BpeTrainer(vocab_size=340, initial_alphabet=letters))
    tok.add_special_tokens([AddedToken(name, normalized=False) for name in ("<|end|>", "<|5|>", "<|5|>a")])
    tok.post_processor = processors.ByteLevel(trim_offsets=trim, add_prefix_space=not trim)
    return tok


CUTTERS = {
    "gpt-2": gpt2(),
    "starcoder": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2()]),
    "tiktoken": split(max(pieces.REGEXES, key=len), "removed", invert=True),
    **{f"split {number}": split(regex) for number, regex in enumerate(sorted(pieces.REGEXES))},
}


def texts(seed: int, count: int) -> Iterator[str]:
    """Yield texts in which parts of every kind follow each other."""
    rng = random.Random(seed)
    kinds = (LETTERS, DIGITS, SIGNS, SPACES)
    for _ in range(count):
        yield "".join(rng.choice(rng.choice(kinds)) for _ in range(rng.randint(0, 12)))


def different(tok: Tokenizer, some: list[str]) -> list[str]:
    """Return the texts of which the pieces have other tokens, or other places of these, than the whole text."""
    reader, wrong = TextReader(tok), []
    for text in some:
        read, whole = reader._joined(text), tok.encode(text, add_special_tokens=False)
        if read is None:
            continue
        ranges = [(begin, end) for begin in range(len(text)) for end in (begin + 1, begin + 3, len(text))]
        both = [[one.overlapping(*each) for each in ranges] for one in (read, Whole(whole.ids, whole))]
        if read.ids.tolist() != whole.ids or both[0] != both[1]:
            wrong.append(text)
    return wrong


def given() -> list[str]:
    """Return texts of every kind, and all kinds of spaces and signs between other characters."""
    between = product(("", "b", "3", "."), [*SPACES, *SIGNS], ("a", "s", "5", "!", " x"))
    return [*texts(0, 150), *map("".join, between)]


@pytest.mark.parametrize("name", CUTTERS)
def test_the_pieces_of_a_text_have_the_tokens_of_the_whole_text_at_the_same_places(name: str) -> None:
    for normalizer in (None, normalizers.NFC()):
        tok = made(CUTTERS[name], normalizer)
        some = list(texts(0, 150))
        assert not different(tok, some)
        assert sum(isinstance(one, Joined) for one in TextReader(tok).read(some)) > len(some) * 0.9


@pytest.mark.parametrize("name", CUTTERS)
def test_a_text_is_cut_only_where_its_tokenizer_cuts_it_too(name: str) -> None:
    cutter, none = CUTTERS[name], re.compile("((?!))")
    for text in given():
        parts = [part for piece in pieces.cut(text, none) for part, _ in cutter.pre_tokenize_str(piece)]
        assert parts == [part for part, _ in cutter.pre_tokenize_str(text)], repr(text)


def test_a_text_is_cut_at_words_numbers_and_signs() -> None:
    tok = made(gpt2())
    added = pieces.added_tokens(tok)
    assert pieces.cut("Add 12 apples,\nthen it's 3.5!<|end|>", added) == [
        "Add", " 12", " apples", ",\nthen", " it's", " 3", ".", "5", "!", "<|end|>",
    ]  # fmt: skip


def test_the_longer_of_two_added_tokens_is_read() -> None:
    tok = made(gpt2())
    assert pieces.cut("x<|5|>ab<|5|>b", pieces.added_tokens(tok)) == ["x", "<|5|>a", "b", "<|5|>", "b"]


@pytest.mark.parametrize(
    "other",
    {
        "another regex": made(split(r"\w+|\W+")),
        "no regex": made(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)),
        "a space before the text": made(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        "lower case": made(gpt2(), normalizers.Lowercase()),
        "compatible characters": made(gpt2(), normalizers.Sequence([normalizers.NFC(), normalizers.NFKC()])),
        "random merges": made(gpt2(), dropout=0.1),
        "no byte level": made(pre_tokenizers.Whitespace(), unk_token="?"),
    }.items(),
    ids=lambda pair: pair[0],
)
def test_a_tokenizer_that_may_read_a_piece_in_another_way_reads_whole_texts(other: tuple[str, Tokenizer]) -> None:
    tok = other[1]
    some = [text for text in texts(1, 20) if text]
    read = TextReader(tok).read(some)
    assert all(isinstance(one, Whole) for one in read)
    if not tok.model.dropout:
        assert [one.ids.tolist() for one in read] == [tok.encode(text, add_special_tokens=False).ids for text in some]


def test_added_tokens_that_take_the_space_beside_them_are_read_in_whole_texts() -> None:
    tok = made(gpt2())
    assert pieces.cuttable(tok)
    tok.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    assert not pieces.cuttable(tok)


def test_control_tokens_that_a_tokenizer_reads_as_text_are_read_in_whole_texts() -> None:
    tok = made(gpt2())
    tok.encode_special_tokens = True
    assert not pieces.cuttable(tok)


def test_a_text_with_a_character_that_has_no_token_is_read_whole() -> None:
    tok = made(gpt2(), alphabet=False)
    some = ["the answers", "the\x04 answers"]
    read = TextReader(tok).read(some)
    assert [type(one) for one in read] == [Joined, Whole]
    assert [one.ids.tolist() for one in read] == [tok.encode(text, add_special_tokens=False).ids for text in some]


def test_a_text_with_few_places_to_cut_at_is_read_whole() -> None:
    tok = made(gpt2())
    some = ["好" * 40, "the answers", "好" * 40]
    read = TextReader(tok).read(some)
    assert [type(one) for one in read] == [Whole, Joined, Whole]
    assert [one.ids.tolist() for one in read] == [tok.encode(text, add_special_tokens=False).ids for text in some]


def test_pieces_are_forgotten_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "MOST", 3)
    tok = made(gpt2())
    reader = TextReader(tok)
    some = ["the theory of answers", "of the theory", "x" * 40 + " of"]
    assert [one.ids.tolist() for one in reader.read(some)] == [tok.encode(text).ids for text in some]
    assert 0 < len(reader._pieces) <= 3
    assert all(len(piece) <= pieces.LONGEST for piece in reader._pieces)


def test_places_outside_of_all_tokens_have_no_token() -> None:
    tok = made(gpt2(), trim=True)
    text = "of  the"
    read, whole = TextReader(tok).read([text])[0], tok.encode(text)
    assert isinstance(read, Joined)
    assert read.overlapping(2, 3) == Whole(whole.ids, whole).overlapping(2, 3)
    assert read.overlapping(4, 4) == slice(0, 0)
