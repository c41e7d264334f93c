"""Checks: rules for a reply, such as on its length, words, form and language; items need no right answer."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from gristmill.cluster.contract.settings import Settings
from gristmill.cluster.models.engine import Reply
from gristmill.cluster.text.json_schema import JsonSchema
from gristmill.cluster.text.language import probabilities
from gristmill.cluster.text.words import num_words, whole
from gristmill.training.evaluate.scorers.contract import OWN, Item, Judgement, Judgements, Written

RULES = "checks"
"""Name of the tag in which an item has rules of its own, as a JSON table."""
_FENCE = re.compile(r"^\s*```[\w-]*[ \t]*\n(.*?)\n?```\s*$", re.DOTALL)


class Rules(Settings):
    """`[evaluate.suites.NAME.rules]`: the rules for a reply."""

    stops: bool = False
    """The reply must end by itself, before `max_tokens` and without repeating itself."""
    min_words: int = Field(default=0, ge=0)
    """Smallest number of words. In Chinese and similar scripts, 1.5 characters count as a word."""
    max_words: int | None = Field(default=None, gt=0)
    """Largest number of words."""
    contains: tuple[str, ...] = ()
    """Words that the reply must all contain, in upper or lower case."""
    contains_any: tuple[str, ...] = ()
    """Words of which the reply must contain at least one."""
    excludes: tuple[str, ...] = ()
    """Words that the reply must not contain."""
    begins: str = ""
    """Text with which the reply must begin."""
    ends: str = ""
    """Text with which the reply must end."""
    pattern: str = ""
    """Regular expression that must match some part of the reply."""
    form: Literal["", "json", "list"] = ""
    """`json`: the whole reply must be JSON; a code fence around it is allowed. `list`: the reply must have at least two
    entries, each on a line that begins with a dash, a star or a number."""
    json_schema: JsonSchema = ""
    """JSON schema, as JSON text, that the reply must conform to."""
    language: str = ""
    """Language of the reply as an ISO 639-1 code. A reply that is too short for its language to be known passes."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, text: str) -> str:
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"must be a regular expression: {error}") from error
        return text

    def verdicts(self, text: str, finish: str = "stop") -> Iterator[tuple[str, bool]]:
        """Yield (rule, whether it holds) for each rule that is set."""
        lower, words = text.casefold(), num_words(text)
        tests: Mapping[str, Callable[[], bool]] = {
            "stops": lambda: finish == "stop",
            "min_words": lambda: words >= self.min_words,
            "max_words": lambda: words <= (self.max_words or words),
            "contains": lambda: all(_has(lower, word) for word in self.contains),
            "contains_any": lambda: any(_has(lower, word) for word in self.contains_any),
            "excludes": lambda: not any(_has(lower, word) for word in self.excludes),
            "begins": lambda: text.startswith(self.begins),
            "ends": lambda: text.endswith(self.ends),
            "pattern": lambda: re.search(self.pattern, text) is not None,
            "form": lambda: _json(text) is not None if self.form == "json" else _entries(text) >= 2,
            "json_schema": lambda: self._valid(text),
            "language": lambda: _is_in(text, self.language),
        }
        for name, test in tests.items():
            if getattr(self, name):
                yield name, test()

    def _valid(self, text: str) -> bool:
        found = _json(text)
        jsonschema = import_module("jsonschema")
        return found is not None and bool(
            jsonschema.Draft202012Validator(json.loads(self.json_schema)).is_valid(found[0])
        )


class Checks(Written):
    """Score 1 if a reply keeps all rules, else 0; `share` is the share of the rules that it keeps.

    The suite has the rules. An item can change rules or add some with its tag `checks`, a JSON table of rules. Items
    need no answer.

    Source: Zhou et al. 2023, Instruction-Following Evaluation for Large Language Models (IFEval), arXiv:2311.07911,
    section 2 (verifiable instructions; accuracy by prompt and by instruction). Departures: rules of our own.
    """

    kind: Literal["checks"] = "checks"
    example: ClassVar[Mapping[str, Any]] = {"input": "test.jsonl", "rules": {"stops": True, "max_words": 60}}
    answered: ClassVar[bool] = False
    rules: Rules = Rules()
    """The rules for every reply."""

    @model_validator(mode="after")
    def _has_schema_of_json(self) -> "Checks":
        if self.rules.json_schema and self.rules.form == "list":
            raise ValueError('rules has json_schema and form = "list"; a list is no JSON, leave one out')
        return self

    def rules_of(self, item: Item) -> Rules:
        """Return the rules of an item.

        Raises:
            ValueError: when the rules in the item's tag are not valid.
        """
        own = json.loads(item.tags.get(RULES, "{}"))
        if not isinstance(own, dict):
            raise ValueError("is no JSON table")  # noqa: TRY004 - as json and pydantic say what is wrong with it
        return Rules.model_validate({**self.rules.model_dump(exclude_unset=True), **own})

    def refuse(self, item: Item) -> str:
        """Refuse an item without any rule, or with rules that cannot be read."""
        try:
            rules = self.rules_of(item)
        except ValidationError as error:
            first = error.errors()[0]
            return f"tag checks: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        except ValueError as error:
            return f"tag checks: {error}"
        return "" if [*rules.verdicts("")] else "no rule for it"

    def score(self, item: Item, replies: Sequence[Reply], shared: Sequence[Reply]) -> Judgements:
        """Return 1 or 0, and the `share` of the rules that hold. The reply of `share` names the broken rules."""
        del shared
        said = replies[0].text.strip()
        found = dict(self.rules_of(item).verdicts(said, replies[0].finish))
        broken = ", ".join(name for name, holds in found.items() if not holds)
        share = sum(found.values()) / len(found)
        return {OWN: Judgement(float(not broken), said), "share": Judgement(share, broken)}


def _has(lower: str, word: str) -> bool:
    return re.search(whole(word.casefold()), lower) is not None


def _json(text: str) -> tuple[object] | None:
    """Return the JSON value of a reply in a tuple of one, or None if the reply is not all JSON."""
    fenced = _FENCE.match(text)
    try:
        return (json.loads(fenced[1] if fenced else text),)
    except (ValueError, RecursionError):
        return None


def _entries(text: str) -> int:
    return len(re.findall(r"(?m)^\s*(?:[-*•]|\d+[.)、])\s*\S", text))


def _is_in(text: str, language: str) -> bool:
    found = probabilities(text)
    return not found or max(found, key=lambda name: found[name]) == language
