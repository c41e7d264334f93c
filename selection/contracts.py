"""The contracts of selection: View, Choice and Selector. Read this file first.

A selector sees the kept samples as columns and returns which of them stay; it never owns a model, a path or a store.
Rows of a view are in the order of their ids. So the choice does not depend on the order or the number of the shards,
even where samples have equal values.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import tee
from random import Random
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.settings import Step
from gristmill.cluster.io.ingest import Source
from gristmill.selection.data import columns
from gristmill.selection.data.columns import Ids, Int, Part
from gristmill.selection.data.matrix import Float32, Matrix
from gristmill.selection.data.parts import Read
from gristmill.selection.data.placed import Placed
from gristmill.selection.data.samples import Array, Ask, Samples, Turns, read

Bool = NDArray[np.bool_]
Prefer = tuple[str, ...]
"""Names that decide which of two samples stays. A name is a score, or `length`, the characters of the answer. The first
name in which the values of the samples differ decides: the sample with the higher value stays. If no value differs, the
sample with the lower id stays. A sample without a score counts as lower than every sample with it."""
BEST: Prefer = ("judge", "length")
BLOCK = 1 << 16
"""Number of ids that are copied at a time."""


@dataclass(frozen=True, eq=False)
class View:
    """The samples among which a selector chooses: all that are still kept, in the order of their ids."""

    samples: Samples
    rows: Int
    """[n] indices of these samples among all samples, ascending."""
    vectors: Matrix | None = None
    """[n, d] unit rows, if the step asks for them."""
    beside: Mapping[str, "View"] = field(default_factory=dict)
    """Views of the datasets that the step names in `sources`, by the same names. They have vectors if `wants_beside`
    asks for them."""
    encode: Callable[[Sequence[str]], Float32] | None = None
    """The job's encoder, if the step `encodes`: it turns a few texts that are not samples into [texts, d] unit rows."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> Ids:
        """[n] ascending ids; if the view has not all samples, a copy of 32 bytes for each row."""
        return self.samples.ids if len(self) == len(self.samples.ids) else self.samples.ids[self.rows]

    def ids_of(self, rows: Int) -> Ids:
        """Return [len(rows)] the ids of some rows; empty for a row of -1."""
        found = np.zeros(len(rows), "S32")
        for start in range(0, len(rows), BLOCK):
            some = rows[start : start + BLOCK]
            there = some >= 0
            found[start : start + BLOCK][there] = self.samples.ids[self.rows[some[there]]]
        return found

    def find(self, names: Ids) -> Int:
        """Return the rows of this view with these ids, ascending; a name that is not in the view has none."""
        place, known = columns.find_ids(names, self.samples.ids)
        found, there = np.unique(place[known]), self.rows
        at = np.minimum(np.searchsorted(there, found), max(0, len(there) - 1))
        return at[there[at] == found] if len(there) else at[:0]

    @property
    def scores(self) -> Mapping[str, Float32]:
        """[n] values of each score, by name; NaN for a sample without the score."""
        return {name: values[self.rows] for name, values in self.samples.scores.items()}

    @property
    def lengths(self) -> NDArray[np.int32]:
        """[n] characters of the answers."""
        return self.samples.lengths[self.rows]

    @property
    def known(self) -> Bool:
        """[n] whether the encoder knows the script of a sample, so that the sample may be compared by its vector."""
        return np.ones(len(self), np.bool_) if self.vectors is None else self.vectors.known

    def scan(self, which: Part) -> Iterator[tuple[Int, pa.LargeStringArray]]:
        """Yield (rows of this view, texts of these rows) one part at a time; the rows are in no order.

        The texts come to this process. `map` works on them where they are.
        """
        one, two = tee(self.samples.asks(self._place))
        texts = self.samples.parts.here().map(partial(_texts, _same, (which,)), ((ask,) for _, ask in two))
        yield from zip((rows for rows, _ in one), texts, strict=True)

    def map(
        self, function: Callable[..., Any], *which: Part, given: Sequence[NDArray[Any]] = ()
    ) -> Iterator[tuple[Int, Any]]:
        """Yield (rows of this view, result of a function for these rows), one part at a time.

        The function gets the texts of these rows, once for each of `which`, and then their values in the arrays
        `given`. It is called in this process, or in tasks of Ray near the shards. So it must be a function of a module,
        or a `partial` of one, and depend only on its arguments. Its result should be compact, without texts.
        """
        yield from self._each(partial(_texts, function, which), given)

    def hold(self, function: Callable[..., Any], *which: Part, given: Sequence[NDArray[Any]] = ()) -> Placed:
        """Return the results of a function for all parts, which stay where they are made; see `map`."""
        at, ends, asks = self._placed()
        further = ((ask, *(values[rows] for values in given)) for rows, ask in asks)
        return Placed(self.samples.parts.hold(partial(_texts, function, which), further), at, ends)

    def texts_near(self, which: Part) -> Placed:
        """Return the texts as values that stay in their shards until pairs of them are compared."""
        at, ends, asks = self._placed()
        return Placed(self.samples.parts, at, ends, partial(_texts, _same, (which,)), [(ask,) for _, ask in asks])

    def texts(self, which: Part) -> pa.LargeStringArray:
        """Return [n] texts, all in memory; use `map` where possible."""
        rows, parts = [np.empty(0, np.int64)], [pa.array([], pa.large_string())]
        for found, texts in self.scan(which):
            rows.append(found)
            parts.append(texts)
        return pa.concat_arrays(parts).take(pa.array(np.argsort(np.concatenate(rows), kind="stable")))

    def some(self, which: Part, rows: Int) -> list[str]:
        """Return the texts of a few rows of this view, in the given order."""
        unique, places = np.unique(rows, return_inverse=True)
        mask = np.zeros(len(self), np.bool_)
        mask[unique] = True
        found: list[str] = [""] * len(unique)
        for seen, texts in self.take(mask).map(_listed, which):
            for row, text in zip(seen.tolist(), texts, strict=True):
                found[row] = text
        return [found[place] for place in places.tolist()]

    def tags(self, name: str) -> tuple[Int, list[str]]:
        """Return ([n] index of each row's value of a tag, -1 for a row without the tag; the sorted values).

        For the name `method`, the values are the methods that made the samples.
        """
        if name in self.samples.given:
            words = self.samples.given[name][self.rows]
            values = sorted({word for word in words if word is not None})
            places = {word: n for n, word in enumerate(values)} | {None: -1}
            return np.array([places[word] for word in words], np.int64), values
        found = np.full(len(self), -1, np.int64)
        place: dict[str, int] = {}
        for rows, (codes, words) in self._each(partial(_tags, name)):
            every = np.array([*(place.setdefault(word, len(place)) for word in words), -1], np.int64)
            found[rows] = every[codes]
        values = sorted(place)
        ordered = np.empty(len(place) + 1, np.int64)
        ordered[[place[value] for value in values]] = np.arange(len(values))
        ordered[-1] = -1
        return ordered[found], values

    def unit(self, where: str) -> Matrix:
        """Return the vectors, which a selector must have asked for.

        Raises:
            JobError: when the view has no vectors; the message begins with `where`.
        """
        if self.vectors is None:
            raise JobError(
                f"{where}: the samples have no vectors, must be embedded first; run it through the select job"
            )
        return self.vectors

    def order(self, prefer: Prefer) -> Int:
        """Return all rows, the best first; `Prefer` says which of two is better."""
        keys: list[NDArray[np.generic]] = []
        for name in reversed(prefer):  # lexsort sorts by its last key first, and keeps ties in the order of ids
            if name == "length":
                keys.append(-self.lengths)
            elif name in self.samples.scores:  # a score that no sample has decides nothing
                keys.append(-np.nan_to_num(self.scores[name].astype(np.float64), nan=-np.inf))
        return np.lexsort(keys).astype(np.int64) if keys else np.arange(len(self))

    def memo(self, name: str, make: Callable[[], Array]) -> Array:
        """Return an array that depends only on these samples and the name.

        The array is made now, unless an earlier build has stored it.
        """
        subset = "" if len(self) == len(self.samples.ids) else "-" + ids.of_bytes(self.rows.tobytes())[: ids.SHORT_HEX]
        cut = np.intersect1d(self.rows, np.fromiter(self.samples.cut, np.int64)).tolist()
        shortened = "-" + ids.digest([(row, self.samples.cut[row]) for row in cut])[: ids.SHORT_HEX] if cut else ""
        return self.samples.memo(f"{name}{subset}{shortened}", make)

    def take(self, keep: Bool) -> "View":
        """Return a view of these rows only."""
        rows = np.flatnonzero(keep)
        return replace(self, rows=self.rows[rows], vectors=None if self.vectors is None else self.vectors.at(rows))

    @property
    def _place(self) -> NDArray[np.int32]:
        """[N] row of this view of each sample, -1 for a sample that is not in it."""
        place = np.full(len(self.samples.ids), -1, np.int32)
        place[self.rows] = np.arange(len(self), dtype=np.int32)
        return place

    def _each(self, function: Callable[..., Any], given: Sequence[NDArray[Any]] = ()) -> Iterator[tuple[Int, Any]]:
        one, two = tee(self.samples.asks(self._place))
        further = ((ask, *(values[rows] for values in given)) for rows, ask in two)
        yield from zip((rows for rows, _ in one), self.samples.parts.map(function, further), strict=True)

    def _placed(self) -> tuple[NDArray[np.int32], Int, list[tuple[Int, Ask]]]:
        """Return ([n] the place of each row's value; [parts + 1] the place at which each part begins; the asks)."""
        asks = list(self.samples.asks(self._place))
        ends = np.cumsum([0, *(len(rows) for rows, _ in asks)])
        at = np.empty(len(self), np.int32)
        for begin, (rows, _) in zip(ends.tolist(), asks, strict=False):
            at[rows] = np.arange(begin, begin + len(rows), dtype=np.int32)
        return at, ends, asks


