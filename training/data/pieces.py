r"""The tokenisation of texts by pieces that come again and again: what a tokenizer makes of a piece is asked only once.

A byte-level BPE tokenizer cuts a text three times: at its added tokens, by a regex, and into tokens. What it makes of a
part that the regex cuts out depends on that part alone. So a text may be cut earlier, at every place where the regex
cuts whatever comes before and after. `_PIECE` cuts at such places: before a space that follows a character, between
ASCII letters, digits and what follows them. A piece is a word, a number or a sign, often with the space before it.

This holds for the regexes of `REGEXES`: each of their alternatives matches either white space alone, or at most one
other character and then characters of one class without white space; and only white space looks ahead. An apostrophe
after a letter may belong to it, and so may all that is not ASCII; signs may belong to the letters or the line ends
after them. There is no cut at these. A tokenizer with another regex, or one that changes the text before it cuts, reads
whole texts.

Rows of 680 characters with 160 pieces, of which 3 are new, take 100 microseconds by pieces and 215 whole.
"""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

LONGEST = 32
"""Largest number of characters of a piece that is kept. Longer ones seldom come again."""
MOST = 100_000
"""Number of pieces that are kept, in about 25 MB. They are forgotten when there are more."""
SPARSE = 16
"""Mean number of characters of a piece up to which a text is read by pieces. Chinese has few places to cut at."""
_CHUNK = r"(?:[0-9]+|[^\s0-9A-Za-z]*[A-Za-z]+|[^\s0-9A-Za-z]+)"
_PIECE = re.compile(
    r" [A-Za-z]+(?!['\x80-\U0010ffffA-Za-z])"  # only for speed: what the next line says of most words
    rf"|\s*{_CHUNK}(?:"
    r"(?<=[^\x00-\x7f])[0-9A-Za-z]+"  # no cut after a character that is not ASCII
    r"|(?:(?<=[A-Za-z])'|(?<=[0-9A-Za-z])[^\x00-\x7f\s])[^\s0-9A-Za-z]*[A-Za-z]*"  # nor before one, nor before 's
    rf"|(?<=[^\s0-9A-Za-z])[^\S ]\s*(?:{_CHUNK}|\Z)"  # nor between a sign and the end of a line
    r")*|\s+"
)
_LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
    r"|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
REGEXES = {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2; `ByteLevel` has it too
    _LLAMA % "{1,3}",  # Llama 3, GPT-4, OLMo 2, GLM-4, SmolLM3
    _LLAMA % "",  # Qwen2, Qwen3
    _LLAMA.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]") % "",  # Qwen3.5
    _CASED % ("", "", ""),  # Mistral Nemo
    _CASED % (*repeat("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", 2), "{1,3}"),  # GPT-4o, gpt-oss
}


class Whole:
    """The tokens of a text that was read whole."""

    def __init__(self, ids: Sequence[int], read: Any) -> None:  # noqa: ANN401 - an Encoding of the package tokenizers
        """Take the ids, [tokens], and an `Encoding` with the places of these tokens."""
        self.ids = np.array(ids, np.int32)
        self._read = read

    def overlapping(self, begin: int, end: int) -> slice:
        """Return the tokens whose characters overlap a range. It lists all places only if the ends are in no token."""
        read = self._read
        first, last = (read.char_to_token(begin), read.char_to_token(end - 1)) if begin < end else (None, None)
        if first is None or last is None:  # an empty answer, or white space that no token has
            places = np.array(read.offsets, np.int64).reshape(-1, 2)
            return _overlapping(places[:, 0], places[:, 1], begin, end)
        # tokens of the same character, such as bytes of an emoji
        while first and read.token_to_chars(first - 1)[1] > begin:
            first -= 1
        while last + 1 < len(self.ids) and read.token_to_chars(last + 1)[0] < end:
            last += 1
        return slice(first, last + 1)


class Joined:
    """The tokens of a text that was read by pieces."""

    def __init__(self, pieces: bytes) -> None:
        """Take what `_Pieces` has of the text's pieces, one after the other."""
        table = np.frombuffer(pieces, np.int32).reshape(-1, 4)
        self.ids: NDArray[np.int32] = table[:, 0]
        start = np.cumsum(table[:, 3]) - table[:, 3]
        self._begins, self._ends = table[:, 1] + start, table[:, 2] + start

    def overlapping(self, begin: int, end: int) -> slice:
        """Return the tokens whose characters overlap a range."""
        return _overlapping(self._begins, self._ends, begin, end)


