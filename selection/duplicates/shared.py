"""Blocks at the beginning of texts that many texts share; texts are compared without them, by their own content.

Instructions often begin with a prompt, a tool description or a template inside the user's turn. After 240 shared words
all texts look alike, so such a block is left out before texts are compared or embedded. There are two passes: one finds
the blocks in a sample of the texts, the other finds where each text's own content begins.

Source: the problem is measured for verified MinHash and for embeddings (of 10,000 different texts after one prompt of
120 words, 99.97 % and 98.8 % were taken for copies); the method is ours.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from gristmill.selection.data.columns import Int
from gristmill.selection.duplicates.groups import Key
from gristmill.selection.duplicates.normal import HALF, ODD, Bytes, buffers, each, mix
from gristmill.selection.kernels import kernel

SAMPLE = 16_384
"""Number of texts in the sample. If 1.2 of a thousand texts have a block, it is in 20 texts of the sample."""
LEAST = 20
"""A block is shared if at least this many texts of the sample have it."""
BLOCK = 8
"""Number of units (words, Chinese characters) of the shortest block. Longer blocks are searched in steps of this
size."""
DEEPEST = 1024
"""Most units of a block; the units after it count as the text's own."""
SAME = 0.9
"""A block continues with the next unit as long as at least this share of its texts has the same next unit."""
PAIRS, ALIKE = 32, 0.5
"""`PAIRS` is the number of pairs of texts that are compared after a block, and `ALIKE` the least similarity of copies.

`ALIKE` is also a share: if at least this share of the texts are copies of frequent texts, the block is no shared block.
"""
SPACE = np.uint8(32)


class Blocks(NamedTuple):
    """The shared blocks, each as a hash of all its bytes except white space."""

    hashes: Key
    """[blocks] hashes of the blocks, ascending."""
    begun: Key
    """Ascending hashes of the first unit of each block. A text that begins with another unit is not read further."""
    deepest: int
    """Number of units of the longest block."""


def find(batches: Iterable[tuple[Int, pa.LargeStringArray]], num: int) -> Blocks:
    """Return the blocks with which many of `num` texts begin; `batches` yields (rows, their texts) in any order.

    A block is shared if at least 20 texts of the sample begin with it and then differ. They differ if the median
    Jaccard similarity of the rest is below a half, and fewer than half of the texts are copies of frequent texts. So if
    a text occurs a thousand times with small edits, its beginning is no shared block. Every (num / 16,384)-th row is in
    the sample.
    """
    stride = -(-num // SAMPLE)
    places, found = [np.empty(0, np.int64)], [pa.array([], pa.large_string())]
    for rows, texts in batches:
        places.append(rows[rows % stride == 0])
        found.append(texts.filter(pa.array(rows % stride == 0)))
    order = np.argsort(np.concatenate(places))
    looked = pa.concat_arrays(found).take(pa.array(order))
    first = _marks(looked, BLOCK)
    able = np.flatnonzero(first.begin[1:] - first.begin[:-1] == BLOCK)
    group, count = _groups(first.prefix[first.begin[able] + BLOCK - 1])
    return _blocks(_marks(looked.take(pa.array(able[count[group] >= LEAST])), DEEPEST + BLOCK))


def starts(texts: pa.LargeStringArray, blocks: Blocks) -> Int:
    """Return [n] the byte at which the own content of each text begins; 0 for a text without a shared block.

    A block that is less than half of the text counts as own content. It cannot make different texts look alike, and
    without it an edit in the block would separate copies. A text that is only a block also begins at 0.
    """
    found = np.zeros(len(texts), np.int64)
    if len(blocks.hashes):

        def work(rows: slice, some: pa.LargeStringArray) -> None:
            ends, data = buffers(some)
            _starts(data, ends, (blocks.hashes, blocks.begun), blocks.deepest, found[rows])

        each(texts, work)
    return found


def own_texts(texts: pa.LargeStringArray, begin: Int) -> pa.LargeStringArray:
    """Return each text from its byte `begin` on."""
    if not begin.any():
        return texts
    ends, data = buffers(texts)
    places = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(ends[1:] - ends[:-1] - begin, out=places[1:])
    tails = np.empty(places[-1], np.uint8)
    _copy_tails(data, ends[1:], places, tails)
    return pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(places), pa.py_buffer(tails))


