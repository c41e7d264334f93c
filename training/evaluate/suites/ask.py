"""The questions: each model is asked the items of each suite in parts; a committed part is not asked again."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, repeat

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.contract.schema import ITEMS
from gristmill.cluster.models.engine import Reply, Request
from gristmill.cluster.store.store import Shard, Store
from gristmill.training.evaluate.scorers.contract import OWN, Item, Judgement, Judgements, Scorer
from gristmill.training.evaluate.scorers.pairwise import SAID, Pairwise
from gristmill.training.evaluate.serving import AskAll
from gristmill.training.evaluate.suites import items
from gristmill.training.evaluate.suites.freeze import Suite
from gristmill.training.evaluate.suites.items import Judged

AT_ONCE = 256
"""Number of items in one part. A killed evaluation asks at most this number of items again."""
ANSWERS, VERDICTS = "shard-answers", "shard-verdicts"
"""Beginnings of the names of parts: for the models' replies, and for a judge's comparisons of replies."""


@dataclass(frozen=True)
class Part:
    """Some items of a suite that one model is asked about."""

    shard: str
    model: str
    suite: Suite
    look: int
    """The look of the gate before which the items are asked."""
    places: NDArray[np.int64]
    """Indices of the items in the suite, ascending."""

    @property
    def items(self) -> Sequence[Item]:
        """The items, which are read from the suite."""
        return tuple(items.some(self.suite.items, self.places))


def parts(models: Sequence[str], suites: Sequence[Suite]) -> list[Part]:
    """Return all parts. Their names depend on the order of models and suites, and on the looks of the items."""
    found = [
        (model, suite, look, places[start : start + AT_ONCE])
        for look in range(1, 1 + max((suite.last for suite in suites), default=0))
        for model in models
        for suite in suites
        for places in [suite.places(look)]
        for start in range(0, len(places), AT_ONCE)
    ]
    return [Part(f"{ANSWERS}-{n:05d}", *part) for n, part in enumerate(found)]


class Questions:
    """The questions to one engine. Requests that all items of a suite share are sent once."""

    def __init__(self, ask: AskAll, *, reads_rows: bool = False) -> None:
        """Take the engine. `reads_rows` says that its model reads the rows of the items, and no prompts."""
        self._ask, self._reads_rows, self._shared = ask, reads_rows, dict[str, list[Reply]]()
        self.tokens = self.prompt_tokens = 0

    def judged(self, part: Part) -> list[Judged]:
        """Ask about the items of a part and judge the replies."""
        scorer, name = part.suite.scorer, part.suite.name
        if name not in self._shared:
            self._shared[name] = [] if self._reads_rows else self._replies(scorer.shared(part.suite.items))
        items_ = part.items
        rows: Iterable[Sample | None] = items.some(part.suite.rows, part.places) if self._reads_rows else repeat(None)
        requests = [scorer.requests(_asked(item, row)) for item, row in zip(items_, rows, strict=False)]
        replies = self._replies([request for some in requests for request in some])
        ends = list(accumulate(map(len, requests), initial=0))
        shared = self._shared[name]
        return [
            Judged(item, _scores(scorer, item, replies[begin:end], shared))
            for item, begin, end in zip(items_, ends, ends[1:], strict=False)
        ]

    def verdicts(self, suite: Suite, said: Mapping[str, Judgements], base: Mapping[str, Judgements]) -> list[Judged]:
        """Ask a judge to compare the replies of a model with those of the base model."""
        scorer = suite.scorer
        if not isinstance(scorer, Pairwise):
            return []
        texts = [(item, said.get(item.id, {}).get(SAID), base.get(item.id, {}).get(SAID)) for item in suite.items]
        return self._duels(scorer, [(item, mine.reply, other.reply) for item, mine, other in texts if mine and other])

    def known(self, suite: Suite) -> list[Judged]:
        """Ask a judge to compare right answers with answers to other items."""
        scorer = suite.scorer
        if not isinstance(scorer, Pairwise):
            return []
        return self._duels(scorer, [(item, item.answer, other) for item, other in scorer.known(suite.items)])

    def _duels(self, scorer: Pairwise, pairs: Sequence[tuple[Item, str, str]]) -> list[Judged]:
        duels = [scorer.duel(*pair) for pair in pairs]
        replies = self._replies([request for duel in duels for request in duel])
        ends = list(accumulate(map(len, duels), initial=0))
        return [
            Judged(item, scorer.verdict(item, replies[begin:end]))
            for (item, _, _), begin, end in zip(pairs, ends, ends[1:], strict=False)
        ]

    def _replies(self, requests: Sequence[Request]) -> list[Reply]:
        replies = self._ask(requests) if requests else []
        self.tokens += sum(reply.reply_tokens for reply in replies)
        self.prompt_tokens += sum(reply.prompt_tokens for reply in replies)
        return replies


def _asked(item: Item, row: Sample | None) -> Item:
    """Return an item as the model reads it: by its prompt, or by the row that it was made from."""
    if row is None:
        return item
    turns = row.messages
    return replace(item, prompt=turns[:-1] if turns[-1].role == "assistant" else turns, prefix="")


def _scores(scorer: Scorer, item: Item, replies: Sequence[Reply], shared: Sequence[Reply]) -> Judgements:
    """Return the scores of an item; if the engine refused a request for it, a null value with the reason.

    Shared requests that the engine refused, such as an item that is too long, are left out, unless it refused all.
    """
    told = [reply for reply in shared if not reply.finish.startswith("error")]
    needed = (*replies, *(told or shared))
    refused = next((reply.finish for reply in needed if reply.finish.startswith("error")), None)
    return {OWN: Judgement(None, refused)} if refused else scorer.score(item, replies, told)


def commit(store: Store, output: str, shard: str, model: str, suite: Suite, judged: Sequence[Judged]) -> Shard:
    """Write the ITEMS of some judged items as one shard."""
    return store.commit_shard(output, shard, items.rows(model, suite.name, suite.scorer.kind, judged))


def committed(store: Store, output: str) -> pa.Table:
    """Return all committed ITEMS of a folder that has no manifest yet; in a local store they are mapped into memory."""
    shards = store.committed(output).values()
    return pa.concat_tables([ITEMS.empty_table(), *(store.read_shard(output, shard) for shard in shards)])


def draws(base: Suite, scores: Mapping[str, Judgements]) -> Iterator[Judged]:
    """Yield the verdicts of the base model against itself, which are draws, for the items that it answered."""
    for item in base.items:
        if SAID in scores.get(item.id, {}):
            yield Judged(item, {OWN: Judgement(0.5), "flip": Judgement(0.0)})
