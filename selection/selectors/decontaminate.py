"""Decontamination: drop samples that contain items of evaluation sets, found by n-grams and, if wanted, by vectors."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import PurePath
from random import Random
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from gristmill.cluster.io.ingest import Source
from gristmill.cluster.text.keys import key
from gristmill.selection.contracts import Choice, Cost, Selector, VectorsOf, View
from gristmill.selection.data.columns import Ids, Int
from gristmill.selection.data.matrix import Float32, Float64, Matrix
from gristmill.selection.duplicates.ngrams import Table, UInt64, Units, slices, units, wholes, windows, without_numbers

REASONS = (
    "decontaminate: shares n-grams with an evaluation item",
    "decontaminate: asks the same as an evaluation item",
    "decontaminate: means the same as an evaluation item",
)
TEMPLATE_ITEMS, SMALL_SET, TEMPLATE_SHARE = 2, 10, 0.01
"""An n-gram belongs to the template of its set, and identifies no item, if it is in more items than the first number
and in more than the share `TEMPLATE_SHARE` of the items. In a set with fewer items than `SMALL_SET`, an n-gram that is
in two items belongs to the template."""
MANY, HELD, SLOT = 10, 0.9, 0.2
"""What many samples share with one question is a template if three things are true. At least `MANY` samples reach the
threshold for the item. Some n-grams of the question are each in at least the share `HELD` of these samples. The other
n-grams of the question include a run of at least the share `SLOT` of all of them."""
FEWEST = 5
"""Least number of n-grams that a sample and an item must share. A question with fewer n-grams is compared as a
whole."""
WORDS_CHARS = 160
"""Most characters of the common words that are written to the tag `overlap`."""
ROUNDING = 1e-6
"""The float32 product of two equal unit vectors can be less than 1 by a few of its last digits."""
TILE_ROWS = 8192


class Decontaminate(Selector):
    """Drop a sample that contains an evaluation item: enough of its n-grams, or its whole question if that is short.

    The score `contamination` is the share of the item's n-grams that the sample's turns contain. There are two shares:
    of the question, and of question and answer together. The larger one counts. So a copied question is found even with
    another answer, and a copied solution even with a reworded question. N-grams that many items of a set share belong
    to its template and do not count. If ten samples have the beginning or end of one item without the rest, this part
    does not count either. `lost_to` is the item. The tag `evaluation_set` names the item's set, and `overlap` holds the
    common words.

    The rules for copies do not apply here. All numbers count as equal, because an item with another number is still a
    leak. So is an item with other names, with edited words or with half of its question, see `benchmarks/leaks.json`.

    Source: Brown et al. 2020, arXiv:2005.14165, appendix C (n-grams); Lambert et al. 2024, Tulu 3, arXiv:2411.15124,
    section 3.2 (a share of the item, instead of any one hit; the questions). Departures: n-grams have 4 words instead
    of 8 to 13, and two fifths of them must be shared instead of one or half. With 13 words and half of the n-grams,
    only 1 to 19 % of lightly edited items are found. All numbers count as one. The share is of n-grams, not of covered
    tokens. Questions with fewer than 5 n-grams are compared as a whole, where others skip them. Chinese counts by
    characters.
    """

    kind: Literal["decontaminate"] = "decontaminate"
    revision: ClassVar[int] = 3  # text that many samples share with one item is a template
    example: ClassVar[Mapping[str, Any]] = {"sets": ["exam.jsonl"]}
    sets: tuple[Source, ...] = Field(min_length=1)
    """The evaluation sets: each is a file, or a table with path and format as for the input."""
    ngram: int = Field(default=4, ge=2)
    """Number of words, or of Chinese characters, in an n-gram."""
    min_overlap: float = Field(default=0.4, gt=0, le=1)
    """Least share of an item's n-grams for which a sample is dropped."""
    min_cosine: float | None = Field(default=None, gt=0, le=1)
    """Least cosine to an item for which a sample is dropped too. The score `evaluation_cosine` is then the highest
    cosine of a sample to any item. By default no text is embedded for this step."""

    def sources(self) -> dict[str, Source]:
        """Return the evaluation sets, each named by its file, with a number if two files have the same name."""
        found: dict[str, Source] = {}
        for source in self.sets:
            stem = PurePath(source.path[0]).name.partition(".")[0] or "set"
            same = sum(name == stem or name.rpartition("-")[0] == stem for name in found)
            found[f"{stem}-{same + 1}" if same else stem] = source
        return found

    def wants(self, job: VectorsOf) -> VectorsOf | None:
        """Return the job's vectors if `min_cosine` is set."""
        return None if self.min_cosine is None else job

    def cost(self, num: int, dim: int) -> Cost:
        """Estimate the cost for samples of 80 words and 5,000 items."""
        return Cost(num * (2.6e-5 + (2.1e-7 * dim if self.min_cosine else 0)), 200 * 2**20 + 64 * num)

    def pick(self, view: View, rng: Random) -> Choice:
        """Return the choice; it needs no randomness."""
        del rng
        names = list(self.sources())
        sets = [view.beside[name] for name in names]
        whole = index_of(sets, self.ngram)
        index = without_templates(view, whole, self.min_overlap)
        found = overlaps(view, index, self.min_overlap)
        reason = np.where(found.score >= self.min_overlap, np.where(found.equal, 1, 0), -1).astype(np.int64)
        item, scores = found.item, {"contamination": found.score}
        if self.min_cosine is not None:
            cosine, near = nearest(view.unit(self.kind), [other.unit(self.kind) for other in sets])
            also = (reason < 0) & (cosine >= self.min_cosine - ROUNDING)
            reason[also], item = 2, np.where(also, near, item)
            scores["evaluation_cosine"] = cosine
        gone = reason >= 0
        item = np.where(gone, item, -1)
        lost_to = np.append(index.ids, np.array([b""], "S32"))[item]
        said = np.array([*names, None], np.object_)[np.append(index.sets, len(names))[item]]
        figures = {
            f"items of {name} found": f"{len(np.unique(item[gone & (said == name)])):,} of {len(other):,}"
            for name, other in zip(names, sets, strict=True)
        }
        if len(index.grams) < len(whole.grams):
            figures["n-grams of single items taken for a template"] = f"{len(whole.grams) - len(index.grams):,}"
        tags = {"evaluation_set": said.tolist(), "overlap": [found.words.get(row) for row in range(len(view))]}
        return Choice(reason, REASONS, lost_to, scores, tags, figures=figures)


