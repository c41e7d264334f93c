"""The interfaces of methods and filters: Ask, Snapshot, Draft, Verdict, Method, Filter.

Every method makes a row in the same way:

    parents ── expand ──► Draft ── "instruction" filters ──► answer ── "sample" filters ── "model" filters ──► row
                  ask                 (no model call)          ask        (no model call)        ask

A method drafts a conversation. If the draft ends with the user's turn, the filters that need only the instruction run
first. Then the method answers. Then the other filters run; filters that ask the model run last. The first drop ends the
row, so a dropped sample costs no further call. A method that drafts complete conversations needs no `answer`. Its
filters all run after the draft, in the same order of stages. When all rows of a draw are judged, the method may
`choose` among them.

An exception in a step drops the row with the reason `"<kind>: failed: …"`. It never fails the shard.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, ClassVar, Generic, Literal, Protocol, TypedDict, Unpack, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import TypeVar

from gristmill.cluster.contract.sample import Message, Sample
from gristmill.cluster.contract.settings import Step
from gristmill.cluster.models.engine import Reply

Stage = Literal["instruction", "sample", "model"]
STAGES: tuple[Stage, ...] = ("instruction", "sample", "model")
Input = Literal["seeds", "documents"]
MAIN = "main"
"""Name of `[generate.engine]` among the engines of a job."""
State = TypeVar("State", default=Any)
"""What a step prepares for a round: a frozen value, or a loaded model that all rounds share."""
State_co = TypeVar("State_co", covariant=True, default=object)


class Sampling(TypedDict, total=False):
    """Optional arguments of a call. `Write` and `Choose` define their meanings and defaults."""

    temperature: float
    top_p: float
    min_p: float
    presence_penalty: float
    stop: tuple[str, ...]
    prefix: str
    choices: tuple[str, ...]
    json_schema: str
    regex: str
    role: Literal["assistant", "user"]
    logprobs: bool
    stop_loops: bool
    tools: str
    chat_template_kwargs: str
    engine: str
    """Name of the engine that answers this call, if it is not the step's own engine."""


class Ask(Protocol[State_co]):
    """The calls to a model for one sample. The n-th call has the seed `request_seed(sample id, n)`."""

    @property
    def parents(self) -> Sequence[Sample]:
        """Samples from which this sample is made. A filter may need them, such as the chunk that an answer uses."""
        ...

    @property
    def turn(self) -> int:
        """The turn that the method's `draw` got for this row."""
        ...

    @property
    def prepared(self) -> State_co:
        """The value that this step's `prepare` returned for the round."""
        ...

    async def __call__(self, messages: Sequence[Message], *, max_tokens: int, **sampling: Unpack[Sampling]) -> Reply:
        """Return the reply; a request that the engine refuses gets the finish `error: …` and raises nothing.

        Calls may be gathered. They are numbered in the order in which they are made, so make them in a fixed order.
        """
        ...

    async def shared(self, messages: Sequence[Message], *, max_tokens: int, **sampling: Unpack[Sampling]) -> Reply:
        """Return the same reply to all samples that make exactly this request; each worker asks the model once."""
        ...

    async def score(self, messages: Sequence[Message], text: str, *, tools: str = "") -> Reply:
        """Return a reply that has no text, only the `logprob` of `text` as the assistant's next turn.

        `reply_tokens` counts the tokens of `text`. Without messages, only the header of the turn comes before it.
        """
        ...

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the unit vectors of the texts, [texts, d], from the job's encoder.

        The vector of a text in a script that the encoder does not know is NaN. A step does not judge such a text.
        """
        ...


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The samples from which a round draws: the job's inputs, and the rows settled up to the round before the last.

    The sequences may be long and are stored in Arrow: index and sample from them, never copy or scan them for each
    draw.
    """

    round: int
    seeds: Sequence[Sample] = ()
    documents: Sequence[Sample] = ()
    """Rows of `[generate.documents]`. Each is one text, as a user turn, with tags that say where the text comes
    from."""
    made: Sequence[Sample] = ()
    """Kept rows in their order; empty in the first two rounds."""
    refused: Sequence[Sample] = ()
    """Dropped rows in their order."""