class Marks(NamedTuple):
    """The units of [n] texts, one text after the other."""

    prefix: Key
    """[units] hash of the text from its beginning up to the end of each unit."""
    unit: Key
    """[units] hash of each unit alone."""
    begin: Int
    """[n + 1] index at which the units of each text begin."""


def _marks(texts: pa.LargeStringArray, most: int) -> Marks:
    ends, data = buffers(texts)
    size = np.empty(len(texts), np.int64)
    _count(data, ends, most, size)
    begin = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(size, out=begin[1:])
    made = Marks(np.empty(begin[-1], np.uint64), np.empty(begin[-1], np.uint64), begin)
    _mark(data, ends, begin, made.prefix, made.unit)
    return made


def _blocks(marks: Marks) -> Blocks:
    """Return the shared blocks; each step goes one block deeper into the texts that still have a frequent beginning."""
    begin, size = marks.begin, marks.begin[1:] - marks.begin[:-1]
    alive, bound = np.arange(len(size)), np.zeros(len(size), np.int64)
    whole, copies = _groups(marks.prefix[np.maximum(begin[1:], 1) - 1]) if len(marks.prefix) else (alive, size)
    hot = copies[whole] >= LEAST
    found: dict[int, int] = {}
    deepest = 0
    for depth in range(BLOCK, DEEPEST, BLOCK):
        alive = alive[size[alive] > depth]
        if not len(alive):
            break
        group, count = _groups(marks.prefix[begin[alive] + depth - 1])
        onward, going = _groups(marks.prefix[begin[alive] + np.minimum(depth + BLOCK, size[alive]) - 1])
        parting = going[onward] < LEAST  # the others have a longer block, or are one text
        for block in np.flatnonzero(np.bincount(group[parting], minlength=len(count)) >= LEAST):
            members = alive[group == block]
            if bound[members[0]] and depth - bound[members[0]] < BLOCK:
                continue  # many texts continue with the same words after a block: "What is the"
            if (
                hot[members].mean() < ALIKE
                and _median_similarity(marks, alive[parting & (group == block)], depth) < ALIKE
            ):
                end, name = _extend(marks, members, depth)
                bound[members], found[name] = end, int(marks.prefix[begin[members[0]]])
                deepest = max(deepest, end)
        alive = alive[(count >= LEAST)[group]]
    return Blocks(np.array(sorted(found), np.uint64), np.array(sorted(set(found.values())), np.uint64), deepest)


def _groups(hashes: Key) -> tuple[Int, Int]:
    """Return ([n] a number for each hash, equal for equal hashes; [numbers] how often each number occurs)."""
    _, group, count = np.unique(hashes, return_inverse=True, return_counts=True)
    return group, count


def _median_similarity(marks: Marks, rows: Int, depth: int) -> float:
    """Return the median Jaccard similarity of the units after `depth` units, over pairs of some of these texts."""
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), PAIRS + 1)).astype(np.int64)]
    sets = [np.unique(marks.unit[marks.begin[row] + depth : marks.begin[row + 1]]) for row in some]
    both = [len(np.intersect1d(a, b, assume_unique=True)) for a, b in pairwise(sets)]
    return float(np.median([n / (len(a) + len(b) - n) for n, (a, b) in zip(both, pairwise(sets), strict=True)]))


