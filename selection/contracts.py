"""The contracts of selection: View, Choice and Selector. Read this file first.

A selector sees the kept samples as columns and returns which of them stay; it never owns a model, a path or a store.
Rows of a view are in the order of their ids. So the choice does not depend on the order or the number of the shards,
even where samples have equal values.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from gristmill.selection.data.samples import Array, Samples, Turns

Bool = NDArray[np.bool_]
Prefer = tuple[str, ...]
"""Names that decide which of two samples stays. A name is a score, or `length`, the characters of the answer. The first
name in which the values of the samples differ decides: the sample with the higher value stays. If no value differs, the
sample with the lower id stays. A sample without a score counts as lower than every sample with it."""
BEST: Prefer = ("judge", "length")


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
        """[n] ascending ids."""
        return self.samples.ids[self.rows]

    @property
    def scores(self) -> Mapping[str, Float32]:
        """[n] values of each score, by name; NaN for a sample without the score."""
        return {name: values[self.rows] for name, values in self.samples.scores.items()}

    @property
    def lengths(self) -> Int:
        """[n] characters of the answers."""
        return self.samples.lengths[self.rows]

    @property
    def known(self) -> Bool:
        """[n] whether the encoder knows the script of a sample, so that the sample may be compared by its vector."""
        return np.ones(len(self), np.bool_) if self.vectors is None else self.vectors.known

    def scan(self, which: Part) -> Iterator[tuple[Int, pa.LargeStringArray]]:
        """Yield (rows of this view, texts of these rows) one shard at a time; the rows are in no order."""
        for rows, table in self._tables(["messages"]):
            yield rows, columns.part(table, which)

    def texts(self, which: Part) -> pa.LargeStringArray:
        """Return [n] texts, all in memory; use `scan` where possible, which holds one shard at a time."""
        rows, parts = [np.empty(0, np.int64)], [pa.array([], pa.large_string())]
        for found, texts in self.scan(which):
            rows.append(found)
            parts.append(texts)
        return pa.concat_arrays(parts).take(pa.array(np.argsort(np.concatenate(rows), kind="stable")))

    def some(self, which: Part, rows: Int) -> list[str]:
        """Return the texts of a few rows of this view, in the given order."""
        place = {int(row): n for n, row in enumerate(rows)}
        found = [""] * len(rows)
        for seen, texts in self.scan(which):
            for at in np.flatnonzero(np.isin(seen, rows)):
                found[place[int(seen[at])]] = texts[int(at)].as_py()
        return found

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
        for rows, table in self._tables(["method", "tags"]):
            encoded = columns.tag(table, name).dictionary_encode()
            codes = np.array([place.setdefault(v, len(place)) for v in encoded.dictionary.to_pylist()], np.int64)
            places = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
            found[rows] = np.where(places < 0, -1, np.append(codes, -1)[places])
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

    def _tables(self, wanted: Sequence[str]) -> Iterator[tuple[Int, pa.Table]]:
        place = np.full(len(self.samples.ids), -1, np.int64)
        place[self.rows] = np.arange(len(self))
        for rows, table in self.samples.scan(wanted):
            here = place[rows]
            yield here[here >= 0], (table if (here >= 0).all() else table.filter(pa.array(here >= 0)))


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
