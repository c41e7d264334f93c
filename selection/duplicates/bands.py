"""Pairs of texts with similar signatures: candidates agree in a band, and are verified by their complete signatures."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float32
from gristmill.selection.data.placed import Placed
from gristmill.selection.duplicates.groups import Key
from gristmill.selection.duplicates.normal import HALF, ODD
from gristmill.selection.duplicates.shingles import LOW, Sketch, Slots
from gristmill.selection.kernels import kernel

CHANCE = 1 / 256
"""Share of slots that are equal by chance in the signatures of two texts with nothing in common."""
AT_ONCE = 8
"""Number of bands that are packed in one pass over the signatures; each band takes 8 bytes for each row."""
SPLIT_ROWS, MOST_SPLIT = 1 << 20, 8
"""Keys are exchanged in 2 pieces above this number of rows, in 4 above twice as many, and so on, up to 2^`MOST_SPLIT`.
"""
GROUP = 1 << 19
"""Number of pairs whose signatures are brought together at a time; they take up to 140 MB."""


class Signed(NamedTuple):
    """The signatures of some rows."""

    slots: Slots
    """[n, permutations] the signatures."""
    kin: Key
    """[n] a hash; two rows with different hashes make no pair."""


def signature(of: Sketch) -> Signed:
    """Return the signatures of a sketch."""
    return Signed(of.slots, of.kin)


def pairs(signed: Placed, order: Int, bands: int, threshold: float) -> tuple[Int, Int, Float32]:
    """Return (left, right, similarity) of each pair of rows with signatures that agree in a band and are similar.

    The similarity must reach the threshold in the complete signature or in its second half. The second half leaves out
    the text that many samples share.

    A bucket holds the rows that agree in one band, the best row first. Every row is paired with the first row of its
    bucket and with the row before it. So a bucket of m rows costs O(m), and one unusual row at its beginning does not
    hide the pairs of the others.

    Signatures stay where they are. Eight bands at a time, keys of 8 bytes are exchanged, so that the rows of a bucket
    come together. Then signatures of candidates are brought together. Only pairs come to this process, with 8 bytes for
    each; the pairs of eight bands are held before their signatures are compared.

    Args:
        signed: a `Signed`, or a `Sketch`, of the rows of each part.
        order: the rows to compare, best first.
        bands: number of bands. A band has 1, 2, 4 or 8 slots, and agrees if all of them are equal.
        threshold: least similarity, 0 to 1.
    """
    bits = max(1, (len(order) - 1).bit_length())  # bits of the index, in the lower part of a key
    num = 1 << max(0, min(MOST_SPLIT, (len(order) // SPLIT_ROWS).bit_length()))
    place = np.full(len(signed.at), -1, np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    once, weight = np.empty(0, np.uint64), np.empty(0, np.float32)
    for band in range(0, bands, AT_ONCE):
        keys = partial(_keys, (band, min(band + AT_ONCE, bands), bands), bits, num)
        buckets = signed.parts.exchange(keys, num, ((places,) for places in signed.cut(place)))
        found = np.unique(np.concatenate([np.empty(0, np.uint64), *buckets.map(partial(_paired, bits))]))
        found = found[~np.isin(found, once, assume_unique=True)]
        similarity = similarities(signed, order[found >> HALF], order[found & LOW], threshold)
        alike = similarity >= threshold
        once, weight = np.concatenate([once, found[alike]]), np.concatenate([weight, similarity[alike]])
    ascending = np.argsort(once)
    once, weight = once[ascending], weight[ascending]
    return order[once >> HALF], order[once & LOW], weight


def similarities(signed: Placed, left: Int, right: Int, threshold: float) -> Float32:
    """Return [pairs] the estimated similarity, see `estimate_jaccard`; NaN for rows with different hashes `kin`."""
    return signed.compare(_taken, left, right, partial(_similarities, threshold), np.float32, GROUP)


def _taken(signed: Signed | Sketch, places: Int) -> Signed:
    return Signed(signed.slots[places], signed.kin[places])


def _similarities(threshold: float, pieces: list[Signed], left: Int, right: Int) -> Float32:
    slots, kin = (np.concatenate(column) for column in zip(*pieces, strict=True))
    same = kin[left] == kin[right]
    found = np.full(len(left), np.nan, np.float32)
    found[same] = estimate_jaccard(slots, left[same], right[same], threshold)
    return found


def _keys(
    of: tuple[int, int, int], bits: int, num: int, signed: Signed | Sketch, places: NDArray[np.int32]
) -> list[list[Key]]:
    """Return the keys of some bands, in `num` pieces by their upper bits; `of` is (first band, last, all bands)."""
    begin, end, bands = of
    parts = signed.slots.view(f"u{signed.slots.shape[1] // bands}")  # [n, bands], the slots of a band as one number
    rows = np.flatnonzero(places >= 0)
    packed = np.empty((end - begin, len(rows)), np.uint64)
    _pack(parts[:, begin:end], signed.kin, rows, places, bits, packed)
    if num == 1:
        return [list(packed)]
    packed.sort(axis=1)
    bounds = np.arange(1, num, dtype=np.uint64) << np.uint64(64 - (num - 1).bit_length())
    cut = [np.split(keys, np.searchsorted(keys, bounds)) for keys in packed]
    return [list(pieces) for pieces in zip(*cut, strict=True)]


def _paired(bits: int, pieces: Sequence[Sequence[Key]]) -> Key:
    """Return the candidate pairs of some bands, each once, as `_candidates` writes them."""
    found = [_candidates(np.sort(np.concatenate(keys)), bits) for keys in zip(*pieces, strict=True)]
    every = np.sort(np.concatenate([np.empty(0, np.uint64), *found]))  # 25 times as fast as unique
    once: Key = every[np.append(every[:1] == every[:1], every[1:] != every[:-1])]
    return once


def estimate_jaccard(slots: Slots, left: Int, right: Int, threshold: float = 0.0) -> Float32:
    """Return [pairs] the estimated Jaccard similarity; if it is below the threshold, that of the second halves."""
    agree, own = np.empty(len(left), np.int64), np.empty(len(left), np.int64)
    _agree_all(slots, left, right, agree, own)
    whole, half = jaccard(agree, slots.shape[1]), jaccard(own, slots.shape[1] // 2)
    return np.where(whole >= threshold, whole, half)


def jaccard(agree: Int, permutations: int) -> Float32:
    """Return the Jaccard similarity, in [0, 1], that follows from `agree` equal slots of so many permutations."""
    return np.maximum(0, (agree / permutations - CHANCE) / (1 - CHANCE)).astype(np.float32)


@kernel
def _pack(
    parts: NDArray[np.unsignedinteger], kin: Key, rows: Int, places: NDArray[np.int32], bits: int, packed: Key
) -> None:
    """Write the keys [bands, n] of some bands: a hash of the band in the upper bits, the place in the lower bits.

    After sorting, rows that agree in a band are next to each other, the best row first.
    """
    shift = np.uint64(bits)
    for n in range(len(rows)):
        row = rows[n]
        for band in range(len(packed)):
            found = (np.uint64(parts[row, band]) ^ kin[row]) * ODD
            packed[band, n] = (found >> shift) << shift | np.uint64(places[row])


@kernel
def _candidates(packed: Key, bits: int) -> Key:
    """Return the candidate pairs of one band as (worse place << 32 | better place).

    The keys are ascending, so a bucket is a run of keys with equal upper bits; it begins at `start`. Every row of a
    bucket except the first makes at most two pairs: with the first row, and with the row before it.
    """
    shift, mask = np.uint64(bits), (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    found, count, start = np.empty(2 * len(packed), np.uint64), 0, 0
    for n in range(1, len(packed)):
        if packed[n] >> shift != packed[n - 1] >> shift:
            start = n
            continue
        place = (packed[n] & mask) << HALF
        found[count] = place | (packed[start] & mask)
        count += 1
        if n - 1 > start:
            found[count] = place | (packed[n - 1] & mask)
            count += 1
    return found[:count].copy()


@kernel
def _equal(one: Slots, other: Slots) -> int:
    """Return the number of slots in which two signatures agree."""
    found = 0
    for slot in range(len(one)):
        found += one[slot] == other[slot]
    return found


@kernel
def _agree_all(slots: Slots, left: Int, right: Int, agree: Int, own: Int) -> None:
    """Write the number of equal slots of every pair: `agree` in the complete signature, `own` in its second half."""
    half = slots.shape[1] // 2
    for pair in range(len(left)):
        one, other = slots[left[pair]], slots[right[pair]]
        own[pair] = _equal(one[half:], other[half:])
        agree[pair] = own[pair] + _equal(one[:half], other[:half])
