"""Families of related rows, and the choice of the rows to hold out.

Rows with a common ancestor, rows of one group, and near copies are one family. A held-out row says something about new
data only if no row that is trained on is related to it. So whole families are held out.

Some rows were made from several parents at once, such as demonstrations. Their links can join all rows into one family.
Then such links are cut, beginning with the rows that have the most parents. If a cut link joins a held-out row to a
parent or a child, that parent or child is left out of training instead.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import FAMILY, GROUP, Sample, from_table
from gristmill.cluster.text.near import near_copies, template_size

MOST_SHARE = 0.1
"""Largest share of the rows that links to several parents may join into one family, if no share is to be held out."""
MOST_SHARES = 2
"""Largest number of held-out rows, as a multiple of the requested share. No family is split to reach that share."""
BLOCK = 4_096
"""Number of rows that are Python objects at once."""
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Split(NamedTuple):
    """The division of n rows into held-out rows and others."""

    held: Bools
    left_out: Bools
    """[n] whether a row is neither held out nor trained on, because it is related to a held-out row."""
    families: Ints
    """[n] family of each row, numbered from 0."""
    relatives: int
    """Number of held-out rows that share a parent with a row trained on, because links were cut."""


class Links(NamedTuple):
    """Links between nodes. The nodes are first the rows, then groups and parents that are no rows."""

    left: Ints
    """First node of each link, always a row."""
    right: Ints
    parents: Ints
    """For a link to a parent, the number of parents that the row has. 0 for links to near copies and groups, which are
    never cut."""
    names: list[str]
    """Name of each node."""


def links(table: pa.Table) -> Links:
    """Return the links of the rows of a SAMPLES table. Dropped rows are included, because they may link other rows."""
    names = table["id"].to_pylist()
    place = {name: row for row, name in enumerate(names)}
    found: list[tuple[int, int, int]] = []
    columns = [table[name] for name in ("parents", "tags")]
    blocks = (
        zip(*(column.slice(start, BLOCK).to_pylist() for column in columns), strict=True)
        for start in range(0, table.num_rows, BLOCK)
    )
    for row, (parents, tags) in enumerate(chain.from_iterable(blocks)):
        groups = [f"{GROUP} {value}" for tag, value in tags if tag == GROUP]
        for name, count in (*((parent, len(parents)) for parent in parents), *((group, 0) for group in groups)):
            if name not in place:
                place[name] = len(names)
                names.append(name)
            found.append((row, place[name], count))
    left, right = near_rows(table)
    linked = np.array(found, np.int64).reshape(-1, 3)
    none = np.zeros(len(left), np.int64)
    begins, ends, many = (np.concatenate(pair) for pair in zip(linked.T, (left, right, none), strict=True))
    return Links(begins, ends, many, names)


def near_rows(table: pa.Table) -> tuple[Ints, Ints]:
    """Return the pairs of kept rows with conversations or instructions that are near copies of each other."""
    kept = np.flatnonzero(table["dropped"].is_null().to_numpy())
    pairs = [near_copies(texts(table, kept)) for texts in (_conversations, _instructions)]
    left, right = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return kept[left], kept[right]


def _samples(table: pa.Table, places: Ints) -> Iterator[Sample]:
    """Yield some rows, of which only a block is Python objects at once."""
    for start in range(0, len(places), BLOCK):
        yield from from_table(table.take(pa.array(places[start : start + BLOCK])))


def _conversations(table: pa.Table, places: Ints) -> list[str]:
    return ["\n".join(turn.said for turn in row.messages) for row in _samples(table, places)]


def _instructions(table: pa.Table, places: Ints) -> list[str]:
    """Return the instruction of each row.

    The row's id takes its place if there is no instruction, or if many rows have the same one, such as a fixed request.
    """
    asked = [row.instruction for row in _samples(table, places)]
    many = Counter(asked)
    most, names = template_size(len(many)), table["id"].take(pa.array(places)).to_pylist()
    return [text if text and many[text] <= most else name for text, name in zip(asked, names, strict=True)]


def components(found: Links, level: int | None = None) -> Ints:
    """Return the connected component of each node, [nodes], without links of rows with more than `level` parents."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    taken = np.ones(len(found.left), np.bool_) if level is None else found.parents <= level
    ends = (found.left[taken], found.right[taken])
    size = len(found.names)
    labels = connected_components(coo_array((np.ones(len(ends[0]), np.int8), ends), (size, size)), directed=False)[1]
    return np.asarray(labels, np.int64)


