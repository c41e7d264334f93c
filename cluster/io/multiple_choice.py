"""Multiple choice: questions with their choices, as the rows of MMLU, CMMLU, C-Eval, ARC or MedQA have them."""

import json
from collections.abc import Mapping, Sequence

from gristmill.cluster.io.conversation import Columns, number_text
from gristmill.cluster.io.turns import RowError, blank, from_json, said

CHOICES = ("choices", "options")
LETTERS = ("a", "b", "c", "d", "e", "f", "g", "h", "i", "j")
"""Columns with one choice each. The first two must be there."""
ANSWERS = ("answer", "answerkey", "answer_key", "answer_idx", "answer_index", "target", "gold", "label")
"""Columns with the right answer: its letter, its text, or its number from 0."""


def choices_of(row: Columns) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the labels and the texts of the choices of a row.

    The choices are a list of texts, a list of tables `{label, text}`, a table of lists `{label: […], text: […]}`, a
    table of texts by label, or the columns `A`, `B`, … Without labels, the labels are A, B, ….

    Raises:
        RowError: if the row has no such choices, or if two are equal.
    """
    name = next((name for name in CHOICES if row.get(name) is not None), "")
    if name:
        labels, texts = _listed(from_json(row.get(name), name, "a list of choices"), name)
    else:
        name = "a"
        there = [letter for letter in LETTERS if row.get(letter) not in (None, "")]
        labels, texts = [letter.upper() for letter in there], [_text(row.get(letter), letter) for letter in there]
    wrong = "fewer than two choices" if len(texts) < 2 else ""
    wrong = wrong or ("two choices of the same text" if len({*texts}) < len(texts) else "")
    wrong = wrong or ("two choices of the same label" if len({*labels}) < len(labels) else "")
    if wrong:
        raise RowError(f"field '{name}' has {wrong}, must have different ones")
    return tuple(labels), tuple(texts)


def answer_of(row: Columns, labels: Sequence[str], texts: Sequence[str]) -> str:
    """Return the text of the right choice.

    Raises:
        RowError: if a column names no choice, or could mean several, or if two columns differ.
    """
    found = {name: _right(row.get(name), name, labels, texts) for name in ANSWERS if row.get(name) is not None}
    if not found:
        raise RowError(f"field '{ANSWERS[0]}' is absent, must be the label, the text or the number of a choice")
    if len({*found.values()}) > 1:
        both = " and ".join(f"'{name}'" for name in found)
        raise RowError(f"fields {both} are different choices, must be the same one")
    return next(iter(found.values()))


def tag(texts: Sequence[str]) -> str:
    """Return the value of the tag `choices`."""
    return json.dumps(list(texts), ensure_ascii=False)


def _listed(value: object, name: str) -> tuple[list[str], list[str]]:
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        labels, texts = value.get("label"), value["text"]
        if not isinstance(labels, list) or len(labels) != len(texts):
            raise RowError(f"field '{name}.label' is {said(labels)}, must be a list of {len(texts)} labels")
    elif isinstance(value, Mapping):
        there = [(key, text) for key, text in value.items() if text is not None]
        labels, texts = [key for key, _ in there], [text for _, text in there]
    elif isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        labels, texts = [one.get("label") for one in value], [one.get("text") for one in value]
    elif isinstance(value, list):
        labels, texts = [letter.upper() for letter in LETTERS[: len(value)]], value
        labels += [str(number) for number in range(len(labels), len(texts))]
    else:
        raise RowError(f"field '{name}' is {said(value)}, must be a list of choices")
    return [_text(one, f"{name}.label") for one in labels], [_text(one, name) for one in texts]


def _text(value: object, name: str) -> str:
    text = value if isinstance(value, str) else number_text(value, name, "text")
    if blank(text):
        raise RowError(f"field '{name}' is {said(value)}, must be text")
    return text.strip()


def _right(value: object, name: str, labels: Sequence[str], texts: Sequence[str]) -> str:
    """Return the text of the choice that a value names."""
    word = _text(value, name)
    upper = [label.strip("().").upper() for label in labels]
    meant = {text for text in texts if isinstance(value, str) and text == word}
    meant |= {text for label, text in zip(upper, texts, strict=True) if label == word.strip("().").upper()}
    number = int(word) if word.isascii() and word.isdigit() and len(word) < 4 else -1
    if not meant and 0 <= number < len(texts):
        meant = {texts[number]}
    if len(meant) == 1:
        return meant.pop()
    what = "names two different choices" if meant else "names no choice"
    raise RowError(f"field '{name}' is {said(value)} and {what}, must be the label, the text or the number of one")
