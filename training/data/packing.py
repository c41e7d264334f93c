"""Packing: samples of different lengths are put into rows of limited length by best-fit-decreasing.

Most models of transformers keep the samples of a row separate when they get `position_ids` that restart with each
sample, no `attention_mask`, and `use_cache=False`. `gristmill.training.loop.separation` finds out what other models
need.

Source: best-fit-decreasing packing of sequences: Ding et al. 2024, arXiv:2404.10830, section 3. Departures: longer
samples are not cut here. The caller drops or cuts them before, and counts them.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.training.data.chat import EncodedChats

Row = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]
"""Token ids, labels and positions of one bin, each [tokens]. A sample begins where the position is 0."""
IGNORED = -100
"""Label of a token that is not trained on."""

BINS = pa.schema(
    [
        pa.field("input_ids", pa.list_(pa.field("item", pa.int32(), nullable=False)), nullable=False),
        pa.field("labels", pa.list_(pa.field("item", pa.int32(), nullable=False)), nullable=False),
        pa.field("position_ids", pa.list_(pa.field("item", pa.int32(), nullable=False)), nullable=False),
        pa.field("samples", pa.list_(pa.field("item", pa.int64(), nullable=False)), nullable=False),
        pa.field("weights", pa.list_(pa.field("item", pa.float32(), nullable=False)), nullable=False),
        pa.field("trained", pa.int64(), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
    ]
)
"""One row for each bin. `samples`: indices of the bin's samples among all packed ones. `weights`: weight of each sample
in the loss. `trained`: number of labels that are not ignored. `weight`: sum of the weights of these labels."""
TYPES = "token_type_ids"
WINDOWS = pa.schema([field.with_name(TYPES) if field.name == "position_ids" else field for field in BINS])
"""One row for each window of a text, with the columns of BINS, and the segment of each token in place of its position.
`labels` is what the loss of the task compares: one label, a label of each token, or begin and end. `trained` is the
number of losses that the loss of the window is the sum of."""


def schema_of(table: pa.Table) -> pa.Schema:
    """Return the schema that packed rows must have: WINDOWS with segments, else BINS."""
    return WINDOWS if TYPES in table.column_names else BINS


def fit(lengths: Sequence[int] | NDArray[np.int64], capacity: int) -> list[list[int]]:
    """Return bins of at most `capacity` tokens, each as a list of indices of samples.

    The longest sample comes first. Each sample goes into the fullest bin that has room for it; of equally full bins,
    into the one that was filled last. So the result depends only on the lengths. A bit set has the free room of all
    bins, so a million samples take 0.8 s.

    Args:
        lengths: number of tokens of each sample, in [1, capacity].
        capacity: largest number of tokens in a bin.

    Raises:
        ValueError: when a length is outside that range.
    """
    sizes = np.asarray(lengths, np.int64)
    if len(sizes) and (sizes.min() < 1 or sizes.max() > capacity):
        raise ValueError(f"lengths: {sizes.min()} to {sizes.max()}, must be in 1 to {capacity}")
    bins: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0  # bit r is set when some bin has room for exactly r more tokens
    for place in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[place])
        above = rooms >> size
        if above:
            room = size + (above & -above).bit_length() - 1
            bin_ = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
            bins[bin_].append(place)
        else:
            room, bin_ = capacity, len(bins)
            bins.append([place])
        left = room - size
        if left:
            with_room[left].append(bin_)
            rooms |= 1 << left
    return bins


def bins_table(
    encoded: EncodedChats, bins: Sequence[Sequence[int]], weights: NDArray[np.float32] | None = None
) -> pa.Table:
    """Return bins of encoded samples as a BINS table, without padding.

    The first label of each sample is ignored, so that nothing is predicted across a border between samples.

    Args:
        encoded: the samples.
        bins: indices of the samples of each bin.
        weights: [samples] weight of each sample in the loss; 1 by default.
    """
    order = np.array([place for bin_ in bins for place in bin_], np.int64)
    lengths = encoded.lengths[order]
    starts = (np.cumsum(encoded.lengths) - encoded.lengths)[order]
    ends = np.cumsum(lengths)
    positions = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
    take = np.repeat(starts, lengths) + positions
    ids = encoded.ids[take]
    labels = np.where(encoded.trained[take] & (positions > 0), ids, IGNORED).astype(np.int32)
    samples_at = np.cumsum([0, *map(len, bins)])
    tokens_at = np.concatenate([[0], ends])[samples_at]
    each = np.ones(len(order), np.float32) if weights is None else weights[order]
    counts = labels != IGNORED
    trained = np.concatenate([[0], np.cumsum(counts)])[tokens_at]
    weight = np.concatenate([[0.0], np.cumsum(counts * np.repeat(each.astype(np.float64), lengths))])[tokens_at]

    def lists(values: NDArray[np.number], at: NDArray[np.int64]) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(at, pa.int32()), pa.array(values))

    columns = [
        lists(ids, tokens_at).cast(BINS.field("input_ids").type),
        lists(labels, tokens_at).cast(BINS.field("labels").type),
        lists(positions.astype(np.int32), tokens_at).cast(BINS.field("position_ids").type),
        lists(order, samples_at).cast(BINS.field("samples").type),
        lists(each, samples_at).cast(BINS.field("weights").type),
        pa.array(np.diff(trained), pa.int64()),
        pa.array(np.diff(weight), pa.float64()),
    ]
    return pa.Table.from_arrays(columns, schema=BINS)


def batch(rows: Sequence[Row]) -> dict[str, NDArray[np.int64]]:
    """Return `input_ids`, `labels` and `position_ids` of some bins, each [bins, tokens of the longest].

    Shorter bins are padded at their end. In the padding, positions begin at 0 again and labels are ignored.
    """
    longest = max(len(ids) for ids, _, _ in rows)
    shape = (len(rows), longest)
    out = {
        "input_ids": np.zeros(shape, np.int64),
        "labels": np.full(shape, IGNORED, np.int64),
        "position_ids": np.zeros(shape, np.int64),
    }
    for at, (ids, labels, positions) in enumerate(rows):
        size = len(ids)
        out["input_ids"][at, :size] = ids
        out["labels"][at, :size] = labels
        out["position_ids"][at, :size] = positions
        out["position_ids"][at, size:] = np.arange(longest - size)
    return out