def families(table: pa.Table) -> Ints:
    """Return the family of each row, [rows], numbered from 0.

    If every row has the tag `family`, this tag is the family. Else the family follows from the links.
    """
    blocks = (table["tags"].slice(start, BLOCK).to_pylist() for start in range(0, table.num_rows, BLOCK))
    named = [dict(tags).get(FAMILY) for block in blocks for tags in block]
    if table.num_rows and None not in named:
        return np.unique(np.array(named), return_inverse=True)[1]
    labels, _ = _cut(links(table), np.ones(table.num_rows, np.bool_), MOST_SHARE)
    return np.unique(labels[: table.num_rows], return_inverse=True)[1]


def _cut(found: Links, usable: Bools, share: float) -> tuple[Ints, int]:
    """Return the component of each node, and the largest number of parents with which a row keeps its links."""
    levels = sorted({*found.parents.tolist(), 0}, reverse=True)
    for level in levels:
        labels = components(found, level)
        _, sizes = np.unique(labels[: len(usable)][usable], return_counts=True)
        if len(sizes) > 1 and (level <= 1 or sizes.max() <= max(1, share * usable.sum())):
            break
    return labels, level


def split(table: pa.Table, usable: Bools, share: float) -> Split:
    """Return which rows are held out, so that no row trained on is a parent, a child or a near copy of a held-out one.

    The random number of a family depends only on its members. So rows without relatives keep their side when the
    dataset grows.

    Args:
        table: all rows of a dataset.
        usable: [rows] whether a row can be trained on; the other rows only link rows.
        share: share of the usable rows to hold out.

    Raises:
        JobError: when fewer than two rows are usable, or all are near copies of each other.
    """
    if usable.sum() < 2:
        raise JobError(
            f"train.validation: {int(usable.sum())} of {len(usable)} rows can be used, must be at least 2, one to hold "
            "out; generate more, select with a larger budget, or give validation samples of their own"
        )
    found = links(table)
    labels, level = _cut(found, usable, share)
    sizes = np.bincount(labels[: table.num_rows][usable], minlength=int(labels.max(initial=0)) + 1)
    if np.count_nonzero(sizes) < 2:
        raise JobError(
            f"train.validation: all {int(usable.sum())} rows are near copies of each other, so none can be held out; "
            "give validation samples of their own (train.validation = a file)"
        )
    return _split(found, level, (labels, sizes), usable, share)


def _split(found: Links, level: int, known: tuple[Ints, Ints], usable: Bools, share: float) -> Split:
    (labels, sizes), rows = known, len(usable)
    kin = _kin(found, level, labels[:rows], usable)
    lots = _lots(found.names, labels, sizes)
    cost = np.bincount(labels[kin[0]], minlength=len(sizes))
    order = np.lexsort((lots, cost)) if kin[0].size else np.argsort(lots, kind="stable")
    wanted, chosen = share * usable.sum(), list[int]()
    most = max(MOST_SHARES * wanted, sizes[sizes > 0].min())
    for family in order.tolist():
        total = sizes[chosen].sum()
        enough = total >= wanted if kin[0].size else bool(chosen) and lots[family] >= share
        if enough:
            break
        if sizes[family] > 0 and total + sizes[family] <= min(most, usable.sum() - 1):
            chosen.append(family)
    held = usable & np.isin(labels[:rows], chosen)
    left_out = np.zeros(rows, np.bool_)
    left_out[kin[1][held[kin[0]]]] = True
    left_out &= usable & ~held
    named = np.unique(labels[:rows], return_inverse=True)[1]
    return Split(held, left_out, named, _relatives(found, held, usable & ~held & ~left_out))


