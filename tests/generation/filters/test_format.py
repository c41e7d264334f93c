"""Format: JSON, schemas, code and brackets, in English and in Chinese."""

import asyncio
import json

import pytest
from pydantic import ValidationError

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.generation.contracts import Verdict
from gristmill.generation.filters.format import Format
from tests.fakes import ScriptedAsk


def reason(step: Format, answer: str) -> str | None:
    sample = Sample(id="s", messages=(Message("user", "Do it"), Message("assistant", answer)))
    dropped = asyncio.run(step.judge(sample, ScriptedAsk())).dropped
    return dropped.removeprefix("format: ") if dropped else None


SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ('{"name": "Ada", "age": 36}', None),
        ('```json\n{"name": "李雷", "age": 12}\n```', None),
        ('{"name": "李雷", "age": -1}', "answer breaks the schema"),
        ('{"name": "Ada"}', "answer breaks the schema"),
        ('{"name": "Ada", "age": 36', "answer is no JSON"),
        ('Here it is: {"name": "Ada", "age": 36}', "answer is no JSON"),
        ("{'name': 'Ada', 'age': 36}", "answer is no JSON"),
        ("[" * 100_000, "answer is no JSON"),
        ("这是答案", "answer is no JSON"),
    ],
)
def test_an_answer_in_json_parses_and_obeys_the_schema(answer: str, fault: str | None) -> None:
    assert reason(Format(answer="json", json_schema=SCHEMA), answer) == fault
    assert reason(Format(answer="json"), answer) == (fault if fault == "answer is no JSON" else None)


@pytest.mark.parametrize("schema", ["{", '{"type": "nonsense"}', "[1]"])
def test_a_schema_that_is_none_is_refused(schema: str) -> None:
    with pytest.raises(ValidationError, match="JSON schema"):
        Format(json_schema=schema)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("Use this:\n```python\ndef f(x):\n    return x + 1\n```\nDone.", None),
        ("这样写：\n```python\ndef 加一(数):\n    return 数 + 1  # 返回结果\n```\n完成。", None),
        ("```python\ndef f(x)\n    return x\n```", "python does not parse"),
        ("```py\nprint 'old'\n```", "python does not parse"),
        ("```python\n>>> 1 + 1\n2\n```", None),
        ("```python\n!pip install numpy\nimport numpy\n```", None),
        ("1. First\n   ```python\n   if x:\n       y()\n   ```", None),
        ("```python\n    x = 1\n    y = 2\n```", None),
        ('```json\n{"a": [1, 2]}\n```', None),
        ('```json\n{"a": [1, 2}\n```', "json does not parse"),
        ("```toml\na = 1\n[b]\n```", None),
        ("```toml\na = \n```", "toml does not parse"),
        ("```\nanything ( goes\n```", None),
        ("```c\nint main( {\n```", None),
        ("```python\nx = 1\n", "code fence is not closed"),
        ("Text.\n```", "code fence is not closed"),
        ("```python\n" + "(" * 5000 + "\n```", "python does not parse"),
        ("```python\nx = '\x00'\n```", "python does not parse"),
        ("~~~python\nx = 1\n~~~", None),
        ("````\n```python\nx =\n```\n````", None),
        ("", None),
    ],
)
def test_fenced_code_parses_or_is_of_no_known_language(answer: str, fault: str | None) -> None:
    assert reason(Format(), answer) == fault


def test_only_the_languages_of_the_recipe_are_parsed() -> None:
    assert reason(Format(code=("json",)), "```python\ndef f(\n```") is None


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("Paris (the capital [of France]).", True),
        ("Paris (the capital of France", False),
        ("巴黎（法国的首都）很美。", True),
        ("巴黎（法国的首都很美。", False),
        ("《红楼梦》和《西游记》", True),
        ("《红楼梦", False),
        ("巴黎（法国的首都)很美。", True),
        ("a) one\nb) two\n1) three", True),
        ("一）首先，二）其次", True),
        ("Every x in [0, 1) and (2, 3] counts.", True),
        ("f(x) = 2(4+x) = 8+2x", True),
        ("I am sad :( but well :-) and ;( too", True),
        ("Kind (see [here) and there]", False),
        ("Escape it as \\( or in code `a[` for once.", True),
    ],
)
def test_brackets_that_open_are_closed(text: str, whole: bool) -> None:
    assert reason(Format(), text) == (None if whole else "bracket is not closed")
    assert reason(Format(brackets=False), text) is None


def test_a_sample_without_an_answer_is_not_judged() -> None:
    only = Sample(id="s", messages=(Message("user", "Close this ("),))
    assert asyncio.run(Format().judge(only, ScriptedAsk())) == Verdict()