def _texts(function: Callable[..., Any], which: Sequence[Part], part: Read, ask: Ask, *given: NDArray[Any]) -> Any:  # noqa: ANN401
    """Return the result of a function for the texts of the rows that are asked of a part."""
    table = read(["messages"], part, ask)
    return function(*(columns.part(table, each) for each in which), *given)


def _same(texts: pa.LargeStringArray) -> pa.LargeStringArray:
    return texts


def _listed(texts: pa.LargeStringArray) -> list[str]:
    found: list[str] = texts.to_pylist()
    return found


def _tags(name: str, part: Read, ask: Ask) -> tuple[NDArray[np.int32], list[str]]:
    """Return ([rows] index of each row's value of a tag, -1 for a row without the tag; the values)."""
    encoded = columns.tag(read(["method", "tags"], part, ask), name).dictionary_encode()
    codes: NDArray[np.int32] = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    return codes, encoded.dictionary.to_pylist()


@dataclass(frozen=True, eq=False)
class Choice:
    """The samples that stay, and why the others are dropped."""

    reason: Int
    """[n] -1 for a row that stays, else the index of its reason in `reasons`."""
    reasons: Sequence[str] = ()
    """Each has the form `"kind: why"`. A reason is the same for all its rows; `lost_to` and `scores` hold what differs
    from row to row."""
    lost_to: Ids | None = None
    """[n] id of the sample that represents a dropped row, from this view or a view in `beside`; empty where there is
    none."""
    scores: Mapping[str, Float32] = field(default_factory=dict)
    """[n] values of each new score, by name; NaN for a sample that gets no such score. Higher is better."""
    tags: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    """[n] values of each new tag, by name; None for a sample that gets no such tag."""
    cut: Mapping[int, Turns] = field(default_factory=dict)
    """The new turns of each sample whose text the step shortened, by row; later steps read these turns."""
    figures: Mapping[str, float | str] = field(default_factory=dict)
    """Figures of this step that the report shows, such as (ε, δ), a radius or a number of clusters."""

    @property
    def kept(self) -> Bool:
        """[n] whether a row stays."""
        return self.reason < 0

    @staticmethod
    def of(kept: Bool, reason: str, **further: object) -> "Choice":
        """Return a choice in which all dropped rows have the same reason."""
        return Choice(np.where(kept, -1, 0).astype(np.int64), (reason,), **further)  # type: ignore[arg-type]