class NgramIndex(NamedTuple):
    """The n-grams of k evaluation items by part; part 2 i is the question of item i, and part 2 i + 1 its answer."""

    ids: Ids
    """[k] id of each item."""
    sets: Int
    """[k] evaluation set of each item."""
    size: int
    """Units in an n-gram."""
    table: Table
    """The hashes of all n-grams."""
    ends: Int
    """[len(table.keys) + 1] index in `parts` at which the parts that have an n-gram begin."""
    parts: Int
    grams: Int
    """The n-grams of each item, one item after the other, as places in the table."""
    begins: Int
    """[k + 1] index in `grams` at which the n-grams of each item begin."""
    totals: Int
    """[2 k] number of n-grams of each part."""
    places: Int
    """For each n-gram of `grams`, its place in the question of its item; -1 if it is in the answer."""
    questions: pa.LargeStringArray
    """[k] question of each item."""
    whole: UInt64
    """[k] a hash of each question."""
    short: dict[str, int]
    """For questions that are too short for n-grams: the comparison key of each, and the first item with that
    question."""
    short_hashes: Table
    """A hash of each of these short questions, by its units."""


class Overlaps(NamedTuple):
    """For each of n samples, the item whose share in the sample is the largest."""

    score: Float32
    """[n] share of the item's n-grams; NaN for a sample without any n-gram of an item."""
    item: Int
    """[n] number of the item among all items; -1 for a sample that shares no n-gram with an item."""
    equal: NDArray[np.bool_]
    """[n] whether the item's question is short and the sample's instruction equals it."""
    words: dict[int, str]
    """For the row of each sample that reaches the threshold, the longest run of words that it shares with its item."""