def _extend(marks: Marks, members: Int, depth: int) -> tuple[int, int]:
    """Return (units, hash) of a block that ends after `depth` units, or later, as long as its texts agree."""
    begin = marks.begin
    end, name = depth, int(marks.prefix[begin[members[0]] + depth - 1])
    for further in range(depth + 1, depth + BLOCK):
        longer = members[begin[members + 1] - begin[members] > further]
        hashes, counts = np.unique(marks.prefix[begin[longer] + further - 1], return_counts=True)
        if not len(counts) or counts.max() < SAME * len(members):
            break
        end, name = further, int(hashes[counts.argmax()])
    return end, name


@kernel
def _next(data: Bytes, at: int, end: int) -> int:
    """Return the end of the next unit, which begins at byte `at` or after white space; -1 if there is no unit."""
    while at < end and data[at] <= SPACE:
        at += 1
    if at >= end:
        return -1
    if _wide(data[at]):
        return min(end, at + 3)
    while at < end and data[at] > SPACE and not _wide(data[at]):
        at += 1
    return at


@kernel
def _wide(byte: int) -> bool:
    """Say whether a byte of UTF-8 begins a three-byte East Asian character, which is a unit by itself."""
    return 0xE3 <= byte <= 0xE9 or byte == 0xEF


@kernel
def _hash(data: Bytes, begin: int, end: int, found: np.uint64) -> np.uint64:
    """Mix the bytes [begin, end) into a hash."""
    for at in range(begin, end):
        found = (found ^ np.uint64(data[at])) * ODD
        found ^= found >> HALF
    return found


@kernel
def _count(data: Bytes, ends: Int, most: int, size: Int) -> None:
    """Write the number of units of each text, at most `most`."""
    for row in range(len(size)):
        count, at = 0, _next(data, ends[row], ends[row + 1])
        while at >= 0 and count < most:
            count += 1
            at = _next(data, at, ends[row + 1])
        size[row] = count


@kernel
def _mark(data: Bytes, ends: Int, begin: Int, prefix: Key, unit: Key) -> None:
    """Write both hashes of every unit; `found` is the hash of the text so far, so equal prefixes have equal hashes."""
    for row in range(len(begin) - 1):
        found, at = np.uint64(0), ends[row]
        for place in range(begin[row], begin[row + 1]):
            stop = _next(data, at, ends[row + 1])
            while data[at] <= SPACE:
                at += 1
            found = _hash(data, at, stop, found)
            prefix[place], unit[place] = mix(found), _hash(data, at, stop, np.uint64(0))
            at = stop


@kernel
def _starts(data: Bytes, ends: Int, blocks: tuple[Key, Key], deepest: int, out: Int) -> None:
    """Write the byte at which each text's own content begins.

    `found` is the hash of the text so far, without white space. `block` is the number of units of the longest block
    that has this hash, and `begin` is the byte after it. If no block begins with the first unit of a text, the text is
    not read further.
    """
    for row in range(len(out)):
        found, at, count, block, begin = np.uint64(0), ends[row], 0, 0, 0
        while count <= 2 * deepest:  # a longer block would still be less than half of the text
            stop = _next(data, at, ends[row + 1])
            if stop < 0:
                break
            count += 1
            if count <= deepest:
                while data[at] <= SPACE:
                    at += 1
                found = _hash(data, at, stop, found)
                if count == 1 and not _contains(blocks[1], mix(found)):
                    break
                if count >= BLOCK and _contains(blocks[0], mix(found)):
                    block, begin = count, stop
            at = stop
        if block and block < count <= 2 * block:
            while data[begin] <= SPACE:
                begin += 1
            out[row] = begin - ends[row]


@kernel
def _contains(values: Key, value: np.uint64) -> bool:
    """Say whether a value is among ascending values."""
    place = np.searchsorted(values, value)
    return bool(place < len(values) and values[place] == value)


@kernel
def _copy_tails(data: Bytes, ends: Int, places: Int, out: Bytes) -> None:
    """Copy the last bytes of each text to `out`; text i fills the bytes from `places[i]` to `places[i + 1]`."""
    for row in range(len(places) - 1):
        size = places[row + 1] - places[row]
        out[places[row] : places[row + 1]] = data[ends[row] - size : ends[row]]
