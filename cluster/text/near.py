"""Near copies: texts that share most of their short runs of words. Runs that many texts have do not count."""

import re
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gristmill.cluster.text.keys import key
from gristmill.cluster.text.scripts import UNSPACED

MIN_OVERLAP = 0.6
"""Least share of the smaller text's runs that near copies have in common. One edited word in ten leaves 0.8 of them."""
FEWEST = 6
"""Fewest runs of a text that is compared by its runs, without those of templates. A text with fewer runs has only equal
copies."""
TEMPLATE_SHARE, TEMPLATE_LEAST, TEMPLATE_MOST = 0.02, 10, 100
"""A run that more than this share of the texts have is part of a template and does not count. This limit is at least
`TEMPLATE_LEAST` and at most `TEMPLATE_MOST` texts."""
AT_ONCE = 1 << 20
"""About the number of candidates that are compared at a time."""
_UNIT = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
_ODD = np.uint64(0x9E3779B97F4A7C15)
Ints = NDArray[np.int64]


class Pairs(NamedTuple):
    """Pairs of near copies, as places of texts in a list. Each pair is there once, with `left` before `right`."""

    left: Ints
    right: Ints


class _Runs(NamedTuple):
    """The distinct runs of each text, without runs of templates. The runs of one text are sorted, the rarest first."""

    texts: Ints
    runs: Ints
    ends: Ints
    """Places where the runs of each text begin, and the end of the last ones, [n + 1]."""


def near_copies(texts: Sequence[str]) -> Pairs:
    """Return the pairs of texts that are near copies of each other, or one of which contains the other.

    A run is two words, or three characters of a script without spaces, that follow each other in the text's key
    (`keys.key`). Two texts are near copies if they share 0.6 of the runs of the text with fewer runs, or if their keys
    are equal. Runs of templates do not count. These are the runs that are in more of the different texts than
    `template_size` says: 2 % of them, but at least 10 and at most 100 texts. So the pairs of a text are missed if it
    has more changed copies than that. Each of several equal texts is paired with the first of them. It takes about a
    microsecond of CPU for each character.

    Source: Chaudhuri, Ganti & Kaushik 2006, A primitive operator for similarity joins in data cleaning, ICDE, section
    4, for the candidates by prefixes of the rarest runs. They lose no pair. Departures: the share is of the smaller
    text.
    """
    firsts: dict[str, int] = {}
    plain = [key(text) for text in texts]
    first = np.array([firsts.setdefault(text, place) for place, text in enumerate(plain)], np.int64)
    copies = np.flatnonzero(first != np.arange(len(texts)))
    places = np.fromiter(firsts.values(), np.int64, len(firsts))
    left, right = _joined(_runs(list(firsts)))
    return Pairs(np.concatenate([first[copies], places[left]]), np.concatenate([copies, places[right]]))


def template_size(count: int) -> float:
    """Return the most texts, out of `count` different ones, that may have a run before it counts as a template's."""
    return min(max(TEMPLATE_LEAST, TEMPLATE_SHARE * count), TEMPLATE_MOST)


def _runs(texts: Sequence[str]) -> _Runs:
    """Return the runs of different texts."""
    known: dict[str, int] = {}
    units = [[known.setdefault(unit, len(known)) for unit in _UNIT.findall(text)] for text in texts]
    lengths = np.array([len(found) for found in units], np.int64)
    flat = np.fromiter(chain.from_iterable(units), np.int64, int(lengths.sum()))
    row = np.repeat(np.arange(len(texts)), lengths)
    wide = np.array([len(unit) == 1 and not unit.isascii() and bool(_alone(unit)) for unit in known], np.bool_)
    hashes = (flat[:-1].astype(np.uint64) + np.uint64(1)) * _ODD ^ flat[1:].astype(np.uint64)
    inside = row[:-1] == row[1:]
    if len(flat) > 2:
        three = wide[flat[:-2]] & wide[flat[1:-1]] & (row[:-2] == row[2:])
        longer = (hashes[:-1] * _ODD) ^ flat[2:].astype(np.uint64)
        hashes[:-1] = np.where(three, longer, hashes[:-1])
    return _ranked(row[:-1][inside], hashes[inside], len(texts))


