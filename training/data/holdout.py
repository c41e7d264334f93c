"""The choice of held-out rows (of a dataset, of other rows or of seeds), and of the rows left out because of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import FAMILY
from gristmill.cluster.contract.schema import SAMPLES
from gristmill.training.data import families

KIN = "parent or child of a held-out row"
MADE = "made from a held-out seed"
NEAR = "near copy of a held-out row"
NEAR_TEST = "near copy of a test row"
BLOCK = 4_096
"""Number of rows whose tags are Python objects at once."""
Bools = NDArray[np.bool_]


class Rows(NamedTuple):
    """All rows of a dataset, and which of them can be trained on or scored."""

    table: pa.Table
    usable: Bools

    @classmethod
    def of(cls, table: pa.Table, places: NDArray[np.int64]) -> Self:
        """Return all rows of a table; those at these places are usable."""
        usable = np.zeros(table.num_rows, np.bool_)
        usable[places] = True
        return cls(table, usable)


@dataclass(frozen=True, slots=True)
class HoldOut:
    """The held-out rows, and the rows that are left out of training because of them."""

    held: Bools
    """[rows] whether a row is held out. The rows are those of the other dataset, or of the dataset if there is none."""
    families: NDArray[np.int64]
    """[held-out rows] family of each."""
    left_out: dict[str, Bools]
    """By reason, [rows] whether a row of the dataset is not trained on because of held-out or test rows. Each row has
    at most one reason."""
    relatives: int
    """Number of held-out rows that share a parent with a row that is trained on."""

    @property
    def gone(self) -> Bools:
        """Rows of the dataset that are left out for any reason."""
        found: Bools = np.logical_or.reduce([*self.left_out.values()])
        return found


def of_samples(rows: Rows, share: float, tests: Sequence[pa.Table]) -> HoldOut:
    """Hold out a share of the dataset itself, by family."""
    found = families.split(rows.table, rows.usable, share)
    left_out = {KIN: found.left_out}
    return HoldOut(found.held, found.families[found.held], _tested(rows, found.held, left_out, tests), found.relatives)


def of_fold(rows: Rows, fold: tuple[int, int], tests: Sequence[pa.Table]) -> HoldOut:
    """Hold out one fold of the dataset itself; `fold` is its number, from 0, and the number of all folds."""
    found = families.folds(rows.table, rows.usable, fold[1])[fold[0]]
    left_out = {KIN: found.left_out}
    return HoldOut(found.held, found.families[found.held], _tested(rows, found.held, left_out, tests), found.relatives)


def of_others(rows: Rows, others: Rows, tests: Sequence[pa.Table]) -> HoldOut:
    """Hold out all rows of another dataset that can be scored."""
    held = others.usable
    kept = others.table.filter(pa.array(held))
    near = families.near_to(rows.table, rows.usable, [kept])
    return HoldOut(held, families.families(kept), _tested(rows, np.zeros_like(near), {NEAR: near}, tests), 0)


def of_seeds(rows: Rows, seeds: Rows, share: float, tests: Sequence[pa.Table]) -> HoldOut:
    """Hold out a share of the seeds, by family, and leave out the rows that were made from held-out seeds."""
    found = families.split(seeds.table, seeds.usable, share)
    held = seeds.table.filter(pa.array(found.held))
    made = families.descendants(rows.table, held["id"].to_pylist()) & rows.usable
    near = families.near_to(rows.table, rows.usable, [held]) & ~made
    left_out = _tested(rows, np.zeros_like(made), {MADE: made, NEAR: near}, tests)
    return HoldOut(found.held, found.families[found.held], left_out, 0)


def _tested(rows: Rows, held: Bools, left_out: dict[str, Bools], tests: Sequence[pa.Table]) -> dict[str, Bools]:
    """Return `left_out` with the rows added that are left out because of test rows."""
    if not tests:
        return left_out
    near = families.near_to(rows.table, rows.usable, tests) & ~held
    for before in left_out.values():
        near &= ~before
    return {**left_out, NEAR_TEST: near}


def require_rows(trained: int, held: int, drops: dict[str, int], where: str) -> None:
    """Refuse a split without a row to train on or without a held-out row.

    Raises:
        JobError: for such a split; the message has the numbers of dropped rows.
    """
    if trained and held:
        return
    what, must = ("trained on", "train on") if not trained else ("held out", "hold out")
    raise JobError(
        f"train: no row of {where} can be {what} ({drops or 'nothing was dropped'}), at least one must; generate more, "
        f"select with a larger budget, or {must} other rows (train.validation)"
    )


def with_families(table: pa.Table, found: NDArray[np.int64]) -> pa.Table:
    """Return rows with the tag `family`. Its value is the id of the family's first row."""
    first, family = np.unique(found, return_index=True, return_inverse=True)[1:]
    names, kind = table["id"].take(pa.array(first[family])), SAMPLES.field("tags").type
    blocks = []
    for start in range(0, table.num_rows, BLOCK):
        block, own = table["tags"].slice(start, BLOCK).to_pylist(), names.slice(start, BLOCK).to_pylist()
        tags = [sorted({**dict(row), FAMILY: name}.items()) for row, name in zip(block, own, strict=True)]
        blocks.append(pa.array(tags, kind))
    column = pa.chunked_array(blocks, kind).combine_chunks()
    return table.set_column(SAMPLES.get_field_index("tags"), SAMPLES.field("tags"), column)
