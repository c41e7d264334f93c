"""Marked spans: read, written, found in seeds, held to a grammar."""

import json
import re

import pytest

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.text.spans import Span, dumps, grammar, of_seed, read, unmarked, write

LABELS = ("person", "city")


@pytest.mark.parametrize(
    ("marked", "plain", "spans"),
    [
        (
            "[Ann](person) left [New York](city).",
            "Ann left New York.",
            (Span("Ann", "person", 0, 3), Span("New York", "city", 9, 17)),
        ),
        (
            "[李娜](person)昨天到了[上海](city)。",
            "李娜昨天到了上海。",
            (Span("李娜", "person", 0, 2), Span("上海", "city", 6, 8)),
        ),
        ("No names (at all) here.", "No names (at all) here.", ()),
    ],
)
def test_marks_become_exact_spans_and_back(marked: str, plain: str, spans: tuple[Span, ...]) -> None:
    assert read(marked, LABELS) == (plain, spans)
    assert all(plain[span.start : span.end] == span.text for span in spans)
    assert write(plain, spans) == marked
    assert json.loads(dumps(spans)) == [span._asdict() for span in spans]


@pytest.mark.parametrize(
    "marked",
    ["[Ann](animal) left", "[Ann left", "[Ann ](person) left", "[[Ann](person)]", "[Ann (B)](person)", "Ann](person)"],
)
def test_bad_marks_are_no_text(marked: str) -> None:
    assert read(marked, LABELS) is None


@pytest.mark.parametrize(
    ("text", "spans", "again"),
    [
        ("Ann met Ann.", (Span("Ann", "person", 0, 3),), True),
        ("Ann met Anna.", (Span("Ann", "person", 0, 3),), False),
        ("Ann met Ann.", (Span("Ann", "person", 0, 3), Span("Ann", "person", 8, 11)), False),
        ("李娜说李娜好", (Span("李娜", "person", 0, 2),), True),
        ("李娜说你好", (Span("李娜", "person", 0, 2),), False),
    ],
)
def test_words_marked_once_must_be_marked_always(text: str, spans: tuple[Span, ...], again: bool) -> None:
    assert unmarked(text, spans) == again


def seed(user: str, answer: str = "") -> Sample:
    return Sample("s", (Message("user", user), *([Message("assistant", answer)] if answer else [])))


@pytest.mark.parametrize(
    ("sample", "marked"),
    [
        (seed("[Ann](person) left."), "[Ann](person) left."),
        (seed("Which names?\n\nAnn left Rome.", '[{"text": "Ann", "label": "person"}]'), "[Ann](person) left Rome."),
        (seed("Ann, Ann!", '[{"text": "Ann", "label": "person", "start": 5}]'), "Ann, [Ann](person)!"),
        (seed("李娜到了。", '[{"text": "李娜", "label": "person", "start": 99}]'), "[李娜](person)到了。"),
        (seed("[Ann](animal) left."), None),
        (seed("Ann left.", '[{"text": "Bob", "label": "person"}]'), None),
        (seed("Ann left.", '[{"text": "Ann", "label": "animal"}]'), None),
        (seed("Ann left.", '["Ann"]'), None),
        (seed("Ann left.", '[{"text": "Ann", "label": "person"}, {"text": "Ann", "label": "city"}]'), None),
        (seed("Ann left.", "[]"), None),
        (seed("Ann left.", "positive"), None),
    ],
)
def test_seeds_are_marked_texts_or_have_spans_as_json(sample: Sample, marked: str | None) -> None:
    assert of_seed(sample, LABELS) == marked


def test_the_grammar_allows_known_marks_and_asks_for_one_of_the_wanted_label() -> None:
    allowed = re.compile(grammar(("a (b)", "c.d"[0:1] + "+"), "c+"))
    assert allowed.fullmatch("so [Ann](c+) left 上海")
    assert not allowed.fullmatch("so Ann left")
    assert not allowed.fullmatch("so [Ann](cc) left")
    two = re.compile(grammar(LABELS, "city"))
    assert two.fullmatch("[Ann](person) left [Rome](city)")
    assert not two.fullmatch("[Ann](person) left Rome")
    assert not two.fullmatch("[Rome](city) and [it](thing)")
    assert not two.fullmatch("[" + "x" * 41 + "](city)")
    assert not two.fullmatch("[Lisbon(city)](city)")
    assert read("[Ann](person) left [Rome](city)", LABELS) is not None
