"""Scorer: a suite's items and how one model's reply to one of them is judged; it knows no other item and no mean."""

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.sample import Message
from gristmill.cluster.contract.settings import Step
from gristmill.cluster.io.ingest import Source
from gristmill.cluster.models.engine import Reply, Request, Write
from gristmill.cluster.text.scripts import is_chinese
from gristmill.cluster.text.template import Prompt, parse, slots

ANSWERS, CHOICES, PREFIX = "answers", "choices", "prefix"
"""Tags of items: further right answers and choices, as JSON lists, and how the model's turn begins."""
OWN = ""
"""Name of the value that a suite is about, among all that a scorer gives."""


@dataclass(frozen=True)
class Item:
    """One question of a suite."""

    id: str
    prompt: tuple[Message, ...]
    """The conversation up to the turn that the model writes."""
    answer: str = ""
    """The right answer, empty where the items have none."""
    prefix: str = ""
    """How the model's turn begins."""
    tags: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """The digest of the prompt: of its turns, and of the beginning of the model's turn."""
        return ids.digest("prompt", [[turn.role, turn.text] for turn in self.prompt], self.prefix)

    @property
    def answers(self) -> tuple[str, ...]:
        """All correct answers: those in the tag `answers`, a JSON list, else the one in the last turn."""
        return self.listed(ANSWERS) or (self.answer,)

    @property
    def chinese(self) -> bool:
        """Whether the answer, or the prompt where there is none, is mostly Chinese."""
        return is_chinese(self.answer or self.prompt[-1].text)

    def listed(self, tag: str) -> tuple[str, ...]:
        """Return the texts of a tag that holds a JSON list of them; none where it holds anything else."""
        try:
            value = json.loads(self.tags.get(tag, "[]"))
        except ValueError:
            return ()
        return tuple(value) if isinstance(value, list) and all(isinstance(one, str) for one in value) else ()


class Judgement(NamedTuple):
    """A value for one item, with the model's reply; higher is better."""

    value: float | None
    """None where the model could not be asked."""
    reply: str = ""


Judgements = Mapping[str, Judgement]
"""By name; the suite's own value is named with the empty string."""


class Scorer(Step):
    """A table of `[evaluate.suites]`: the items, and the way to judge a reply to one of them."""

    not_identity: ClassVar[frozenset[str]] = frozenset({"input"})
    example: ClassVar[Mapping[str, Any]] = {"input": "test.jsonl"}
    answered: ClassVar[bool] = True
    """Whether items must have a right answer."""

    input: Source
    """The items: rows whose last turn of the assistant is the right answer."""
    role: Literal["target", "retention", "format"] = "target"
    """What the suite is for: `target`, what the model is trained to do; `retention`, what it must not forget; `format`,
    the form of its replies."""
    made: bool = False
    """Whether a model made the items; the report says so. By default people did."""
    prompt: Annotated[str, slots("prompt")] = "{prompt}"
    """What the last user turn of an item becomes; `{prompt}` is its text. After a line `---` comes how the model's turn
    begins, such as solved cases."""
    effect: float = Field(default=0.05, gt=0)
    """Smallest difference of the mean value that the suite is to show; a warning says where it is too small."""

    def rendered(self, text: str) -> Prompt:
        """Return the last user turn for a text, and the beginning of the model's turn."""
        return parse(self.prompt).begin("", prompt=text)

    def fitted(self, items: Sequence[Item]) -> Self:
        """Return the scorer with settings that follow from the items, such as their labels."""
        del items
        return self

    def refuse(self, item: Item) -> str:
        """Return why an item cannot be judged, or the empty string."""
        del item
        return ""

    def shared(self) -> list[Request]:
        """Return requests that a model gets once, before the items."""
        return []

    @abstractmethod
    def requests(self, item: Item) -> list[Request]:
        """Return the requests to a model for one item."""

    @abstractmethod
    def score(self, item: Item, replies: Sequence[Reply], shared: Sequence[Reply]) -> Judgements:
        """Return the values of one item, from the replies to its requests and to the shared ones; none was refused."""


class Written(Scorer):
    """A scorer of what the model writes."""

    max_tokens: int = Field(default=256, gt=0)
    """Most tokens of a reply."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Temperature of the replies; 0 takes the likeliest token each time."""

    def requests(self, item: Item) -> list[Request]:
        """Return the one request for a reply."""
        return [written(item, self.max_tokens, self.temperature)]


def written(item: Item, max_tokens: int, temperature: float = 0.0) -> Write:
    """Return the request for a reply to an item; one that repeats itself is ended."""
    return Write(
        item.prompt,
        max_tokens=max_tokens,
        seed=ids.request_seed(item.id, 0),
        temperature=temperature,
        prefix=item.prefix,
        stop_loops=True,
    )
