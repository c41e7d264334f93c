"""Items, replies and an engine that the tests of suites script."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from gristmill.cluster.contract.sample import Message
from gristmill.cluster.models.engine import Reply, Request
from gristmill.cluster.store.store import Store
from gristmill.training.evaluate.scorers.contract import Item, Judgements
from gristmill.training.evaluate.serving import AskAll
from gristmill.training.evaluate.suites.freeze import Suite
from gristmill.training.evaluate.suites.items import Judged, rows
from gristmill.training.evaluate.suites.values import Gathered, Gatherer, gathered


def item(prompt: str, answer: str = "", **tags: str) -> Item:
    return Item(f"{prompt}|{answer}", (Message("user", prompt),), answer, tags=tags)


def says(text: str, finish: str = "stop") -> Reply:
    return Reply(text, finish, 10, len(text.split()))


def likes(**chances: float) -> Reply:
    return Reply(max(chances, key=lambda name: chances[name]), "stop", 10, 1, chances)


def rates(logprob: float, tokens: int) -> Reply:
    return Reply("", "stop", 10, tokens, {}, 0, logprob)


def gathered_of(suites: Sequence[Suite], scores: Mapping[tuple[str, str], Mapping[str, Judgements]]) -> Gathered:
    """Gather judgements by (model, suite), then by item, as the comparison takes them."""
    by_name, found = {suite.name: suite for suite in suites}, Gatherer(suites)
    for (model, name), own in scores.items():
        judged = [Judged(one, own[one.id]) for one in by_name[name].items if one.id in own]
        found.add(rows(model, name, by_name[name].scorer.kind, judged))
    return found.values


def gathered_from(store: Store, output: str, suites: Sequence[Suite]) -> Gathered:
    """Gather what is committed."""
    return gathered(store, output, store.committed(output).values(), suites)


class Models:
    """Engines by folder, each a function of a request; it counts what was asked, and may fail at a request."""

    def __init__(self, fail_at: int = 0, **replies: Callable[[Request], Reply]) -> None:
        self.replies, self.fail_at, self.asked = replies, fail_at, list[tuple[str, Request]]()
        self.opened: list[str] = []

    @contextmanager
    def open(self, folder: str, name: str) -> Iterator[AskAll]:
        del name
        self.opened.append(folder)

        def ask(requests: Sequence[Request]) -> list[Reply]:
            found = []
            for request in requests:
                self.asked.append((folder, request))
                if len(self.asked) == self.fail_at:
                    raise KeyboardInterrupt
                found.append(self.replies[folder](request))
            return found

        yield ask
