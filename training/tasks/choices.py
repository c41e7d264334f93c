"""A causal language model as a classifier of held-out rows: its label is the likeliest of some whole replies.

The likelihood is that of all trained tokens of the reply, with the token that ends it. So replies of any length
compare, and nothing is written. It is not calibrated, unlike that of the scorer `labels`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Sample, from_table
from gristmill.cluster.store.store import Store
from gristmill.training.data import chat, packing, tokens
from gristmill.training.data.answers import Talk
from gristmill.training.evaluate.scorers.contract import CHOICES, Item
from gristmill.training.evaluate.suites.reducers import classified
from gristmill.training.tasks.contracts import MOST_LABELS


class Choices(NamedTuple):
    """Held-out rows, each with all of its choices as replies."""

    answers: list[str]
    """[rows] the right answer of each."""
    choices: list[tuple[str, ...]]
    """[rows] the choices of each."""
    bins: pa.Table
    """The replies as packed bins; the samples are numbered through all choices of all rows."""
    numbers: NDArray[np.int64]
    """[samples of `bins`] number of the choice that a sample belongs to, through all choices of all rows."""

    def measures(self, summed: NDArray[np.float64]) -> dict[str, float]:
        """Return accuracy, and precision, recall and F1 as means over the labels.

        Args:
            summed: [samples of `bins`] summed loss of each sample, in nats.
        """
        losses = np.bincount(self.numbers, summed)
        ends = np.cumsum([len(some) for some in self.choices])[:-1]
        said = [some[int(own.argmin())] for some, own in zip(self.choices, np.split(losses, ends), strict=True)]
        found = classified(self.answers, said, sorted({*self.answers, *said}))
        return {name: value for name, value in found.items() if not name.startswith("micro")}


def names_of(store: Store, datasets: Sequence[str]) -> tuple[str, ...]:
    """Return all answers of the rows that have no choices of their own, in alphabetical order.

    Raises:
        JobError: when there are so many answers that they cannot be labels, or fewer than two.
    """
    found, own = set[str](), False
    for dataset in datasets:
        for table in store.scan(dataset):
            for row in from_table(table.filter(pa.array(tokens.usable(table)[0]))):
                if _own(row):
                    own = True
                elif row.messages[-1].role == "assistant":
                    found.add(row.answer.strip())
            if len(found) > MOST_LABELS:
                raise JobError(
                    f"train.metric: the rows of {dataset} have more than {MOST_LABELS} different answers, must be "
                    "labels or have the tag choices; set train.metric to loss"
                )
    if len(found) < 2 and not own:
        raise JobError(
            f"train.metric: the rows of {datasets[0]} have {len(found)} different answers, must have at least 2; set "
            "train.metric to loss"
        )
    return tuple(sorted(found))


def opened(table: pa.Table, names: Sequence[str], tok: Any, how: chat.Encoding) -> Choices:  # noqa: ANN401
    """Return held-out rows with their choices. Rows whose answer is none of them, or of which one is too long, are not.

    Raises:
        JobError: when no row is left.
    """
    rows, talks = list[tuple[str, tuple[str, ...]]](), list[Talk]()
    for row in from_table(table):
        some, answer = _own(row) or tuple(names), row.answer.strip()
        if row.messages[-1].role == "assistant" and answer in some:
            rows.append((answer, some))
            talks += [_with_answer(row, one) for one in some]
    found = chat.Encoder(tok, how).encode(talks) if talks else None
    sizes = np.array([len(some) for _, some in rows], np.int64)
    owner = np.repeat(np.arange(len(rows)), sizes)
    whole = np.zeros(len(rows), bool)
    if found is not None:
        whole = np.bincount(owner[np.unique(found.places)], minlength=len(rows)) == sizes
    if found is None or not whole.any():
        raise JobError(
            f"train.metric: none of {table.num_rows} held-out rows ends with one of its choices and fits into "
            "max_length with all of them, one must; set train.metric to loss"
        )
    kept = np.flatnonzero(whole[owner[found.places]])
    bins = [[int(kept[place]) for place in one] for one in packing.fit(found.lengths[kept], how.max_length)]
    taken = [rows[place] for place in np.flatnonzero(whole)]
    order = np.cumsum(whole[owner]) - 1  # numbers of the choices without those of rows that are left out
    numbers = np.zeros(len(found.places), np.int64)
    numbers[kept] = order[found.places[kept]]
    answers, some_of_each = zip(*taken, strict=True)
    return Choices([*answers], [*some_of_each], packing.bins_table(found, bins), numbers)


def _own(row: Sample) -> tuple[str, ...]:
    return Item(row.id, row.messages, tags=row.tags).listed(CHOICES)


def _with_answer(row: Sample, answer: str) -> Talk:
    """Return a row with another last answer, which alone is trained on."""
    *before, last = row.messages
    turns = (*(turn._replace(train=False) for turn in before), last._replace(content=answer, train=True))
    return Talk(turns, row.tools)