class VectorsOf(NamedTuple):
    """The vectors that a step asks for: the model, and the part of the text."""

    encoder: Any
    """Settings for `gristmill.selection.embedding.encoders.open_encoder`: `Embedding` or gradients."""
    part: Part


class Cost(NamedTuple):
    """Estimated cost, from figures measured on two cores."""

    cpu_s: float
    peak_bytes: int


class Selector(Step):
    """A frozen value that chooses among samples; pure functions in its file or in its topic's folder do the work."""

    needs_vectors: ClassVar[bool] = False
    """Whether the selector uses the job's vectors."""

    def sources(self) -> dict[str, Source]:
        """Return the other datasets that the selector reads, each with a name that the selector gives it."""
        return {}

    def wants(self, job: VectorsOf) -> VectorsOf | None:
        """Return the vectors that the view must have: by default the job's vectors, or none."""
        return job if self.needs_vectors else None

    def wants_beside(self, job: VectorsOf) -> VectorsOf | None:
        """Return the vectors that the views in `beside` must have."""
        return self.wants(job)

    def encodes(self) -> bool:
        """Say whether the selector encodes texts that are not samples, through `View.encode`."""
        return False

    def most(self, num: int) -> int:
        """Return the largest number of samples that can stay out of `num`; without a budget it is `num`."""
        return num

    def cost(self, num: int, dim: int) -> Cost:
        """Estimate the cost for `num` samples with vectors of `dim` numbers, without the embedding."""
        del num, dim
        return Cost(0.0, 0)

    @abstractmethod
    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice. If the same samples are in other shards, the same ids must be chosen."""


class Deduplicator(Selector):
    """A selector that drops copies. The job stops if it would drop suspiciously many, see `outcome.breaker`."""

    prefer: Prefer = BEST
    """Scores that decide which of two samples stays; `length` is the characters of the answer. The first score in which
    the samples differ decides: the sample with the higher value stays. If no score differs, the sample with the lower
    id stays."""
    answers: bool = True
    """Whether samples count as different if their short answers, stated results or labels differ, see
    `duplicates.copies`."""
    max_group: float = Field(default=0.05, gt=0, le=1)
    """Largest share of all samples that may be lost to a single sample, before the job stops. Half of the samples, but
    no more than 1,000, may be lost to it in any case. With fewer than 20 samples there is no limit."""
    max_loss: float = Field(default=0.8, gt=0, le=1)
    """Largest share of the samples of one source that may be lost, before the job stops. A source with fewer than 20
    samples has no limit. See `source`."""
    source: str = "source"
    """Tag that names the source of a sample. If no sample has the tag, the method is used as the source."""


def budget_rows(budget: float, rows: int) -> int:
    """Return how many of `rows` a budget allows, never more than `rows`.

    A whole number is that many rows. A share is that share of the rows, rounded, but at least one row.
    """
    return min(rows, budget) if isinstance(budget, int) else min(rows, max(1, round(budget * rows)))


def _whole_or_share(budget: float) -> int | float:
    if isinstance(budget, float) and budget > 1:
        raise ValueError(f"is {budget}, must be a whole number of samples or a share between 0 and 1")
    return budget


Budget = Annotated[int | float, Field(gt=0), AfterValidator(_whole_or_share)]
"""Number of samples that stay: a whole number such as `200`, or a share such as `0.5` of the samples that come in. The
share `1.0` means all samples."""
