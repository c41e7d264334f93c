"""Complexity: choose samples that have many tags of intent each, and that together cover many tags (InsTag, MIG)."""

from collections.abc import Mapping
from random import Random
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from gristmill.cluster.contract.errors import JobError
from gristmill.selection.contracts import BEST, Bool, Budget, Choice, Cost, Prefer, Selector, View, budget_rows
from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float32, Float64
from gristmill.selection.diversity.mig import Propagation, mig, propagation
from gristmill.selection.diversity.tags import TagMatrix, merge_tags, read_tags
from gristmill.selection.kernels import kernel

LATE, UNTAGGED, UNSCORED = range(3)
REASONS = ("complexity: beyond the budget", "complexity: no tags", "complexity: no score")
MIG_ONLY = frozenset({"score", "min_cosine"})


class Complexity(Selector):
    """Keep samples with many different tags of intent; the filter `instag` gets the tags from a model.

    - `count` visits the samples from most tags to fewest and takes each sample that adds a new tag. When no sample adds
      a new tag, all tags count as new again. This ends when the budget is met.
    - `mig` takes the sample that adds the most information to a graph in which similar tags share their weight. The
      weight of a sample is its score, see `score`. The computation is in `gristmill.selection.diversity.mig`.

    Samples without tags, and with `mig` samples without the score, are dropped. The step gives the score `tag_count`,
    the number of a sample's tags. With `mig` it also gives `mig_gain`, the information that a sample added.

    Source: Lu et al. 2023, InsTag, arXiv:2308.07074, sections 3.2 and 5.1 and algorithm 1 (complexity-first diverse
    sampling; complexity is tags per sample, diversity the share of all tags that are covered); Chen et al. 2025, MIG,
    arXiv:2504.13835, section 3. Departures: `diversity.tags` says how tags are normalised, and `diversity.mig` what
    differs there; samples with the same number of tags are ordered by `prefer`, where the paper leaves them as they
    are.
    """

    kind: Literal["complexity"] = "complexity"
    example: ClassVar[Mapping[str, Any]] = {"budget": 100}
    budget: Budget
    """How many samples stay: a whole number, or a share of the samples that come in. `1.0` means all samples with
    tags."""
    rule: Literal["count", "mig"] = "count"
    """The rule by which samples are chosen."""
    tag: str = "intents"
    """Tag that holds the intents: a JSON list, or words separated by semicolons."""
    min_count: int = Field(default=2, gt=0)
    """Least number of samples with an intent; rarer intents do not count. InsTag used 20 for 306,000 samples."""
    merge_cosine: float | None = Field(default=None, gt=0, lt=1)
    """If the cosine of two intents is above this, the less frequent intent counts as the more frequent one. By default
    only spellings of one intent are merged. The vectors are those of the job's encoder, which must know the language of
    the intents."""
    prefer: Prefer = BEST
    """Scores that order samples with the same number of tags; `length` is the characters of the answer. The first score
    in which two samples differ decides: the higher value comes first. If no score differs, the lower id comes first."""
    score: str = "judge"
    """Only for `mig`: the score that is the weight of a sample. `length` means the characters of its answer, and `""`
    means equal weights."""
    min_cosine: float = Field(default=0.9, gt=0, le=1)
    """Only for `mig`: least cosine of two tags that are neighbours in the graph."""

    @model_validator(mode="after")
    def _belongs(self) -> "Complexity":
        extra = sorted(MIG_ONLY & self.model_fields_set)
        if self.rule == "count" and extra:
            raise ValueError(f"{extra[0]} is set, must be left out where rule is 'count'; it belongs to 'mig'")
        if self.rule == "mig" and "prefer" in self.model_fields_set:
            raise ValueError("prefer is set, must be left out where rule is 'mig'; it goes by score")
        return self

    def encodes(self) -> bool:
        """Say whether the vectors of tags are needed."""
        return self.rule == "mig" or self.merge_cosine is not None

    def most(self, num: int) -> int:
        """Return the budget, or `num` if that is less."""
        return budget_rows(self.budget, num)

    def cost(self, num: int, dim: int) -> Cost:
        """Estimate the cost for 5 tags in each sample and 6,000 different tags."""
        del dim
        return Cost((1.1e-5 if self.rule == "mig" else 9e-6) * num, 600 * num)

    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice; it needs no randomness.

        Raises:
            JobError: when no sample has the tag; for `mig` also when no sample has the score, or a score is negative.
        """
        del rng
        tags = self._tags(view)
        reason = np.full(len(view), LATE, np.int64)
        scores = {"tag_count": tags.per_row.astype(np.float32)}
        if self.rule == "mig":
            quality = self._quality(view)
            reason[np.isnan(quality)] = UNSCORED
            chosen, gain = mig(tags, quality, self._graph(view, tags), self.most(len(view)))
            scores["mig_gain"] = np.full(len(view), np.nan, np.float32)
            scores["mig_gain"][chosen] = gain
        else:
            order = view.order(self.prefer)
            order = order[np.argsort(-tags.per_row[order], kind="stable")]
            chosen = count_first(tags, order, self.most(len(view)))
        reason[tags.per_row == 0] = UNTAGGED
        reason[chosen] = -1
        return Choice(reason, REASONS, scores=scores, figures=_figures(tags, reason < 0))

    def _tags(self, view: View) -> TagMatrix:
        code, values = view.tags(self.tag)
        if len(view) and not values:
            raise JobError(
                f"complexity.tag: no sample has the tag {self.tag!r}, must hold a sample's intents; "
                "let the filter `instag` write them before"
            )
        tags = read_tags(code, values, self.min_count)
        if self.merge_cosine is None or not tags.names:
            return tags
        return merge_tags(tags, self._vectors(view, tags), self.merge_cosine)

    def _vectors(self, view: View, tags: TagMatrix) -> Float32:
        if view.encode is None:
            raise JobError("complexity: the tags have no encoder, must have the job's; run it through the select job")
        return view.encode(tags.names)

    def _graph(self, view: View, tags: TagMatrix) -> Propagation:
        vectors = self._vectors(view, tags) if tags.names else np.empty((0, 1), np.float32)
        return propagation(vectors, self.min_cosine)

    def _quality(self, view: View) -> Float64:
        """Return [n] weights of the samples, NaN for a sample without the score."""
        if not self.score:
            return np.ones(len(view))
        if self.score == "length":
            return view.lengths.astype(np.float64)
        quality = view.scores.get(self.score, np.full(len(view), np.nan, np.float32)).astype(np.float64)
        known = sorted(view.scores)
        if len(view) and np.isnan(quality).all():
            raise JobError(
                f"complexity.score: no sample has the score {self.score!r}, must be one of {known} or 'length'"
            )
        if np.nanmin(quality, initial=0.0) < 0:
            raise JobError(
                f"complexity.score: a sample has {np.nanmin(quality):g} in {self.score!r}, must not be negative"
            )
        return quality


def count_first(tags: TagMatrix, order: Int, budget: int) -> Int:
    """Return the rows that repeated passes take: a pass takes each row that has a tag which is new in this pass.

    A pass visits the rows that are left, in the given order. A row without tags is never taken. Cost: one sort of all
    entries, then rows of the result x tags of a row. It is so low because the next row that a pass takes is always the
    first row of some tag that is left.
    """
    place, rows = np.empty(len(order), np.int64), tags.rows
    place[order] = np.arange(len(order))
    posted = place[rows[np.lexsort((place[rows], tags.tags))]]  # the places of the rows of each tag, ascending
    ends = np.append(0, np.cumsum(tags.counts))
    head, alive = ends[:-1].copy(), np.arange(len(tags.names))
    taken, seen = np.zeros(len(order), np.bool_), np.full(len(tags.names), -1, np.int64)
    found, num, turn = np.empty(min(budget, int((tags.per_row > 0).sum())), np.int64), 0, 0
    while num < len(found):
        alive = alive[: _still_alive(alive, head, ends, posted, taken)]
        first = posted[head[alive]]
        alive, first = alive[np.argsort(first)], np.sort(first)
        begin, num = num, num + _pass(order[first], alive, (tags.starts, tags.tags), (seen, turn), found[num:])
        taken[place[found[begin:num]]] = True
        turn += 1
    return found


@kernel
def _still_alive(alive: Int, head: Int, ends: Int, posted: Int, taken: Bool) -> int:
    """Move the tags that have a row which is not taken to the front of `alive`, and return the number of these tags.

    `posted[head[t] : ends[t + 1]]` holds the places of the rows of tag t from its head on, in the order of visiting.
    The head of each tag is moved to its first row that is not taken.
    """
    left = 0
    for t in alive:
        while head[t] < ends[t + 1] and taken[posted[head[t]]]:
            head[t] += 1
        if head[t] < ends[t + 1]:
            alive[left] = t
            left += 1
    return left


@kernel
def _pass(rows: Int, alive: Int, tags: tuple[Int, Int], seen_in: tuple[Int, int], found: Int) -> int:
    """Write the rows of one pass and return their number.

    `rows` holds, for every tag in `alive`, the first of its rows that are left, in the order of visiting. If the tag
    was not seen in this pass, its row is taken, and all tags of the row then count as seen.
    """
    starts, tag = tags
    seen, turn = seen_in
    num = 0
    for n in range(len(rows)):
        if seen[alive[n]] < turn and num < len(found):
            found[num] = rows[n]
            num += 1
            for e in range(starts[rows[n]], starts[rows[n] + 1]):
                seen[tag[e]] = turn
    return num


def _figures(tags: TagMatrix, kept: Bool) -> dict[str, float | str]:
    """Return InsTag's measures: tags per sample before and after, and the share of all tags that are left after."""
    per_row = tags.per_row
    covered = np.unique(tags.tags[kept[tags.rows]])
    return {
        "tags": len(tags.names),
        "tags_per_sample_before": round(float(per_row.mean()), 3) if len(per_row) else 0.0,
        "tags_per_sample": round(float(per_row[kept].mean()), 3) if kept.any() else 0.0,
        "coverage": round(len(covered) / max(1, len(tags.names)), 4),
    }
