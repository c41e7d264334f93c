"""Packing: every sample once, no row too long, samples apart."""

import numpy as np
import pytest

from gristmill.training.data import packing
from gristmill.training.data.chat import EncodedChats


def encoded(lengths: list[int], rng: np.random.Generator) -> EncodedChats:
    total = sum(lengths)
    ids = rng.integers(0, 1000, total).astype(np.int32)
    return EncodedChats(ids, rng.random(total) < 0.5, np.array(lengths, np.int64), np.arange(len(lengths)), {}, {}, ())


def test_every_sample_lies_in_exactly_one_bin_and_no_bin_overflows() -> None:
    lengths = np.random.default_rng(0).integers(1, 513, 5000)
    bins = packing.fit(lengths, 512)
    assert sorted(place for bin_ in bins for place in bin_) == list(range(5000))
    loads = [int(lengths[bin_].sum()) for bin_ in bins]
    assert max(loads) <= 512
    assert len(bins) <= int(lengths.sum() / 512 * 1.02) + 1, "best fit decreasing leaves under 2 % empty here"


def test_a_sample_goes_where_it_fits_best() -> None:
    assert packing.fit([60, 70, 30, 40], 100) == [[1, 2], [0, 3]]


def test_the_same_lengths_give_the_same_bins() -> None:
    lengths = np.random.default_rng(1).integers(1, 100, 1000)
    assert packing.fit(lengths, 128) == packing.fit(lengths.tolist(), 128)


def test_a_sample_longer_than_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="must be in 1 to 10"):
        packing.fit([3, 11], 10)


def test_rows_hold_the_samples_with_positions_that_start_anew_and_first_labels_ignored() -> None:
    source = encoded([3, 4, 2], np.random.default_rng(2))
    table = packing.bins_table(source, [[1, 0], [2]])
    row = table.to_pylist()[0]
    assert row["input_ids"] == [*source.ids[3:7], *source.ids[0:3]]
    assert row["position_ids"] == [0, 1, 2, 3, 0, 1, 2]
    assert row["samples"] == [1, 0]
    trained = [*source.trained[3:7], *source.trained[0:3]]
    wanted = [
        int(i) if t and p else -100 for i, t, p in zip(row["input_ids"], trained, row["position_ids"], strict=True)
    ]
    assert row["labels"] == wanted
    assert table["trained"].to_pylist() == [
        sum(label != -100 for label in labels) for labels in table["labels"].to_pylist()
    ]


def test_bins_carry_how_much_their_samples_count() -> None:
    source = encoded([3, 4, 2], np.random.default_rng(2))
    weights = np.array([0.5, 2, 3], np.float32)
    table = packing.bins_table(source, [[1, 0], [2]], weights)
    assert table["weights"].to_pylist() == [[2, 0.5], [3]]
    ends = np.cumsum(source.lengths)
    trained = [int(source.trained[end - size + 1 : end].sum()) for end, size in zip(ends, source.lengths, strict=True)]
    assert sum(trained) > 0
    assert table["weight"].to_pylist() == [2 * trained[1] + 0.5 * trained[0], 3 * trained[2]]
    assert packing.bins_table(source, [[1, 0], [2]])["weight"].to_pylist() == table["trained"].to_pylist()


def test_padding_is_a_block_of_its_own_that_is_not_trained_on() -> None:
    long, short = np.arange(5, dtype=np.int32), np.arange(2, dtype=np.int32)
    batch = packing.batch([(long, long, long), (short, short, short)])
    assert batch["position_ids"][1].tolist() == [0, 1, 0, 1, 2]
    assert batch["labels"][1].tolist() == [0, 1, -100, -100, -100]


def test_no_samples_make_an_empty_table() -> None:
    empty = encoded([], np.random.default_rng(3))
    assert packing.bins_table(empty, packing.fit(empty.lengths, 8)).num_rows == 0