def index_of(sets: Sequence[View], ngram: int) -> NgramIndex:
    """Return the index of evaluation sets; `Decontaminate` explains which n-grams count."""
    names = np.concatenate([view.ids for view in sets])
    of_set = np.repeat(np.arange(len(sets)), [len(view) for view in sets])
    questions, answers = (pa.concat_arrays([view.texts(part) for view in sets]) for part in ("instruction", "answer"))
    hashes, parts, places, whole = _grams(questions, answers, ngram)
    order = np.lexsort((places, parts, hashes))
    new = np.ones(len(hashes), np.bool_)
    hashes, parts, places = hashes[order], parts[order], places[order]
    new[1:] = (hashes[1:] != hashes[:-1]) | (parts[1:] != parts[:-1])
    new[new] = ~_template(hashes[new], of_set[parts[new] // 2], np.bincount(of_set, minlength=len(sets)))
    return _indexed((names, of_set, ngram, questions, whole), hashes[new], parts[new], places[new])


def _indexed(
    items: tuple[Ids, Int, int, pa.LargeStringArray, UInt64], hashes: UInt64, parts: Int, places: Int
) -> NgramIndex:
    """Return the index of these n-grams of items; the n-grams are in ascending order of (hash, part)."""
    names, of_set, size, questions, whole = items
    keys, firsts = np.unique(hashes, return_index=True)
    totals = np.bincount(parts, minlength=2 * len(names))
    short: dict[str, int] = {}
    silent = np.flatnonzero(totals[::2] < FEWEST)
    for item in silent.tolist():
        short.setdefault(key(questions[item].as_py()), item)
    ends = np.append(firsts, len(hashes))
    by_item = np.argsort(parts // 2, kind="stable")
    grams = np.repeat(np.arange(len(keys)), np.diff(ends))[by_item]
    begins = np.searchsorted(parts[by_item] // 2, np.arange(len(names) + 1))
    held = (Table.of(keys), ends, parts, grams, begins, totals)
    at = np.where(parts[by_item] % 2, -1, places[by_item])
    return NgramIndex(names, of_set, size, *held, at, questions, whole, short, Table.of(np.unique(whole[silent])))


def without_templates(view: View, index: NgramIndex, min_overlap: float) -> NgramIndex:
    """Return the index without the n-grams of templates that samples share with a single item.

    The samples are read once. `MANY` says what a template is.
    """
    held, num = np.zeros(len(index.grams), np.int64), np.zeros(len(index.ids), np.int64)
    for _, (some, many) in view.map(partial(_shared_grams, index, min_overlap), "conversation"):
        held += some
        num += many
    gone = np.zeros(len(held), np.bool_)
    for item in np.flatnonzero(num >= MANY).tolist():
        every = np.arange(index.begins[item], index.begins[item + 1])
        asked = every[index.places[every] >= 0]
        asked = asked[np.argsort(index.places[asked])]
        common = held[asked] >= HELD * num[item]
        runs = np.diff(np.flatnonzero(np.diff(~common, prepend=False, append=False)))[::2]
        longest = FEWEST if len(runs) == 1 else 2 * index.size  # a changed name changes `size` n-grams
        if runs.max(initial=0) >= max(longest, SLOT * len(asked)):
            gone[asked[common]] = True
    if not gone.any():
        return index
    by_item = np.argsort(index.parts // 2, kind="stable")
    left = np.sort(by_item[~gone])
    places = np.empty(len(by_item), np.int64)
    places[by_item] = index.places
    hashes = np.repeat(index.table.keys, np.diff(index.ends))
    known = (index.ids, index.sets, index.size, index.questions, index.whole)
    return _indexed(known, hashes[left], index.parts[left], places[left])


def _shared_grams(index: NgramIndex, min_overlap: float, texts: pa.LargeStringArray) -> tuple[Int, Int]:
    """Return ([grams] how many texts that contain an item have each of its n-grams; [items] how many contain it)."""
    held, num = np.zeros(len(index.grams), np.int64), np.zeros(len(index.ids), np.int64)
    for _, piece in slices(texts):
        hits = _hits(without_numbers(units(piece), piece), index)
        rows, items, share = _shares(hits, index)
        over = share >= min_overlap
        for row, item in zip(rows[over].tolist(), items[over].tolist(), strict=True):
            mine = hits.keys[slice(*np.searchsorted(hits.rows, [row, row + 1]))]
            own = slice(index.begins[item], index.begins[item + 1])
            held[own] += np.isin(index.grams[own], mine)
            num[item] += 1
    return held, num


def overlaps(view: View, index: NgramIndex, min_overlap: float) -> Overlaps:
    """Return, for each sample, the item of which it contains the largest share; of equal shares, the first item.

    The samples are read once.
    """
    score, item = np.full(len(view), np.nan, np.float32), np.full(len(view), -1, np.int64)
    equal, words = np.zeros(len(view), np.bool_), dict[int, str]()
    for rows, found in view.map(partial(_overlaps, index, min_overlap), "conversation", "instruction"):
        score[rows], item[rows], equal[rows] = found.score, found.item, found.equal
        words |= {int(rows[row]): text for row, text in found.words.items()}
    return Overlaps(score, item, equal, words)


def _overlaps(
    index: NgramIndex, min_overlap: float, texts: pa.LargeStringArray, asked: pa.LargeStringArray
) -> Overlaps:
    """Return the same as `overlaps` for some texts and their instructions."""
    score, item = np.full(len(texts), np.nan, np.float32), np.full(len(texts), -1, np.int64)
    equal, words = np.zeros(len(texts), np.bool_), dict[int, str]()
    for (start, piece), (_, questions) in zip(slices(texts), slices(asked), strict=True):
        found = without_numbers(units(piece), piece)
        hits = _hits(found, index)
        row, best, share = _best(hits, index)
        some = share > 0
        row, best, share = row[some], best[some], share[some]
        score[start + row], item[start + row] = share, best
        over = share >= min_overlap
        for local, it in zip(row[over].tolist(), best[over].tolist(), strict=True):
            words[start + local] = _words(piece[local].as_py(), local, it, (hits, found, index))
        for local, it, text in _equal(questions, index):
            at = start + local
            if not score[at] >= 1:
                score[at], item[at], equal[at] = 1, it, True
                words[at] = text[:WORDS_CHARS]
    return Overlaps(score, item, equal, words)


def nearest(samples: Matrix, sets: Sequence[Matrix]) -> tuple[Float32, Int]:
    """Return ([n] highest cosine to an item of any set, [n] the number of that item among the items of all sets).

    The cosine is NaN for a sample in a script that the encoder does not know. An item in such a script is never near.
    The cosines are computed in blocks.
    """
    cosine, item = np.full(len(samples), -1, np.float32), np.full(len(samples), -1, np.int64)
    for start, block in samples.blocks():
        here, first = slice(start, start + len(block)), 0
        for items in sets:
            for place, tile in items.blocks(TILE_ROWS):
                cosines = np.minimum(block @ tile.T, np.float32(1))
                cosines[:, ~items.known[place : place + len(tile)]] = -1
                best = cosines.argmax(axis=1)
                found = cosines[np.arange(len(block)), best]
                better = found > cosine[here]
                item[here] = np.where(better, first + place + best, item[here])
                cosine[here] = np.maximum(cosine[here], found)
            first += len(items)
    cosine[~samples.known] = np.nan
    return cosine, item


class _Hits(NamedTuple):
    """The places, by row, at which the samples of a piece contain an n-gram of an item."""

    rows: Int
    keys: Int
    """Place of the n-gram in the table of the index."""
    firsts: Int
    """Number of the unit of the sample at which the n-gram begins."""


def _grams(questions: pa.LargeStringArray, answers: pa.LargeStringArray, size: int) -> tuple[UInt64, Int, Int, UInt64]:
    """Return (hash, part and place in the part of every n-gram; a hash of each complete question)."""
    hashes, whole = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    parts, places = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for side, texts in enumerate((questions, answers)):
        for start, piece in slices(texts):
            found = units(piece)
            if not side:
                whole.append(wholes(found))
            ends, grams = windows(without_numbers(found, piece), size)
            hashes.append(grams)
            many = np.diff(ends)
            parts.append(2 * (start + np.repeat(np.arange(len(piece)), many)) + side)
            places.append(np.arange(len(grams)) - np.repeat(ends[:-1], many))
    return np.concatenate(hashes), np.concatenate(parts), np.concatenate(places), np.concatenate(whole)


def _template(hashes: UInt64, sets: Int, sizes: Int) -> NDArray[np.bool_]:
    """Return, for each n-gram, whether it is in many items of its set, and so belongs to the set's template."""
    _, gram = np.unique(hashes, return_inverse=True)
    _, of, counts = np.unique(gram * len(sizes) + sets, return_inverse=True, return_counts=True)
    most = np.maximum(np.where(sizes < SMALL_SET, 1, TEMPLATE_ITEMS), TEMPLATE_SHARE * sizes)
    template: NDArray[np.bool_] = counts[of] > most[sets]
    return template


def _hits(found: Units, index: NgramIndex) -> _Hits:
    ends, hashes = windows(found, index.size)
    keys = index.table.find(hashes)
    at = np.flatnonzero(keys >= 0)
    rows = np.searchsorted(ends, at, "right") - 1
    return _Hits(rows, keys[at].astype(np.int64), at - ends[rows])


def _best(hits: _Hits, index: NgramIndex) -> tuple[Int, Int, Float32]:
    """Return (rows, the item of which each row contains the largest share, that share)."""
    rows, items, share = _shares(hits, index)
    order = np.lexsort((items, -share, rows))
    first = order[np.unique(rows[order], return_index=True)[1]]
    return rows[first], items[first], share[first].astype(np.float32)


def _shares(hits: _Hits, index: NgramIndex) -> tuple[Int, Int, Float64]:
    """Return (rows, items, the share of the item that the row contains) of all pairs with a common n-gram."""
    pairs = np.unique(hits.rows * max(1, len(index.table.keys)) + hits.keys)  # an n-gram counts once
    rows, keys = np.divmod(pairs, max(1, len(index.table.keys)))
    many = index.ends[keys + 1] - index.ends[keys]
    held = np.repeat(rows, many)
    inside = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
    parts = index.parts[np.repeat(index.ends[keys], many) + inside]
    both, of = np.unique(held * len(index.ids) + parts // 2, return_inverse=True)
    rows, items = np.divmod(both, max(1, len(index.ids)))
    question, answer = (np.bincount(of[parts % 2 == side], minlength=len(both)) for side in (0, 1))
    whole = np.maximum(index.totals[2 * items], 1)  # a short question counts as one n-gram that is in no table
    share = np.maximum(question / whole, (question + answer) / (whole + index.totals[2 * items + 1]))
    share[question + answer < FEWEST] = 0
    return rows, items, share


def _words(text: str, row: int, item: int, known: tuple[_Hits, Units, NgramIndex]) -> str:
    """Return the longest run of words of a sample that consists only of n-grams of one item."""
    hits, found, index = known
    place = slice(*np.searchsorted(hits.rows, [row, row + 1]))
    of_item = index.grams[index.begins[item] : index.begins[item + 1]]
    mine = np.flatnonzero(np.isin(hits.keys[place], of_item)) + place.start
    mine = mine[np.argsort(hits.firsts[mine], kind="stable")]
    firsts, behind = hits.firsts[mine], hits.firsts[mine] + index.size
    new = np.flatnonzero(np.append(True, firsts[1:] > behind[:-1]))
    lengths = behind[np.append(new[1:], len(mine)) - 1] - firsts[new]
    longest = int(lengths.argmax())
    first = found.ends[row] + firsts[new[longest]]
    shared = text.encode()[found.starts[first] : found.stops[first + lengths[longest] - 1]].decode()
    return " ".join(shared.split())[:WORDS_CHARS]


def _equal(questions: pa.LargeStringArray, index: NgramIndex) -> list[tuple[int, int, str]]:
    """Return (row, item, text) of the instructions that equal a short question."""
    if not index.short:
        return []
    near = np.flatnonzero(index.short_hashes.find(wholes(units(questions))) >= 0)
    texts = ((row, questions[row].as_py()) for row in near.tolist())
    return [(row, index.short[key(text)], text) for row, text in texts if key(text) in index.short]