def folds(table: pa.Table, usable: Bools, count: int) -> list[Split]:
    """Return the divisions of a cross-validation: each usable row is held out in exactly one of them.

    The largest families are given out first, each to the fold with the fewest rows, so the folds have about one size.

    Args:
        table: all rows of a dataset.
        usable: [rows] whether a row can be trained on; the other rows only link rows.
        count: number of folds.

    Raises:
        JobError: when there are fewer families than folds.
    """
    found, rows = links(table), table.num_rows
    labels, level = _cut(found, usable, 1 / count)
    sizes = np.bincount(labels[:rows][usable], minlength=int(labels.max(initial=0)) + 1)
    if np.count_nonzero(sizes) < count:
        raise JobError(
            f"train.folds: {count}, but the {int(usable.sum())} rows are only {np.count_nonzero(sizes)} families, must "
            "be at most as many; lower it, or generate more"
        )
    lots = _lots(found.names, labels, sizes)
    fold, totals = np.full(len(sizes), -1), np.zeros(count, np.int64)
    for family in np.lexsort((lots, -sizes)).tolist():
        if sizes[family]:
            fold[family] = int(totals.argmin())
            totals[fold[family]] += sizes[family]
    kin = _kin(found, level, labels[:rows], usable)
    named = np.unique(labels[:rows], return_inverse=True)[1]
    made = []
    for number in range(count):
        held = usable & (fold[labels[:rows]] == number)
        left_out = np.zeros(rows, np.bool_)
        left_out[kin[1][held[kin[0]]]] = True
        left_out &= usable & ~held
        made.append(Split(held, left_out, named, _relatives(found, held, usable & ~held & ~left_out)))
    return made


def _kin(found: Links, level: int, labels: Ints, usable: Bools) -> tuple[Ints, Ints]:
    """Return the pairs of usable rows that are parent and child in different families; each pair in both orders."""
    rows = len(labels)
    across = (found.parents > level) & (found.right < rows)
    left, right = found.left[across], found.right[across]
    both = usable[left] & usable[right] & (labels[left] != labels[right])
    left, right = left[both], right[both]
    return np.concatenate([left, right]), np.concatenate([right, left])


def _lots(names: Sequence[str], labels: Ints, sizes: Ints) -> NDArray[np.float64]:
    """Return the random number of each family, in [0, 1); 1 for a family without usable rows.

    It depends only on the name that comes first in the alphabet among the names of the family's nodes.
    """
    lots, least = np.ones(len(sizes)), dict[int, str]()
    for name, label in zip(names, labels.tolist(), strict=True):
        if sizes[label] and (label not in least or name < least[label]):
            least[label] = name
    for label, name in least.items():
        lots[label] = lot(name)
    return lots


def lot(name: str) -> float:
    """Return a random number in [0, 1) that depends only on a name."""
    return int(ids.digest("holdout", name)[:12], 16) / 16**12


def _relatives(found: Links, held: Bools, trained: Bools) -> int:
    """Count the held-out rows that share a parent with a row trained on."""
    of_parents = found.parents > 0
    child, parent = found.left[of_parents], found.right[of_parents]
    shared = np.isin(parent, parent[trained[child]])
    return len(np.unique(child[shared & held[child]]))


def descendants(table: pa.Table, ancestors: Sequence[str]) -> Bools:
    """Return which rows have one of these ids or descend from one, directly or through other rows, [rows]."""
    children: dict[str, list[int]] = {}
    names = table["id"].to_pylist()
    for row, parents in enumerate(table["parents"].to_pylist()):
        for parent in parents:
            children.setdefault(parent, []).append(row)
    found = np.isin(np.array(names, np.object_), list(ancestors))
    todo = [*ancestors]
    while todo:
        for row in children.get(todo.pop(), ()):
            if not found[row]:
                found[row] = True
                todo.append(names[row])
    return found


def near_to(table: pa.Table, usable: Bools, others: Sequence[pa.Table]) -> Bools:
    """Return which usable rows are near copies of a kept row of the other tables, [rows]."""
    rows = table.num_rows
    left, right = near_rows(pa.concat_tables([table.select(table.schema.names), *others]))
    across = (left < rows) != (right < rows)
    found = np.zeros(rows, np.bool_)
    found[np.minimum(left, right)[across]] = True
    return found & usable
