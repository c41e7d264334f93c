"""Questions about a context: rows of SQuAD, CMRC and the like, with the answers and their places in the context."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from gristmill.cluster.io.conversation import Columns, text_of
from gristmill.cluster.io.turns import RowError, blank, flag, from_json, said

ANSWERS = ("answers", "answer")
IMPOSSIBLE = "is_impossible"
"""Column of SQuAD 2.0 that says whether the context has no answer."""
_BLANK_LINES = re.compile(r"\s*\n\s*\n\s*")


def asked_of(row: Columns) -> str:
    """Return the question, an empty line, and the context; empty lines in the question become line breaks.

    A row without a context, in a file in which others have one, is the question alone.
    """
    context = row.get("context")
    if context is None or (isinstance(context, str) and blank(context)):
        return text_of(row, ("question",))
    question = _BLANK_LINES.sub("\n", text_of(row, ("question",)).strip())
    return f"{question}\n\n{text_of(row, ('context',))}"


def answers_of(row: Columns) -> tuple[str, dict[str, str]]:
    """Return the first answer; and the tags `answers`, a JSON list of all, and `answer_start`, if it is told.

    The answers are `{text: […], answer_start: […]}`, a list of `{text, answer_start}`, a list of texts, or one text. An
    empty list, or `is_impossible`, says that the context has no answer. Then the answer is empty, and so is the list in
    the tag.

    Source: Rajpurkar et al. 2018, SQuAD 2.0, arXiv:1806.03822.

    Raises:
        RowError: if there is no answer, and nothing says that the context has none.
    """
    name = next((name for name in ANSWERS if row.get(name) is not None), ANSWERS[0])
    value = row.get(name)
    told = row.get(IMPOSSIBLE)
    impossible = told is not None and told != "" and flag(told, IMPOSSIBLE)
    if impossible and (value is None or value == ""):
        return "", {"answers": "[]"}
    if name == "answer" and not isinstance(value, list | Mapping):
        return text_of(row, ("answer",), number=True).strip(), {}
    if isinstance(value, str):
        value = from_json(value, name, "a table or a list of answers")
    found, starts = _listed(value)
    if not found or impossible:
        if found or (told is not None and told != "" and not impossible):
            raise RowError(
                f"field '{name}' has {len(found)} answers and field '{IMPOSSIBLE}' is {said(told)}, must agree"
            )
        return "", {"answers": "[]"}
    texts = [text for text in found if isinstance(text, str) and text.strip()]
    if not texts or len(texts) < len(found):
        raise RowError(f"field '{name}' is {said(value)}, must have the text of an answer at least")
    tags = {"answers": json.dumps(list(dict.fromkeys(text.strip() for text in texts)), ensure_ascii=False)}
    start = starts[0] if starts else None
    if isinstance(start, int) and start >= 0:
        tags["answer_start"] = str(start + len(texts[0]) - len(texts[0].lstrip()))
    return texts[0].strip(), tags


def questions_of(article: object) -> Iterator[dict[str, Any]]:
    """Yield the questions of an article of the files of SQuAD and CMRC, with the columns of rows.

    An article is `{title, paragraphs: [{context, qas: [{question, answers, …}]}]}`. Anything else has no questions.
    """
    paragraphs = article.get("paragraphs") if isinstance(article, Mapping) else None
    for paragraph in paragraphs if isinstance(paragraphs, list) else ():
        asked = paragraph.get("qas") if isinstance(paragraph, Mapping) else None
        for question in asked if isinstance(asked, list) else ():
            if isinstance(question, Mapping):
                yield {**question, "context": paragraph.get("context")}


def _listed(value: object) -> tuple[list[object], list[object]]:
    """Return the texts and the starts of answers."""
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
        return (
            list(texts) if isinstance(texts, list) else [texts],
            list(starts) if isinstance(starts, list) else [starts],
        )
    entries = value if isinstance(value, list) else [value]
    tables = [entry if isinstance(entry, Mapping) else {"text": entry} for entry in entries]
    return [entry.get("text") for entry in tables], [entry.get("answer_start") for entry in tables]
