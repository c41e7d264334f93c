"""Word operations of classic augmentation on English and Chinese: swap, delete, insert, replace, punctuate.

A text is cut into words, spans that stay as they are, and the rest between them. Joined, the pieces are the text again.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any, Literal

from gristmill.cluster.text.scripts import UNSPACED
from gristmill.cluster.text.words import whole
from gristmill.generation.methods.augment.synonyms import inflected, table

Part = Literal["", "noun", "verb", "adjective", "adverb"]
ASCII = r"\x21-\x7e"
FIXED = (
    r"```.*?```",
    r"`[^`\n]+`",
    r"(?:https?://|www\.)[\x21-\x7e]+",
    r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
    r"\{\{.*?\}\}|\{[^{}\n]*\}|\[\[[^\]\n]*\]\]|\[[^\[\]\n]{1,60}\]|<[^<>\n]{1,60}>",
    r"\$[^$\s](?:[^$\n]*[^$\s])?\$",
    r'"[^"\n]+"|“[^”\n]+”|‘[^’\n]+’|「[^」\n]+」|『[^』\n]+』|《[^》\n]+》|【[^】\n]+】',
    r"(?<![\w'])'[^'\n]+'(?!\w)",
    rf"[{ASCII}€£¥]*\d[{ASCII}€£]*",
    rf"[{ASCII}]*[_/\\@#=~^|&%$][{ASCII}]*",
    r"[A-Za-z]+(?:\.[A-Za-z]+)+(?:\.|\(\))?|[A-Za-z]\w*\(\)",
)
"""Spans that no operation touches: code, addresses, template markers, mathematics, quotations, numbers, identifiers."""
_WORDS = {
    "numbers": """one two three four five six seven eight nine ten eleven twelve dozen twenty thirty forty fifty hundred
        thousand million half twice first second""",
    "negations": "not no never none nobody nothing neither nor without cannot hardly barely",
    "determiners": "a an the this that these those my your his her its our their some any each every",
    "before_verbs": """to can could will would shall should may might must do does did let please i you we they he she
        who""",
    "before_adjectives": "is are was were be been being very so too more most quite really as",
    "before_nouns": "of in on for with by from about at into between",
    "others": "it and or but if",
}
NUMBERS, NEGATIONS, DETERMINERS, BEFORE_VERBS, BEFORE_ADJECTIVES, BEFORE_NOUNS, OTHERS = (
    frozenset(words.split()) for words in _WORDS.values()
)
STOP_WORDS = DETERMINERS | BEFORE_VERBS | BEFORE_ADJECTIVES | BEFORE_NOUNS | OTHERS
"""Words for which no synonyms are looked up."""
NEGATIONS_ZH = ("不", "没", "未", "别", "无", "莫", "勿")
"""Beginnings of words that, like `NEGATIONS`, can reverse a label when they are moved or left out."""
NAMES_ZH = ("nr", "ns", "nt", "nz", "m", "q", "eng")
"""jieba's flags of names, numerals, measures and foreign words."""
PARTS_ZH: dict[str, Part] = {"n": "noun", "t": "noun", "v": "verb", "a": "adjective", "d": "adverb"}
SUFFIXES: tuple[tuple[str, Part], ...] = (
    ("tion", "noun"), ("ness", "noun"), ("ment", "noun"), ("ity", "noun"), ("ism", "noun"),
    ("ful", "adjective"), ("ous", "adjective"), ("ive", "adjective"), ("able", "adjective"), ("ish", "adjective"),
    ("ly", "adverb"), ("ize", "verb"), ("ise", "verb"), ("ify", "verb"),
)  # fmt: skip
MARKS = {"en": (".", ";", "?", ":", "!", ","), "zh": ("。", "；", "？", "：", "！", "，")}
"""The six marks of AEDA."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a text: a word, a span that stays (`fixed`), or what is between them (`gap`)."""

    text: str
    kind: Literal["word", "fixed", "gap"]
    part: Part = ""
    """Part of speech of a word, if it is clear."""


Lookup = Callable[[Piece], Sequence[str]]
"""A function that returns the words that may replace a word."""


def join(pieces: Iterable[Piece]) -> str:
    """Return the text of the pieces."""
    return "".join(piece.text for piece in pieces)


def words_in(pieces: Sequence[Piece]) -> list[int]:
    """Return the places of the words that may be changed."""
    return [place for place, piece in enumerate(pieces) if piece.kind == "word"]


def length(pieces: Sequence[Piece]) -> int:
    """Return the number of words; a fixed span counts as one."""
    return sum(piece.kind != "gap" for piece in pieces)


