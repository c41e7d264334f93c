"""The final answer of a solution: the text in a box, the text after `####` or `answer is`, or the last line."""

import re
import unicodedata
from collections.abc import Sequence

from gristmill.cluster.text.words import tokens, whole

HASHES = re.compile(r"####\s*(.+)")
SAID = (
    r"(?:final |correct )?answer(?: is|:|：| would be| should be)\s*:?\s*(.+)",
    r"(?:最终|正确|所以|因此)?(?:的)?答案(?:应该|应|就)?(?:是|为|：|:)\s*[:：]?\s*(.+)",
    r"(?:^|\n)[ \t]*答\s*[：:]\s*(.+)",
)
"""Match the words that announce an answer, in English and Chinese. The answer is the text after them on the line."""
NUMBER = re.compile(r"[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?")
_DIGITS = {**{han: value for value, han in enumerate("零一二三四五六七八九")}, "〇": 0, "两": 2}
_UNITS = {"十": 10, "百": 100, "千": 1000}
_MYRIADS = {"万": 10**4, "亿": 10**8}
HAN_NUMBER = re.compile(rf"[{''.join((*_DIGITS, *_UNITS, *_MYRIADS))}]+")


def final_answer(text: str, labels: Sequence[str] = ()) -> str | None:
    r"""Return the final answer of a text in a normal form, or None if there is none.

    With labels, it is the label that is last in the text. Without labels, it is in the last `\boxed{}`, else after the
    last `####`, else after the last `answer is`, `答案是` or `答：`. There it is the first number, or the words if no
    number is there. If the text has none of these, it is the last number of the last line, or the words of this line.
    The normal form of `$1,000.00`, `1000 dollars`, `１０００` and `一千` is `1000`.
    """
    if labels:
        return _last_label(_plain(text), labels)
    text = _plain(text)
    marked = _marked(text)
    if marked:
        return _form(marked, first=True)
    return _form(next((line for line in reversed(text.splitlines()) if tokens(line)), ""))


def marked_answer(text: str) -> str | None:
    """Return the final answer of a text as `final_answer` does, or None if the text does not mark it."""
    return _form(_marked(_plain(text)), first=True)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip()


def _marked(text: str) -> str:
    return _boxed(text) or _last(HASHES, text) or _announced(text)


def _form(text: str, *, first: bool = False) -> str | None:
    """Return the last number of a text, or with `first` its first number. Without a number, return its words."""
    return _number(text, first=first) or " ".join(tokens(text)) or None


def _last_label(text: str, labels: Sequence[str]) -> str | None:
    """Return the label that ends last in the text. If several labels end at the same place, return the longest."""
    lower = text.casefold().replace("_", " ")  # of Markdown's emphasis
    best: tuple[int, int, str | None] = (-1, 0, None)
    for label in labels:
        sought = unicodedata.normalize("NFKC", label).casefold().replace("_", " ")
        for found in re.finditer(whole(sought), lower):
            best = max(best, (found.end(), len(label), label), key=lambda rated: rated[:2])
    return best[2]


def _boxed(text: str) -> str:
    r"""Return the content of the last `\boxed{…}`, which may have pairs of braces inside."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return ""
    depth, begin = 0, start + len("\\boxed")
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[begin + 1 : place].strip()
    return ""


def _last(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.findall(text)
    return str(found[-1]).strip() if found else ""


def _announced(text: str) -> str:
    found = [match for pattern in SAID for match in re.finditer(pattern, text, re.IGNORECASE)]
    return max(found, key=lambda match: match.start())[1].strip() if found else ""


def _number(text: str, *, first: bool = False) -> str:
    """Return the last number of a text, or with `first` its first number, in its shortest form.

    If there is no number, return the empty string. A number in Chinese characters counts with `first` if the text
    begins with it. Without `first` it counts if it has a unit, such as 十. Others do not count, because 一 is also part
    of many words.
    """
    found = NUMBER.findall(text)
    if found:
        return _short(found[0 if first else -1])
    if first:
        begins = HAN_NUMBER.match(text)
        return str(_han(begins[0])) if begins and _han(begins[0]) is not None else ""
    runs = [run for run in HAN_NUMBER.findall(text) if len(run) > 1 and _UNITS.keys() & set(run)]
    return next((str(value) for run in reversed(runs) if (value := _han(run)) is not None), "")


def _short(number: str) -> str:
    """Return a number without thousands separators, spaces and unnecessary zeros."""
    number = number.replace(",", "").replace("−", "-").replace(" ", "")
    whole, dot, fraction = number.partition(".")
    if dot and "/" not in fraction:
        fraction = fraction.rstrip("0")
        number = f"{whole}.{fraction}" if fraction else whole
    return re.sub(r"^(-?)0+(?=\d)", r"\1", number)


def _han(text: str) -> int | None:
    """Return the value of a number in Chinese characters, or None for a word that only looks like one, such as 万一."""
    if not (_UNITS.keys() | _MYRIADS.keys()) & set(text):  # 二零二四: digit by digit
        return int("".join(str(_DIGITS[sign]) for sign in text))
    total = section = digit = 0
    for sign in text:
        if sign in _DIGITS:
            digit = _DIGITS[sign]
        elif sign in _UNITS:
            section += (digit or 1) * _UNITS[sign]
            digit = 0
        elif section + digit == 0:
            return None
        else:
            total += (section + digit) * _MYRIADS[sign]
            section = digit = 0
    return total + section + digit