def _alone(unit: str) -> bool:
    return re.match(rf"[{UNSPACED}]", unit) is not None


def _ranked(row: Ints, hashes: NDArray[np.uint64], count: int) -> _Runs:
    """Return the distinct runs of each text, the rarest first.

    Runs of templates are left out, and so are the runs of a text with fewer than `FEWEST` other runs.
    """
    _, runs, texts_with = np.unique(hashes, return_inverse=True, return_counts=True)
    both = np.unique(row * (len(texts_with) or 1) + runs)  # a run counts once a text
    row, runs = np.divmod(both, len(texts_with) or 1)
    having = np.bincount(runs, minlength=len(texts_with))
    own = having[runs] <= template_size(count)
    row, runs = row[own], runs[own]
    many = np.bincount(row, minlength=count) >= FEWEST
    row, runs = row[many[row]], runs[many[row]]
    order = np.lexsort((runs, having[runs], row))
    return _Runs(row[order], runs[order], np.searchsorted(row[order], np.arange(count + 1)))


def _joined(found: _Runs) -> Pairs:
    """Return the pairs of different texts that share enough runs.

    Of the `size` runs of the smaller text at most `size - least` may be missing in the other text. So the other text
    has one of its first `size - least + 1` runs. These are its rarest runs, and most of them are in no other text.
    """
    texts, runs, ends = found
    size = np.diff(ends)
    prefix = size - np.ceil(MIN_OVERLAP * size - 1e-9).astype(np.int64) + 1
    probes = np.flatnonzero(np.arange(len(texts)) - ends[texts] < prefix[texts])
    by_run = np.argsort(runs, kind="stable")
    begin, end = (np.searchsorted(runs[by_run], runs[probes], side) for side in ("left", "right"))
    pairs = [np.empty(0, np.int64)]
    for part in _parts(end - begin):
        mine = np.repeat(texts[probes[part]], (end - begin)[part])
        other = texts[by_run[_spread(begin[part], end[part])]]
        smaller = (size[mine] < size[other]) | ((size[mine] == size[other]) & (mine < other))
        pairs.append(np.unique(mine[smaller] * len(size) + other[smaller]))
    smaller, larger = np.divmod(np.unique(np.concatenate(pairs)), len(size) or 1)
    near = _shared(found, smaller, larger) >= MIN_OVERLAP * size[smaller] - 1e-9
    return Pairs(np.minimum(smaller, larger)[near], np.maximum(smaller, larger)[near])


def _shared(found: _Runs, smaller: Ints, larger: Ints) -> Ints:
    """Return the number of common runs of each pair of texts."""
    texts, runs, ends = found
    kinds = int(runs.max(initial=0)) + 1
    held = np.sort(texts * kinds + runs)
    size = np.diff(ends)[smaller]
    counts = np.zeros(len(smaller), np.int64)
    for part in _parts(size):
        pair = np.repeat(np.arange(part.start, part.stop), size[part])
        asked = larger[pair] * kinds + runs[_spread(ends[smaller[part]], ends[smaller[part] + 1])]
        place = np.minimum(np.searchsorted(held, asked), len(held) - 1)
        counts += np.bincount(pair[held[place] == asked], minlength=len(counts))
    return counts


def _parts(sizes: Ints) -> list[slice]:
    """Return slices of the list of sizes, each with a sum of about `AT_ONCE`."""
    total = np.cumsum(sizes)
    cuts = np.searchsorted(total, np.arange(AT_ONCE, int(total[-1]) if len(total) else 0, AT_ONCE))
    edges = np.unique(np.concatenate([[0], cuts, [len(sizes)]]))
    return [slice(a, b) for a, b in pairwise(edges.tolist())]


def _spread(begin: Ints, end: Ints) -> Ints:
    """Return the whole numbers in all ranges from `begin` to `end`, without `end`, one range after the other."""
    sizes = end - begin
    return np.repeat(begin - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())