@dataclass(frozen=True, slots=True)
class Draft:
    """The result of a method: a conversation that may lack its answer, or a drop reason."""

    messages: tuple[Message, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    dropped: str | None = None
    """The drop reason, `"method: reason"`. The dropped row keeps the messages of the draft."""
    scores: Mapping[str, float] = field(default_factory=dict)
    parents: tuple[Sample, ...] = ()
    """Other samples that the draft uses, such as retrieved passages. The row lists them after the parents that were
    drawn."""
    tools: str | None = None
    """Tools of the conversation, as in `Sample`; the model that answers may call them."""

    @property
    def complete(self) -> bool:
        """Whether the conversation ends with the assistant's turn."""
        return bool(self.messages) and self.messages[-1].role == "assistant"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a filter: scores and tags to keep with the sample, and a drop reason `"filter: reason"` or None."""

    scores: Mapping[str, float] = field(default_factory=dict)
    dropped: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    messages: tuple[Message, ...] | None = None
    """The conversation that replaces the judged conversation, for example with personal data masked; None keeps the
    judged conversation."""
    tools: str | None = None
    """The tools that replace the sample's tools, as JSON text; None keeps the sample's tools."""


class GenerateStep(Step, Generic[State]):
    """The common base of methods and filters: engines, models, and values that are prepared for a round.

    A step that prepares something names its type, such as `Method[SearchIndex]`. It then gets an `Ask[SearchIndex]`.
    """

    embeds: ClassVar[bool] = False
    """Whether the step embeds each of its texts. Each worker then loads the encoder."""

    def engine_name(self) -> str:
        """Return the name of the engine that `ask` goes to."""
        return MAIN

    def engines(self) -> tuple[str, ...]:
        """Return the names of all engines that the step asks."""
        return (self.engine_name(),)

    def models(self) -> tuple[str, ...]:
        """Return the models that the step loads itself."""
        return ()

    async def prepare(self, snapshot: Snapshot, before: State | None, ask: Ask) -> State:
        """Return a value computed from a round's snapshot, such as an index; steps read it as `ask.prepared`.

        Called once a round on each worker. `before` is the value that it returned for an earlier round on this worker,
        or None. Rows of that earlier round may still read `before`, so it must not be changed. By default nothing is
        prepared: None.
        """
        del snapshot, ask
        return cast(State, before)

    @classmethod
    def prepares(cls) -> bool:
        """Return whether the class has a `prepare` of its own."""
        return cls.prepare is not GenerateStep.prepare

    def figures(self, prepared: State) -> Mapping[str, float]:
        """Return figures about the prepared value, by name; the job reports them for each round."""
        del prepared
        return {}

    def notes(self, prepared: State) -> tuple[str, ...]:
        """Return notes for people about the prepared value, such as that nothing can be judged; printed once."""
        del prepared
        return ()


class Method(GenerateStep[State]):
    """A way to make new samples from parents."""

    feeds: ClassVar[tuple[Input, ...]] = ("seeds",)
    """Kinds of inputs. The job must have at least one of them. Empty if the method needs no input."""
    learns: ClassVar[bool] = True
    """Whether draws depend on the rows that earlier rounds have kept. A job without such a step is a single round."""
    instructs: ClassVar[bool] = True
    """Whether the method makes its own instructions. A `HistoryFilter` judges only rows of such methods."""

    takes_tools: ClassVar[bool] = False
    """Whether the method's requests and drafts have the tools, calls and results of its parents."""

    guards: ClassVar[tuple[str, ...]] = ()
    """Kinds of filters, of `job.GUARDS`, that judge the method's samples when the recipe names no filters."""

    weight: float = Field(default=1.0, gt=0)
    """Share of the draws that this method gets, relative to the weights of the other methods."""
    group: int = Field(default=1, gt=0)
    """Number of consecutive draws with the same parents. Their prompts have a common prefix, which the engine
    caches."""
    engine: str = ""
    """Name in `[generate.engines]` of the model that is asked; by default `[generate.engine]`."""

    def frames(self) -> tuple[tuple[str, str], ...]:
        """Return the texts that this method's template puts before and after each instruction, as (before, after).

        A `HistoryFilter` compares only the text between them. By default it compares the whole instruction.
        """
        return ()

    def shares(self) -> Mapping[str, int]:
        """Return the share of each value of the tag `label` among the method's kept samples, as relative weights.

        The job keeps no more of a label than its share of the target. By default there are no shares: all are kept.
        """
        return {}

    def draw(self, snapshot: Snapshot, turn: int, rng: Random) -> tuple[Sample, ...]:
        """Return the parents of one group of draws, the `turn`-th of this method; by default one seed or kept row."""
        del turn
        place = rng.randrange(len(snapshot.seeds) + len(snapshot.made))
        before = len(snapshot.seeds)
        return (snapshot.seeds[place] if place < before else snapshot.made[place - before],)

    def asks_model(self) -> bool:
        """Return whether drafting or answering asks a model. A plan counts no tokens for a method that asks none."""
        return True

    def engine_name(self) -> str:
        """Return the name of the engine that drafts and answers."""
        return self.engine or MAIN

    @abstractmethod
    async def expand(self, parents: Sequence[Sample], ask: Ask[State], rng: Random) -> list[Draft]:
        """Return the drafts of one draw. Each becomes a row; no draft at all becomes one dropped row."""

    async def answer(self, draft: Draft, ask: Ask[State]) -> Draft:
        """Return the draft with its last turn answered, or dropped; called when the draft ends with a user turn."""
        return self.answered(draft, await ask(draft.messages, max_tokens=512, tools=draft.tools or ""))

    def drafted(
        self, text: str, tags: Mapping[str, str], reason: str | None, parents: tuple[Sample, ...] = ()
    ) -> Draft:
        """Return a draft with the text as the user's turn, dropped if a reason is given."""
        turns = (Message("user", text),) if text else ()
        return Draft(turns, tags, f"{self.kind}: {reason}" if reason else None, parents=parents)

    def choose(self, rows: Sequence[Sample]) -> Sequence[Sample]:
        """Return the judged rows of one draw, with rows that are not chosen marked as dropped; by default all stay."""
        return rows

    def answered(self, draft: Draft, reply: Reply) -> Draft:
        """Return the draft with a reply as its next turn; it is dropped when the reply is cut off, empty or refused.

        A reply may be calls of tools, without a text.
        """
        text, calls = reply.text.strip(), reply.tool_calls
        turn = Message("assistant", text or (None if calls else ""), reply.reasoning or None, calls)
        whole = replace(draft, messages=(*draft.messages, turn)) if text or calls else draft
        if reply.finish == "stop" and (text or calls):
            return whole
        reasons = {"stop": "answer is empty", "length": "answer cut off", "repetition": "answer runs in circles"}
        what = reasons.get(reply.finish, reply.finish)
        return replace(whole, dropped=f"{self.kind}: {what}")


class EachInput(Method[State]):
    """A method that uses each input once before it uses any input again.

    With `target = "all"` the job ends after each input was drawn once.
    """

    learns: ClassVar[bool] = False

    def inputs(self, snapshot: Snapshot) -> Sequence[Sample]:
        """Return the inputs that the method uses: the documents if the job has any, else the seeds."""
        return snapshot.documents or snapshot.seeds

    def draw(self, snapshot: Snapshot, turn: int, rng: Random) -> tuple[Sample, ...]:
        """Return the input of this turn."""
        del rng
        inputs = self.inputs(snapshot)
        return (inputs[turn % len(inputs)],)


class BoundStep(GenerateStep[State]):
    """A step that judges the samples of all methods, or of the methods that the recipe names."""

    unframed: ClassVar[bool] = False
    """Whether the filter gets seeds and samples without the frame that a method's template puts around instructions,
    see `Method.frames`. Such a filter cannot change the messages. A `HistoryFilter` never gets the frame."""

    methods: tuple[str, ...] = ()
    """Kinds of methods. Only the samples of these methods are judged; by default, the samples of all methods."""

    def title(self) -> str:
        """Return the kind, and the settings that distinguish the filter from others of its kind in one job."""
        return self.kind

    def judges(self, method: str) -> bool:
        """Return whether the samples of a method, given by its kind, are judged."""
        return not self.methods or method in self.methods

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the verdicts; `methods` is one of them only if it is set."""
        whole = super().identity()
        if not self.methods:
            del whole["fields"]["methods"]
        return whole


class Filter(BoundStep[State]):
    """A step that judges each sample by itself."""

    stages: ClassVar[tuple[Stage, ...]] = ("sample",)
    """When the filter runs. `instruction`: before the answer is made, so `sample.answer` is empty. `sample`: on the
    complete sample. `model`: on the complete sample and last, because the filter asks a model. Two are possible."""

    @abstractmethod
    async def judge(self, sample: Sample, ask: Ask[State]) -> Verdict:
        """Return the verdict on a sample. A filter that asks no model ignores `ask`."""


class ModelFilter(Filter[State]):
    """A filter that asks a model: the generating model, or another model of the job."""

    stages: ClassVar[tuple[Stage, ...]] = ("model",)

    engine: str = ""
    """Name in `[generate.engines]` of the model that is asked; by default `[generate.engine]`."""

    def engine_name(self) -> str:
        """Return the name of the engine that is asked."""
        return self.engine or MAIN


class History(Protocol):
    """The samples that a `HistoryFilter` compares with, in order. It grows, so it is not part of the frozen filter."""

    def __len__(self) -> int:
        """Return the number of remembered samples."""
        ...

    def add(self, sample: Sample) -> None:
        """Remember one more sample."""
        ...


class HistoryFilter(BoundStep[None]):
    """A step that compares a sample's instruction with all samples accepted earlier, before the answer is made.

    It runs twice. In the workers it compares a row with the rows that settled rounds have kept. This saves calls for
    rows that would be dropped anyway. In the driver it compares each row, in order, with all rows accepted so far. This
    second verdict decides. The step gets each sample without the frame of the method's template around the instruction.
    """

    stages: ClassVar[tuple[Stage, ...]] = ("instruction",)

    @abstractmethod
    def memory(self) -> History:
        """Return an empty history."""

    @abstractmethod
    def compare(self, sample: Sample, memory: History, size: int) -> Verdict:
        """Return scores and a drop reason from the first `size` remembered samples, without changing the history."""