class TextReader:
    """Reads texts with a fast tokenizer, without its special tokens around them."""

    def __init__(self, backend: Any) -> None:  # noqa: ANN401 - a Tokenizer of the package tokenizers
        """Take a tokenizer that neither cuts nor pads."""
        self._backend = backend
        self._cuttable = cuttable(backend)
        self._pieces = _Pieces(backend)
        self._added = added_tokens(backend)

    def read(self, texts: Sequence[str]) -> list[Whole | Joined]:
        """Return the tokens of each text."""
        joined = [self._joined(text) if self._cuttable else None for text in texts]
        left = [text for text, one in zip(texts, joined, strict=True) if one is None]
        # not through transformers, which makes lists of all ranges, for a third of the time
        whole = iter(self._backend.encode_batch(left, add_special_tokens=False) if left else ())
        return [one or _whole(next(whole)) for one in joined]

    def _joined(self, text: str) -> Joined | None:
        """Return the tokens of a text by its pieces; None if it has few of them, or one without a token."""
        pieces = cut(text, self._added)
        if len(text) > SPARSE * len(pieces):
            return None
        try:
            return Joined(b"".join(map(self._pieces.__getitem__, pieces)))
        except _NoTokenError:
            return None


class _NoTokenError(Exception):
    """The error for a piece without a token. Most vocabularies lack a few bytes, such as those of rare characters."""


class _Pieces(dict[str, bytes]):
    """The tokens of pieces, as int32 [tokens, 4]: id, first character, end, and the piece's length at its last token.

    The sum of the last column over the tokens before is the place of a token's piece in its text.
    """

    def __init__(self, backend: Any) -> None:  # noqa: ANN401 - as `TextReader`
        super().__init__()
        self._backend = backend

    def __missing__(self, piece: str) -> bytes:
        read = self._backend.encode(piece, add_special_tokens=False)
        if not len(read):
            raise _NoTokenError
        table = np.zeros((len(read), 4), np.int32)
        table[:, 0], table[:, 1:3], table[-1, 3] = read.ids, read.offsets, len(piece)
        found = table.tobytes()
        if len(piece) <= LONGEST:
            if len(self) >= MOST:
                self.clear()
            self[piece] = found
        return found


def added_tokens(backend: Any) -> re.Pattern[str]:  # noqa: ANN401 - as `TextReader`
    """Return a pattern whose one group is the added tokens of a tokenizer; where two fit, the longer one."""
    names = {token.content for token in backend.get_added_tokens_decoder().values()} - {""}
    longest = sorted(names, key=lambda name: (-len(name), name))
    return re.compile(f"({'|'.join(map(re.escape, longest)) or '(?!)'})")


def cut(text: str, added: re.Pattern[str]) -> list[str]:
    """Return the pieces of a text; the added tokens, which are the one group of a pattern, are pieces too."""
    found: list[str] = []
    for number, part in enumerate(added.split(text)):
        if number % 2:
            found.append(part)
        elif part:
            found += _PIECE.findall(part)
    return found


def cuttable(backend: Any) -> bool:  # noqa: ANN401 - as `TextReader`
    """Say whether a tokenizer reads each piece of `cut` alone."""
    model, added = backend.model, backend.get_added_tokens_decoder().values()
    normalizer, steps = _steps(backend.normalizer), _steps(backend.pre_tokenizer)
    return (
        type(model).__name__ == "BPE"
        and not model.dropout
        and all(step["type"] == "NFC" for step in normalizer)  # it joins no ASCII character with another one
        and not backend.encode_special_tokens
        and not any(token.lstrip or token.rstrip or token.single_word for token in added)
        and len({token.normalized for token in added}) <= 1  # else one kind goes before the other
        and all(map(_allowed, steps))
        and any(map(_cuts, steps))
        and any(step["type"] == "ByteLevel" for step in steps)
        and not any(map(_trims_first, _steps(backend.post_processor)))
    )


def _steps(part: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - a part of a tokenizer has no common type
    """Return the steps of a part of a tokenizer, as `tokenizer.json` has them."""
    if part is None:
        return []
    spec = json.loads(part.__getstate__())  # the package has no other way to its settings
    inner = next((spec[key] for key in ("normalizers", "pretokenizers", "processors") if key in spec), [spec])
    return [dict(step) for step in inner]


def _allowed(step: Mapping[str, Any]) -> bool:
    """Say whether a pre-tokenizer leaves what is on both sides of a cut of `_PIECE` alone."""
    if step["type"] == "Split":
        way = (step["behavior"], step["invert"])
        return step["pattern"].get("Regex") in REGEXES and way in (("Isolated", False), ("Removed", True))
    return step["type"] == "Digits" or (step["type"] == "ByteLevel" and not step["add_prefix_space"])


def _cuts(step: Mapping[str, Any]) -> bool:
    """Say whether a pre-tokenizer cuts by one of `REGEXES`."""
    return step["type"] == "Split" or (step["type"] == "ByteLevel" and bool(step["use_regex"]))


def _trims_first(step: Mapping[str, Any]) -> bool:
    """Say whether a post-processor gives the first token of a text another place than the same token elsewhere."""
    return step["type"] == "ByteLevel" and bool(step["trim_offsets"] and step["add_prefix_space"])


def _whole(read: Any) -> Whole:  # noqa: ANN401 - as `Whole`
    return Whole(read.ids, read)


def _overlapping(begins: NDArray[Any], ends: NDArray[Any], begin: int, end: int) -> slice:
    """Return the tokens, given by their ranges of characters, that overlap a range."""
    places = np.flatnonzero((begins < end) & (ends > begin))
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)
