"""Entities: the names that a model marks in a text, with their labels."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from gristmill.cluster.models.engine import Reply
from gristmill.cluster.text.replies import json_in
from gristmill.cluster.text.spans import MARK
from gristmill.training.evaluate.scorers.contract import OWN, Item, Judgement, Judgements, Written
from gristmill.training.evaluate.scorers.normal import f1


class Entities(Written):
    """Score the F1 of the entities of an item. An entity is right if its words and its label are in the answer too.

    Answer and reply may be a JSON list of `{text, label}`, a JSON table that lists words by label, or the text with
    marks, `[Berlin](city)`. The report has precision, recall and F1 over the entities of all items.

    Source: Tjong Kim Sang & De Meulder 2003, CoNLL-2003, section 3.2 (only a complete entity with its label counts;
    micro averages), as in seqeval. Departures: entities are compared by their words and not by their position, because
    a model that writes JSON does not count characters; words that come twice must be found twice.
    """

    kind: Literal["entities"] = "entities"

    def refuse(self, item: Item) -> str:
        """Refuse an item with an answer in none of the three forms."""
        return "" if entities_in(item.answer) is not None else "answer has no entities in JSON or marks"

    def score(self, item: Item, replies: Sequence[Reply], shared: Sequence[Reply]) -> Judgements:
        """Return the F1, and the numbers of entities that are in both (`hits`), in the reply, and in the answer."""
        del shared
        wanted = entities_in(item.answer) or Counter()
        found = entities_in(replies[0].text) or Counter()
        hits = (wanted & found).total()
        counts = {"hits": hits, "found": found.total(), "wanted": wanted.total()}
        own = Judgement(f1(hits, found.total(), wanted.total()), replies[0].text.strip())
        return {OWN: own, **{name: Judgement(float(count)) for name, count in counts.items()}}


def entities_in(text: str) -> Counter[tuple[str, str]] | None:
    """Return how often each (words, label) is in a text, or None if the text has none of the three forms."""
    marks = MARK.findall(text)
    if marks:
        return Counter((_plain(words), label.strip()) for words, label in marks)
    value = json_in(text)
    if isinstance(value, dict):
        listed = [(words, label) for label, some in value.items() if isinstance(some, list) for words in some]
    elif isinstance(value, list):
        listed = [(entry.get("text"), entry.get("label")) for entry in value if isinstance(entry, dict)]
    else:
        return None
    return Counter((_plain(words), label.strip()) for words, label in listed if _texts(words, label))


def _texts(words: object, label: object) -> bool:
    return isinstance(words, str) and isinstance(label, str)


def _plain(words: str) -> str:
    return " ".join(words.split())
