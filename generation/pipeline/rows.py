"""Rows: from a draw through drafts, answers and verdicts. Each row is a coroutine, and all share the engine's batch."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import count
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from gristmill.cluster.contract import gate, ids
from gristmill.cluster.contract.errors import GristmillError
from gristmill.cluster.contract.gate import GateError
from gristmill.cluster.contract.own import Own, locate_error
from gristmill.cluster.contract.sample import Message, Origin, Sample
from gristmill.cluster.contract.settings import Step
from gristmill.cluster.models import names as models
from gristmill.cluster.models.engine import Choose, Reply, Request, Score, Write
from gristmill.generation.contracts import (
    MAIN,
    STAGES,
    Draft,
    Filter,
    History,
    HistoryFilter,
    Method,
    Sampling,
    Snapshot,
    Stage,
    Verdict,
)
from gristmill.generation.engines.actors import LiveEngine
from gristmill.generation.pipeline.frames import unframed
from gristmill.generation.pipeline.plan import Draw, Pipeline, RawShard, Tally, draws
from gristmill.generation.pipeline.row_log import RowLog
from gristmill.generation.pipeline.streams import stream

log = logging.getLogger(__name__)
CONVERSATION = frozenset({"prefix", "role", "tools", "chat_template_kwargs"})
"""Arguments of a call that are also arguments of a request for a choice."""
Embed = Callable[[Sequence[str]], Awaitable[NDArray[np.float32]]]


@dataclass
class Context:
    """The live objects of a worker, shared by all of its rows."""

    pipeline: Pipeline
    engines: Mapping[str, LiveEngine]
    embed: Embed
    asked: dict[tuple[str, Request], "asyncio.Task[Reply]"] = field(default_factory=dict)
    """Shared requests, each asked once for all rows."""
    failed: set[str] = field(default_factory=set)
    """Kinds of steps that already have a traceback in the log."""


@dataclass
class Usage:
    """Requests and tokens of one row."""

    id: str
    calls: "count[int]" = field(default_factory=count)
    tally: Tally = field(default_factory=Tally)
    finish: str = ""
    finished: int = -1
    """Number of the call to which `finish` belongs."""

    @cached_property
    def seed(self) -> int:
        """Seed of the first request, which is also the seed of the row."""
        return ids.request_seed(self.id, 0)


@dataclass(slots=True)
class BoundAsk:
    """`Ask` for one row and one step: seeds follow from the row's id and the number of the call."""

    context: Context
    usage: Usage
    parents: Sequence[Sample] = ()
    engine: str = MAIN
    prepared: Any = None
    turn: int = 0

    async def __call__(self, messages: Sequence[Message], *, max_tokens: int, **sampling: Unpack[Sampling]) -> Reply:
        """Return the reply to the next request made for this row."""
        call = next(self.usage.calls)
        engine = sampling.pop("engine", self.engine)
        seed = ids.request_seed(self.usage.id, call) if call else self.usage.seed
        request = _request(messages, max_tokens, seed, sampling, onward=call > 0)
        reply = await self._paid(request, engine)
        # the finish of the last written text, not of a grade
        if isinstance(request, Write) and call > self.usage.finished:
            self.usage.finish, self.usage.finished = reply.finish, call
        return reply

    async def shared(self, messages: Sequence[Message], *, max_tokens: int, **sampling: Unpack[Sampling]) -> Reply:
        """Return the worker's only reply to exactly this request. Its tokens count for the row that asks first."""
        engine = sampling.pop("engine", self.engine)
        said = [[m.role, m.text] for m in messages]
        name = ids.digest("shared", said, max_tokens, sorted(sampling.items()))
        request = _request(messages, max_tokens, ids.request_seed(name, 0), sampling, onward=True)
        key = (engine, request)
        if key not in self.context.asked:
            self.context.asked[key] = asyncio.create_task(self._paid(request, engine))
        return await asyncio.shield(self.context.asked[key])

    async def score(self, messages: Sequence[Message], text: str, *, tools: str = "") -> Reply:
        """Return the log-probability of a text as the assistant's next turn."""
        request = Score(tuple(messages), text, onward=True, tools=tools)
        reply = await self.context.engines[self.engine].ask(request)
        self._count(replace(reply, prompt_tokens=reply.prompt_tokens + reply.reply_tokens, reply_tokens=0), self.engine)
        return reply

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors, [texts, d], of the job's encoder; NaN for a text in a script that it does not know."""
        return await self.context.embed(texts)

    async def _paid(self, request: Request, engine: str) -> Reply:
        reply = await self.context.engines[engine].ask(request)
        self._count(reply, engine)
        try:
            gate.unicode("".join((reply.text, reply.reasoning, *(word or "" for c in reply.tool_calls for word in c))))
        except GateError as error:  # a later request could not contain such a text
            return replace(reply, text="", reasoning="", tool_calls=(), finish=f"error: the reply {error}")
        return reply

    def _count(self, reply: Reply, engine: str) -> None:
        price, tally = self.context.pipeline.engines[engine].price, self.usage.tally
        tally.prompt_tokens += reply.prompt_tokens
        tally.cached_tokens += reply.cached_tokens
        tally.reply_tokens += reply.reply_tokens
        tally.cost += (price.prompt * reply.prompt_tokens + price.reply * reply.reply_tokens) / 1e6


