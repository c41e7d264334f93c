"""Made rows for each task: short sentences whose labels, entities and answers follow from their words."""

from typing import Any

from gristmill.cluster.contract.sample import Sample
from tests.training.tasks.test_tasks import row

TASKS: dict[str, dict[str, Any]] = {
    "sequence_classification": {"kind": "sequence_classification"},
    "multi_label": {"kind": "sequence_classification", "multi_label": True},
    "token_classification": {"kind": "token_classification"},
    "question_answering": {"kind": "question_answering", "stride": 8},
}
NAMES, PLACES = ("anna", "李娜", "joe"), ("berlin", "paris", "上海")
COLOURS, THINGS = ("red", "blue", "green"), ("lake", "river", "cat", "film")


def rows_of(name: str, count: int = 36) -> list[Sample]:
    """Return rows of a task: three in four are of the most frequent label."""
    return [_row(name, n) for n in range(count)]


def _row(name: str, n: int) -> Sample:
    who, where, colour = NAMES[n % 3], PLACES[n // 3 % 3], COLOURS[n % 3]
    thing = THINGS[n // 2 % 4]
    if name == "token_classification":
        said = [{"text": who, "label": "person"}, {"text": where, "label": "city"}]
        return row(f"{who} went to {where} {n}", said)
    if name == "question_answering" and n % 5 == 4:
        return row(f"where sings {who}?\n\nthe {colour} {thing} {n}. {who} lives in {where}.", "", answers="[]")
    if name == "question_answering":
        return row(f"where lives {who}?\n\nthe {colour} {thing} {n}. {who} lives in {where}.", where)
    good = n % 4 == 0
    text = f"{('good' if good else 'poor')} {colour} {thing} {n}"
    if name == "multi_label":
        return row(text, [word for word in ("good", "red", "cat") if word in text])
    return row(text, "good" if good else "bad")