def take_apart(text: str, language: str, names: Iterable[str] = ()) -> list[Piece]:
    """Return the pieces of a text; `names` and all spans of `FIXED` are pieces that stay.

    Among languages without spaces, only Chinese is cut into words. Texts in the other ones have no words.
    """
    given = [whole(name) for name in sorted(set(names), key=lambda name: (-len(name), name)) if name.strip()]
    pieces: list[Piece] = []
    end = 0
    for found in re.finditer("|".join((*given, *FIXED)), text, re.DOTALL):
        pieces += _open(text[end : found.start()], language, bool(end))
        pieces.append(Piece(found[0], "fixed"))
        end = found.end()
    pieces += _open(text[end:], language, bool(end))
    return _with_parts(pieces) if language != "zh" else pieces


def _open(text: str, language: str, behind: bool) -> list[Piece]:
    """Return the pieces of a text without fixed spans; `behind` says whether anything comes before it."""
    if language == "zh":
        return _chinese(text)
    pieces: list[Piece] = []
    end = 0
    for found in re.finditer(rf"[^\W\d_{UNSPACED}]+(?:['’-][^\W\d_{UNSPACED}]+)*", text):
        gap = text[end : found.start()]
        first = bool(re.search(r"[.!?:;\n]", gap)) or not (behind or end)
        following = text[found.end() : found.end() + 2]
        kind: Literal["word", "fixed"] = "fixed" if _stays(found[0], first, following) else "word"
        pieces += [Piece(gap, "gap")] * bool(gap) + [Piece(found[0], kind)]
        end = found.end()
    return pieces + [Piece(text[end:], "gap")] * bool(text[end:])


def negates(word: str) -> bool:
    """Return whether a word is a negation."""
    return word.lower() in NEGATIONS or word.lower().endswith(("n't", "n’t")) or word.startswith(NEGATIONS_ZH)


def _stays(word: str, first: bool, following: str) -> bool:
    """Return whether a word is a name, a number or a negation.

    A capitalised word is a name, unless it is a known word at the beginning of a sentence and no second capital
    follows.
    """
    low = word.lower()
    if low in NUMBERS or negates(word):
        return True
    if low == word or re.fullmatch(r"I(?:['’][a-z]+)?", word):
        return False
    known = low in STOP_WORDS or low in inflected()
    return not (first and known and word[1:] == low[1:] and not following[1:].isupper())


@cache
def _tagger() -> Any:  # noqa: ANN401 - untyped library
    import logging

    import jieba
    import jieba.posseg

    jieba.setLogLevel(logging.WARNING)
    return jieba.posseg


def _chinese(text: str) -> list[Piece]:
    pieces: list[Piece] = []
    for pair in _tagger().lcut(text) if text else ():
        word, flag = str(pair.word), str(pair.flag)
        known: list[Part] = [part for part in sorted({*PARTS_ZH.values()}) if (word, part) in table("zh")]
        negation = negates(word) and not known
        if not re.search(rf"[\w{UNSPACED}]", word):
            pieces.append(Piece(word, "gap"))
        elif negation or flag.startswith(NAMES_ZH):
            pieces.append(Piece(word, "fixed"))
        else:
            part = known[0] if len(known) == 1 else PARTS_ZH.get(flag[0], "")
            pieces.append(Piece(word, "word", part))
    return pieces


def _with_parts(pieces: Sequence[Piece]) -> list[Piece]:
    """Return English pieces with the part of speech of each word, where it is clear."""
    words = [(place, piece.text.lower()) for place, piece in enumerate(pieces) if piece.kind != "gap"]
    texts = ["", *(word for _, word in words), ""]
    tagged = list(pieces)
    for n, (place, word) in enumerate(words, 1):
        if pieces[place].kind == "word":
            tagged[place] = replace(pieces[place], part=part_of(word, texts[n - 1], texts[n + 1]))
    return tagged


def part_of(word: str, before: str, after: str) -> Part:
    """Return the part of speech of a lower-case English word from the table, its ending and its neighbours, or "".

    If the table has several parts of speech for the word, its neighbours decide. If they do not decide, it is unknown.
    """
    if word in STOP_WORDS:
        return ""
    can = {reading[1] for reading in inflected().get(word, ())}
    if not can:
        return next((part for suffix, part in SUFFIXES if word.endswith(suffix) and len(word) > len(suffix) + 2), "")
    if len(can) == 1:
        return can.pop()  # type: ignore[return-value]
    noun_after = any(reading[1] == "noun" for reading in inflected().get(after, ()))
    rules: tuple[tuple[Part, bool], ...] = (
        ("adjective", noun_after and before in DETERMINERS | BEFORE_ADJECTIVES | BEFORE_NOUNS),
        ("noun", before in DETERMINERS | BEFORE_NOUNS),
        ("verb", before in BEFORE_VERBS or (not before and after in DETERMINERS)),
        ("adjective", before in BEFORE_ADJECTIVES),
    )
    return next((part for part, holds in rules if holds and part in can), "")