def _request(
    messages: Sequence[Message], max_tokens: int, seed: int, sampling: Sampling, *, onward: bool
) -> Write | Choose:
    """Return the request for a text, or for a choice if `sampling` has choices. Choices are never sampled."""
    known: dict[str, Any] = dict(sampling)
    choices = known.pop("choices", ())
    if not choices:
        return Write(tuple(messages), max_tokens, seed, onward=onward, **known)
    shared = {name: known[name] for name in CONVERSATION & known.keys()}
    return Choose(tuple(messages), choices, seed, onward=onward, **shared)


@dataclass
class Rows:
    """The making of rows from one snapshot."""

    context: Context
    snapshot: Snapshot
    prepared: Mapping[int, Any]
    """The prepared value of each step, by the `id` of the step."""
    memories: Sequence[tuple[HistoryFilter, History]]
    log: RowLog | None = None
    """The log of the shard's finished rows. Rows that are in it are not made again."""
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        """Sort the filters by stage, and find the engine that each step asks."""
        memories: Mapping[int, Any] = {id(step): memory for step, memory in self.memories}
        self._known = len(self.snapshot.seeds) + len(self.snapshot.made)
        pipeline = self.context.pipeline
        self._asks = {
            id(step): (step.engine_name(), self.prepared.get(id(step)))
            for step in (*pipeline.methods, *pipeline.filters)
        }
        self._staged: dict[Stage, list[tuple[Filter | HistoryFilter, Any]]] = {
            stage: [(step, memories.get(id(step))) for step in pipeline.filters if stage in step.stages]
            for stage in STAGES
        }

    async def of_shard(self, shard: RawShard) -> list[Sample]:
        """Return the rows of a shard in the order of their ordinals, at least one for each draw."""
        made = await asyncio.gather(
            *(self.of_draw(draw) for draw in draws(self.context.pipeline, shard, self.snapshot))
        )
        return [row for rows in made for row in rows]

    async def of_draw(self, draw: Draw) -> list[Sample]:
        """Return the rows of one draw. The id of the first row is known before the model is called."""
        first = Usage(draw.id)
        if self.log and (logged := self.log.found.get(first.id)):
            kept = sum(row.dropped is None for row in logged.rows)
            self.tally.add(Tally(len(logged.rows), kept, cost=logged.cost))  # its tokens were not made now
            return list(logged.rows)
        rng = stream(self.context.pipeline.seed, "expand", first.id)
        lost = next(filter(None, (_lost(parent, draw.method) for parent in draw.parents)), "")
        try:
            if lost:
                drafts = [Draft(dropped=f"{draw.method.kind}: its parent has {lost}, must be text alone")]
            else:
                drafts = await draw.method.expand(draw.parents, self._ask(draw.method, draw, first, draw.parents), rng)
        except Exception as error:  # noqa: BLE001 - a step that fails on a row is a dropped row
            drafts = [Draft(dropped=self._failed(draw.method, error))]
        drafts = drafts or [Draft(dropped=f"{draw.method.kind}: no draft")]
        parents = [parent.id for parent in draw.parents]
        others = (ids.made_id(f"{draw.step}/{n}", parents, draw.ordinal) for n in range(1, len(drafts)))
        usage = [first, *map(Usage, others)]
        making = [self._row(draw, d, s) for d, s in zip(drafts, usage, strict=True)]
        made = await asyncio.gather(*making) if len(making) > 1 else [await making[0]]  # a task takes 15 microseconds
        rows = list(draw.method.choose(made))
        for row, s in zip(rows, usage, strict=True):
            s.tally.rows, s.tally.kept = 1, int(row.dropped is None)
            self.tally.add(s.tally)
        if self.log:
            self.log.append(first.id, sum(s.tally.cost for s in usage), rows)
        return rows

    async def _row(self, draw: Draw, draft: Draft, usage: Usage) -> Sample:
        parents = (*draw.parents, *draft.parents)
        ask = partial(self._ask, draw=draw, usage=usage, parents=parents)
        begin_answer = _begin(draw, usage, parents, draft)
        sample = await self._judged(begin_answer, "instruction", draw.method, ask)
        if sample.dropped is None and not draft.complete:
            try:
                if sample is not begin_answer:
                    draft = replace(draft, messages=sample.messages, tags=sample.tags, scores=sample.scores)
                sample = _with(sample, await draw.method.answer(draft, ask(draw.method)))
            except Exception as error:  # noqa: BLE001 - as above
                sample = sample.drop(self._failed(draw.method, error))
        sample = await self._judged(sample, "sample", draw.method, ask)
        sample = await self._judged(sample, "model", draw.method, ask)
        return gate.admit_sample(_with_origin(sample, origin(self.context.pipeline, draw, usage)))

    async def _judged(self, sample: Sample, stage: Stage, method: Method, ask: Callable[[Filter], BoundAsk]) -> Sample:
        """Return the sample with the verdicts of one stage, up to the first drop."""
        pipeline = self.context.pipeline
        for step, memory in self._staged[stage]:
            if sample.dropped is not None:
                return sample
            try:
                if not step.judges(method.kind):
                    continue
                if isinstance(step, Filter):
                    seen = unframed(sample, pipeline.frames) if step.unframed else sample
                    verdict = await step.judge(seen, ask(step))
                elif method.instructs:
                    verdict = step.compare(unframed(sample, pipeline.frames), memory, self._known)
                else:
                    continue
            except Exception as error:  # noqa: BLE001 - as above
                verdict = Verdict(dropped=self._failed(step, error))
            sample = apply_verdict(sample, verdict)
        return sample

    def _ask(self, step: Method | Filter, draw: Draw, usage: Usage, parents: Sequence[Sample]) -> BoundAsk:
        return BoundAsk(self.context, usage, parents, *self._asks[id(step)], draw.turn)

    def _failed(self, step: Step, error: Exception) -> str:
        """Return the drop reason for a step that raised an error; the first traceback of a step is logged.

        Raises:
            GristmillError: an error that concerns the job or the engine, and not this row.
        """
        if isinstance(error, GristmillError) or type(error).__module__.startswith("ray."):
            raise error
        if step.kind not in self.context.failed:
            self.context.failed.add(step.kind)
            log.error("%s raised on a row, which is dropped; further ones are not shown", step.kind, exc_info=error)
        place = f" at {locate_error(error, step.own_source.path)}" if isinstance(step, Own) else ""
        return f"{step.kind}: failed: {type(error).__name__}{place}"


