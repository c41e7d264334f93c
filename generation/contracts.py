"""The contracts of a method, a filter and the model as they see it: Ask, Draft, Verdict, Method, Filter, SetFilter.

How one row comes about, the same for every method:

    parents ── expand ──► Draft ── "instruction" filters ──► answer ── "sample" filters ── "model" filters ──► row
                  ask                 (no model call)          ask        (no model call)        ask

A method drafts a conversation. When the draft ends with the user's turn, the filters that can judge an instruction
alone run first, then the method answers, then the others run, those that ask the model last. The first drop ends the
row, so a dropped sample costs no further call. A method that drafts whole conversations needs no `answer`, and every
filter then runs behind the draft, in the same order of stages.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import ClassVar, Literal, Protocol, TypedDict, Unpack

from pydantic import Field

from cluster.engine import Reply
from cluster.sample import Message, Sample
from cluster.step import Step

Stage = Literal["instruction", "sample", "model"]
STAGES: tuple[Stage, ...] = ("instruction", "sample", "model")


class Sampling(TypedDict, total=False):
    """What a call may say beyond its messages; meanings and defaults are those of `cluster.engine.Request`."""

    temperature: float
    top_p: float
    min_p: float
    stop: tuple[str, ...]
    prefix: str
    choices: tuple[str, ...]
    stop_loops: bool


class Ask(Protocol):
    """The model, bound to one sample: the n-th call has the seed `request_seed(sample id, n)`, and all are counted."""

    async def __call__(self, messages: Sequence[Message], *, max_tokens: int, **sampling: Unpack[Sampling]) -> Reply:
        """Return the reply; a request that the engine refuses comes back with finish `error: …`, it does not raise."""
        ...


@dataclass(frozen=True, slots=True)
class Draft:
    """What a method makes of its parents: a conversation that may still lack its answer, or the reason of a drop."""

    messages: tuple[Message, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    dropped: str | None = None
    """`"method: reason"`; the messages are kept beside it as far as they came."""

    @property
    def complete(self) -> bool:
        """Whether the conversation ends with the assistant's turn."""
        return bool(self.messages) and self.messages[-1].role == "assistant"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a filter found: numbers to keep with the sample, and a drop reason `"filter: reason"` or None."""

    scores: Mapping[str, float] = field(default_factory=dict)
    dropped: str | None = None


class Method(Step):
    """A way to make new samples from parents."""

    weight: float = Field(default=1.0, gt=0)
    """Share of the draws that this method gets, relative to the other methods' weights."""
    group: int = Field(default=1, gt=0)
    """Draws in a row that share one set of parents, and with it their prompt's prefix in the engine's cache."""

    def draw(self, seeds: Sequence[Sample], made: Sequence[Sample], rng: Random) -> tuple[Sample, ...]:
        """Return the parents of one group of draws, out of the seeds and what closed rounds have kept; one by default.

        The seeds are never empty; `made` is in the first round.
        """
        pool = (*seeds, *made)
        return (pool[rng.randrange(len(pool))],)

    @abstractmethod
    async def expand(self, parents: Sequence[Sample], ask: Ask, rng: Random) -> list[Draft]:
        """Return the drafts of one draw: each becomes a row, no draft at all becomes one dropped row."""

    async def answer(self, draft: Draft, ask: Ask) -> Draft:
        """Return the draft with its last turn answered, or dropped; called when it ends with the user's turn."""
        return self.answered(draft, await ask(draft.messages, max_tokens=512))

    def answered(self, draft: Draft, reply: Reply) -> Draft:
        """Return the draft with a reply as its next turn, dropped when the reply is cut off, empty or refused."""
        text = reply.text.strip()
        whole = replace(draft, messages=(*draft.messages, Message("assistant", text))) if text else draft
        if reply.finish == "stop" and text:
            return whole
        reasons = {"stop": "answer is empty", "length": "answer cut off", "repetition": "answer runs in circles"}
        what = reasons.get(reply.finish, reply.finish)
        return replace(whole, dropped=f"{self.kind}: {what}")


class Filter(Step):
    """Judges one sample by itself."""

    stages: ClassVar[tuple[Stage, ...]] = ("sample",)
    """When it runs: `instruction` before the answer is asked for (`sample.answer` is then empty), `sample` on the whole
    sample, `model` on the whole sample and last, because it asks the model. A filter may name two of them."""

    @abstractmethod
    async def judge(self, sample: Sample, ask: Ask) -> Verdict:
        """Return scores and a drop reason; rules ignore `ask`."""


class Memory(Protocol):
    """The samples that a `SetFilter` compares with; alive, therefore never inside the filter."""

    def add(self, sample: Sample) -> None:
        """Remember one more sample."""
        ...


class SetFilter(Step):
    """Judges a sample against all that were accepted before it, by its instruction, before the answer is asked for.

    It runs twice: in the workers against what closed rounds have kept, which saves the calls of what would fall anyway,
    and in the driver, in order, against everything accepted so far, which decides.
    """

    @abstractmethod
    def memory(self) -> Memory:
        """Return an empty memory."""

    @abstractmethod
    def compare(self, sample: Sample, memory: Memory) -> Verdict:
        """Return scores and a drop reason, leaving the memory as it is."""
