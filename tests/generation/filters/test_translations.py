"""The language and length filters on what people write: translations, code, formulas and pasted texts."""

import asyncio
import json
from pathlib import Path

import pytest

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.text.parts import prose, request
from gristmill.generation.contracts import Filter
from gristmill.generation.filters.language import Language
from gristmill.generation.filters.length import Length
from tests.fakes import ScriptedAsk

PAIRS = [json.loads(line) for line in (Path(__file__).parent / "language_pairs.jsonl").read_text("utf-8").splitlines()]
HUMAN = [(p["language"], p["question"], p["answer"]) for p in PAIRS if p["right"]]
"""Translations, code and formulas as people would write them."""
WRONG = [(p["language"], p["question"], p["answer"]) for p in PAIRS if not p["right"]]
"""An instruction or an answer in a language that nothing calls for."""
PAPER = "The mill at Penrow was built in 1850 and burned down forty years later. " * 20


def dropped(step: Filter, language: str, question: str, answer: str) -> str | None:
    turns = (Message("user", question), Message("assistant", answer))
    return asyncio.run(step.judge(Sample("x", turns, tags={"language": language}), ScriptedAsk())).dropped


@pytest.mark.parametrize(("language", "question", "answer"), HUMAN)
def test_the_default_filters_keep_translations_and_code(language: str, question: str, answer: str) -> None:
    assert dropped(Language(), language, question, answer) is None
    assert dropped(Length(), language, question, answer) is None


@pytest.mark.parametrize(("language", "question", "answer"), WRONG)
def test_a_language_that_nothing_calls_for_is_still_dropped(language: str, question: str, answer: str) -> None:
    assert (dropped(Language(), language, question, answer) or "").startswith("language: ")


def test_a_request_is_the_paragraph_that_asks() -> None:
    assert request("Summarise this.\n\nLong text.\n\nMore text.") == "Summarise this."
    assert request("总结下面的内容：\n长长的内容") == "总结下面的内容："
    assert request(f"{PAPER}\n\nWhat burned down?") == "What burned down?"
    assert request(" One paragraph,\nof two lines. ") == "One paragraph,\nof two lines."


@pytest.mark.parametrize("question", [f"Summarise this.\n\n{PAPER}", f"{PAPER}\n\nWhen did the mill burn down?"])
def test_length_counts_the_request_and_not_what_is_pasted(question: str) -> None:
    assert dropped(Length(), "en", question, "In 1890.") is None
    assert dropped(Length(), "en", PAPER, "In 1890.") == "length: instruction too long"
    assert dropped(Length(max_pasted_words=100), "en", question, "In 1890.") == "length: pasted text too long"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Use a loop.\nfor x in xs:\n    print(x)", "Use a loop."),
        ("Like this:\n```python\nx = 1\n```\nand no other way.", "Like this:\nand no other way."),
        ("#include <stdio.h>\nint main() {\n  return 0;\n}", ""),
        ("With the kettle on, I wait for you.", "With the kettle on, I wait for you."),
        ("For now we stay at home (all of us).", "For now we stay at home (all of us)."),
        ("先打开文件\nwith open(path) as f:\n    data = f.read()", "先打开文件"),
        ("3 + 4 = 7", ""),
    ],
)
def test_code_and_formulas_are_no_prose(text: str, left: str) -> None:
    assert prose(text).strip() == left