def _lost(parent: Sample, method: Method) -> str:
    """Return the kind of content in a parent that the method's prompts cannot show, or the empty string."""
    if not method.takes_tools:
        return parent.beyond_text
    return "parts that are no text" if any(turn.parts for turn in parent.messages) else ""


def _begin(draw: Draw, usage: Usage, parents: Sequence[Sample], draft: Draft) -> Sample:
    """Return the row of a draft."""
    return Sample(
        id=usage.id,
        messages=draft.messages,
        parents=tuple(dict.fromkeys(parent.id for parent in parents)),
        method=draw.method.kind,
        round=1 + max((parent.round for parent in parents), default=-1),
        scores=draft.scores,
        tags=draft.tags,
        dropped=draft.dropped,
        tools=draft.tools,
    )


def origin(pipeline: Pipeline, draw: Draw, usage: Usage) -> Origin:
    """Return the origin of a row: its parents, and the requests and tokens that it used."""
    return Origin(
        run=pipeline.run,
        step=draw.step,
        model=models.recorded(pipeline.engines[draw.method.engine_name()].model),
        seed=usage.seed,
        prompt_tokens=usage.tally.prompt_tokens,
        reply_tokens=usage.tally.reply_tokens,
        finish=usage.finish,
    )


def lost_row(pipeline: Pipeline, draw: Draw, reason: str) -> Sample:
    """Return the dropped row of a draw that could not be made."""
    usage = Usage(draw.id)
    row = _begin(draw, usage, draw.parents, Draft(dropped=reason))
    return _with_origin(row, origin(pipeline, draw, usage))


def _with(s: Sample, draft: Draft) -> Sample:
    """Return the sample with a new answer. The fields are written out because `replace` takes twice as long."""
    scores, tags = {**s.scores, **draft.scores}, {**s.tags, **draft.tags}
    return Sample(s.id, draft.messages, s.parents, s.method, s.round, scores, tags, draft.dropped, s.origin, s.tools)


def _with_origin(s: Sample, origin: Origin) -> Sample:
    return Sample(s.id, s.messages, s.parents, s.method, s.round, s.scores, s.tags, s.dropped, origin, s.tools)


def apply_verdict(sample: Sample, verdict: Verdict) -> Sample:
    """Return the sample with the scores, tags, new messages or drop reason of a verdict."""
    unchanged = verdict.messages is None and verdict.tools is None
    if verdict.dropped is None and unchanged and not verdict.scores and not verdict.tags:
        return sample
    return replace(
        sample,
        scores={**sample.scores, **verdict.scores},
        tags={**sample.tags, **verdict.tags},
        messages=sample.messages if verdict.messages is None else verdict.messages,
        tools=sample.tools if verdict.tools is None else verdict.tools,
        dropped=verdict.dropped,
    )