def count(alpha: float, pieces: Sequence[Piece]) -> int:
    """Return how many words an operation changes: max(1, alpha * length)."""
    return max(1, int(alpha * length(pieces)))


def exchange(pieces: Sequence[Piece], number: int, rng: Random, lookup: Lookup, *, same_part: bool) -> list[Piece]:
    """Return the pieces with `number` different words replaced, each in all its places.

    With `same_part`, a word is replaced only where its part of speech is clear and the same.
    """
    made = list(pieces)
    kinds = {(pieces[p].text.lower(), pieces[p].part if same_part else "") for p in words_in(pieces)}
    chosen = sorted(kinds)
    rng.shuffle(chosen)
    changed = 0
    for text, part in chosen:
        places = [p for p in words_in(made) if made[p].text.lower() == text and (not same_part or made[p].part == part)]
        options = lookup(made[places[0]]) if places and (part or not same_part) else ()
        if not options:
            continue
        new = rng.choice(list(options))
        for place in places:
            made[place] = replace(made[place], text=cased(new, made[place].text))
            _agree(made, place)
        changed += 1
        if changed == number:
            break
    return made


def insert(pieces: Sequence[Piece], number: int, rng: Random, lookup: Lookup, language: str) -> list[Piece]:
    """Return the pieces after `number` insertions, each of a synonym of a random word before a random word."""
    made = list(pieces)
    for _ in range(number):
        places = words_in(made)
        known = [place for place in places if lookup(made[place])]
        if known:
            new = rng.choice(list(lookup(made[rng.choice(known)])))
            place = rng.choice(places)
            old = made[place].text
            made[place] = replace(made[place], text=cased(old, new))
            _put(made, place, Piece(cased(new, old), "word"), language)
    return made


def swap(pieces: Sequence[Piece], number: int, rng: Random) -> list[Piece]:
    """Return the pieces after two random words were swapped, `number` times."""
    made = list(pieces)
    places = words_in(made)
    for _ in range(number if len(places) > 1 else 0):
        one, other = rng.sample(places, 2)
        made[one], made[other] = (
            replace(made[other], text=cased(made[other].text, made[one].text)),
            replace(made[one], text=cased(made[one].text, made[other].text)),
        )
    return made


def delete(pieces: Sequence[Piece], chance: float, rng: Random) -> list[Piece]:
    """Return the pieces with each word left out with a given probability; at least one word is kept."""
    places = words_in(pieces)
    gone = {place for place in places if rng.random() < chance}
    if gone and len(gone) == length(pieces):
        gone.discard(rng.choice(places))
    if not gone:
        return list(pieces)
    made: list[Piece] = []
    for place, piece in enumerate(pieces):
        if place in gone:
            if made and made[-1].text.isspace():
                made.pop()
        elif not made or made[-1].text.endswith(" "):
            text = piece.text.lstrip(" " if made else " ,.;:!?，。；：！？、")
            made += [replace(piece, text=text)] * bool(text)
        else:
            made.append(piece)
    if made and pieces[0].text[:1].isupper() and made[0].kind == "word":
        made[0] = replace(made[0], text=cased(made[0].text, pieces[0].text))
    return made


def punctuate(pieces: Sequence[Piece], rng: Random, language: str) -> list[Piece]:
    """Return the pieces with random marks before different random words; up to one mark for three words."""
    made = list(pieces)
    places = words_in(made)
    number = rng.randint(1, max(1, length(pieces) // 3))
    for place in sorted(rng.sample(places, min(number, len(places))), reverse=True):
        _put(made, place, Piece(rng.choice(MARKS["zh" if language == "zh" else "en"]), "gap"), language)
    return made


def _put(pieces: list[Piece], place: int, piece: Piece, language: str) -> None:
    space = [] if language == "zh" else [Piece(" ", "gap")]
    pieces[place:place] = [piece, *space]


def cased(word: str, like: str) -> str:
    """Return a word with the capitalisation of another word."""
    if like[:1].isupper() and like != "I":
        return word[:1].upper() + word[1:]
    return word if word == "I" or word.startswith(("I'", "I’")) else word[:1].lower() + word[1:]


def _agree(pieces: list[Piece], place: int) -> None:
    """Correct the `a` or `an` before a replaced English word."""
    before = pieces[place - 2] if place >= 2 and pieces[place - 1].text.isspace() else None
    if before and before.text.lower() in ("a", "an"):
        vowel = re.match(r"[aeiou]|hour|honest", pieces[place].text, re.IGNORECASE)
        an = vowel and not re.match(r"us[aeu]|uni|one", pieces[place].text, re.IGNORECASE)
        pieces[place - 2] = replace(before, text=cased("an" if an else "a", before.text))
