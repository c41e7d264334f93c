"""Pairs of texts with similar signatures: candidates agree in a band, and are verified by their complete signatures."""

import numpy as np
from numpy.typing import NDArray

from gristmill.selection.data.columns import Int
from gristmill.selection.data.matrix import Float32
from gristmill.selection.duplicates.groups import Key
from gristmill.selection.duplicates.normal import HALF, ODD
from gristmill.selection.duplicates.shingles import LOW, Slots
from gristmill.selection.kernels import kernel

CHANCE = 1 / 256
"""Share of slots that are equal by chance in the signatures of two texts with nothing in common."""
AT_ONCE = 8
"""Number of bands that are packed in one pass over the signatures; each band takes 8 bytes for each row."""


def pairs(slots: Slots, kin: Key, order: Int, bands: int, threshold: float) -> tuple[Int, Int, Float32]:
    """Return (left, right, similarity) of each pair of rows with signatures that agree in a band and are similar.

    The similarity must reach the threshold in the complete signature or in its second half. The second half leaves out
    the text that many samples share.

    A bucket holds the rows that agree in one band, the best row first. Every row is paired with the first row of its
    bucket and with the row before it. So a bucket of m rows costs O(m), and one unusual row at its beginning does not
    hide the pairs of the others. The pairs of several bands are compared together, in the order of their rows, so that
    memory is read from the beginning to the end.

    Args:
        slots: [n, permutations] the signatures.
        kin: [n] a hash; two rows with different hashes make no pair.
        order: the rows to compare, best first.
        bands: number of bands. A band has 1, 2, 4 or 8 slots, and agrees if all of them are equal.
        threshold: least similarity, 0 to 1.
    """
    permutations, num = slots.shape[1], len(order)
    parts = slots.view(f"u{permutations // bands}")  # [n, bands], the slots of a band as one number
    bits = max(1, (num - 1).bit_length())  # bits of the index, in the lower part of a key
    packed = np.empty((min(bands, AT_ONCE), num), np.uint64)
    found = [np.empty(0, np.uint64)]
    for band in range(0, bands, AT_ONCE):
        some = packed[: bands - band]
        _pack(parts[:, band : band + len(some)], kin, order, bits, some)
        some.sort(axis=1)
        candidates = np.sort(np.concatenate([_candidates(keys, bits) for keys in some]))  # 25 times as fast as unique
        candidates = candidates[np.append(candidates[:1] == candidates[:1], candidates[1:] != candidates[:-1])]
        left, right = order[candidates >> HALF], order[candidates & LOW]
        alike = (estimate_jaccard(slots, left, right, threshold) >= threshold) & (kin[left] == kin[right])
        found.append(candidates[alike])
    once = np.unique(np.concatenate(found))
    left, right = order[once >> HALF], order[once & LOW]
    return left, right, estimate_jaccard(slots, left, right, threshold)


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
def _pack(parts: NDArray[np.unsignedinteger], kin: Key, order: Int, bits: int, packed: Key) -> None:
    """Write the keys [bands, n] of some bands: a hash of the band in the upper bits, the place in the lower bits.

    After sorting, rows that agree in a band are next to each other, the best row first.
    """
    shift = np.uint64(bits)
    for place in range(len(order)):
        for band in range(len(packed)):
            found = (np.uint64(parts[order[place], band]) ^ kin[order[place]]) * ODD
            packed[band, place] = (found >> shift) << shift | np.uint64(place)


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
