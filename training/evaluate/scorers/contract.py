"""The contract of a scorer: which items a suite has, and how the reply to a single item is judged."""

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.contract.settings import Step
from gristmill.cluster.io.ingest import Source
from gristmill.cluster.models.engine import Reply, Request, Write
from gristmill.cluster.text.scripts import is_chinese
from gristmill.cluster.text.template import Prompt, parse, slots

ANSWERS, CHOICES, PREFIX = "answers", "choices", "prefix"
"""Tags of items: right answers and choices, both as JSON lists, and the beginning of the model's turn."""
OWN = ""
"""Name of a suite's own value, which is its main result. A scorer may give further values."""


@dataclass(frozen=True)
class Item:
    """One question of a suite."""

    id: str
    prompt: tuple[Message, ...]
    """The conversation up to the turn that the model writes."""
    answer: str = ""
    """The right answer; empty if the item has none."""
    prefix: str = ""
    """The beginning of the model's turn."""
    tags: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """The digest of the prompt, with the beginning of the model's turn."""
        return ids.digest("prompt", [[turn.role, turn.text] for turn in self.prompt], self.prefix)

    @property
    def answers(self) -> tuple[str, ...]:
        """All right answers: those in the tag `answers` (a JSON list), or `answer` if the item has no such tag."""
        return self.listed(ANSWERS) or (self.answer,)

    @property
    def chinese(self) -> bool:
        """Whether the answer is mostly Chinese; without an answer, whether the prompt is."""
        return is_chinese(self.answer or self.prompt[-1].text)

    def listed(self, tag: str) -> tuple[str, ...]:
        """Return the texts of a tag that has a JSON list of texts; no text if the tag has anything else."""
        try:
            value = json.loads(self.tags.get(tag, "[]"))
        except ValueError:
            return ()
        return tuple(value) if isinstance(value, list) and all(isinstance(one, str) for one in value) else ()


class Judgement(NamedTuple):
    """A value for one item, with the model's reply; higher is better."""

    value: float | None
    """None if the model could not be asked."""
    reply: str = ""


Judgements = Mapping[str, Judgement]
"""Judgements by the names of their values. The name of the suite's own value is the empty string."""


class Scorer(Step):
    """A table of `[evaluate.suites]`: the items of a suite, and the way to judge a reply to an item."""

    not_identity: ClassVar[frozenset[str]] = frozenset({"input"})
    example: ClassVar[Mapping[str, Any]] = {"input": "test.jsonl"}
    answered: ClassVar[bool] = True
    """Whether items must have a right answer."""
    unanswerable: ClassVar[bool] = False
    """Whether the right answer of an item may be that there is none (an empty list in the tag `answers`)."""
    ingested: ClassVar[bool] = True
    """Whether `input` is read as any input; else the scorer makes the rows (`rows`)."""

    input: Source
    """The items: rows that end with the right answer, as a turn of the assistant."""
    role: Literal["target", "retention", "format"] = "target"
    """What the suite tests. `target`: what the model is trained to do. `retention`: what the model must not forget.
    `format`: the form of the replies."""
    made: bool = False
    """Whether a model made the items; the report says so. By default, people made them."""
    prompt: Annotated[str, slots("prompt")] = "{prompt}"
    """Template of the last user turn of an item; `{prompt}` is the item's own text. The text after a line `---` is the
    beginning of the model's turn, such as solved cases."""
    effect: float = Field(default=0.05, gt=0)
    """Smallest difference of the mean value that the suite should be able to show. There is a warning if the suite has
    too few items for this."""

    def rendered(self, text: str) -> Prompt:
        """Return the last user turn with a text, and the beginning of the model's turn."""
        return parse(self.prompt).begin("", prompt=text)

    def fitted(self, items: Sequence[Item]) -> Self:
        """Return the scorer with settings that follow from the items, such as their labels."""
        del items
        return self

    def problems(self) -> list[str]:
        """Return the problems of the settings beyond their types, each as `key: what is, what must be`."""
        return []

    def rows(self) -> list[Sample]:
        """Return the rows of a scorer that makes them from its `input`."""
        return []

    def refuse(self, item: Item) -> str:
        """Return why an item cannot be judged, or the empty string."""
        del item
        return ""

    def shared(self, items: Sequence[Item]) -> list[Request]:
        """Return requests that are sent to a model once, before those of the items."""
        del items
        return []

    @abstractmethod
    def requests(self, item: Item) -> list[Request]:
        """Return the requests to a model for one item."""

    @abstractmethod
    def score(self, item: Item, replies: Sequence[Reply], shared: Sequence[Reply]) -> Judgements:
        """Return the values of one item from the replies to its requests and to the shared ones.

        No reply is an error of the engine.
        """


class Written(Scorer):
    """A scorer of a reply that the model writes."""

    max_tokens: int = Field(default=256, gt=0)
    """Largest number of tokens in a reply."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Sampling temperature of the replies; 0 always takes the likeliest token."""

    def requests(self, item: Item) -> list[Request]:
        """Return the one request for a reply."""
        return [written(item, self.max_tokens, self.temperature)]


def written(item: Item, max_tokens: int, temperature: float = 0.0) -> Write:
    """Return the request for a reply to an item. The engine ends a reply that repeats itself."""
    return Write(
        item.prompt,
        max_tokens=max_tokens,
        seed=ids.request_seed(item.id, 0),
        temperature=temperature,
        prefix=item.prefix,
        stop_loops=True,
    )
