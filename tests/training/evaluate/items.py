"""Items, replies and an engine that the tests of suites script."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from gristmill.cluster.contract.sample import Message
from gristmill.cluster.models.engine import Reply, Request
from gristmill.training.evaluate.scorers.contract import Item
from gristmill.training.evaluate.serving import AskAll


def item(prompt: str, answer: str = "", **tags: str) -> Item:
    return Item(f"{prompt}|{answer}", (Message("user", prompt),), answer, tags=tags)


def says(text: str, finish: str = "stop") -> Reply:
    return Reply(text, finish, 10, len(text.split()))


def likes(**chances: float) -> Reply:
    return Reply(max(chances, key=lambda name: chances[name]), "stop", 10, 1, chances)


def rates(logprob: float, tokens: int) -> Reply:
    return Reply("", "stop", 10, tokens, {}, 0, logprob)


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
