"""Packed rows give every token the loss that it has alone, and the comparison of two models is right."""

import math
from typing import Any

import numpy as np
import pytest

from gristmill.training.data import chat, packing
from gristmill.training.data.answers import Talk
from gristmill.training.data.prepare import Bins
from gristmill.training.evaluate.actor import Scores, compare
from gristmill.training.loop import losses, separation
from gristmill.training.loop.separation import WAYS, Way
from gristmill.training.tuning.model import load
from tests.training.conftest import chats


@pytest.fixture(scope="module")
def model(tiny: str) -> Any:
    return load(tiny, "fp32").eval()


@pytest.fixture
def encoded(tiny: str) -> chat.EncodedChats:
    return chat.encode(chat.tokenizer(tiny), [Talk(s.messages) for s in chats(12)], chat.Encoding(256))


def bins_of(encoded: chat.EncodedChats, bins: list[list[int]]) -> Bins:
    return Bins([packing.bins_table(encoded, bins)])


def test_packed_logits_are_those_of_the_samples_alone(model: Any, encoded: chat.EncodedChats) -> None:
    import torch

    order = list(range(4))
    packed = losses.tensors(packing.batch(bins_of(encoded, [order]).rows(np.array([0]))), "cpu")
    ends = np.cumsum(encoded.lengths[:4])
    with torch.no_grad():
        together = model(input_ids=packed["input_ids"], position_ids=packed["position_ids"], use_cache=False).logits[0]
        leaked = model(input_ids=packed["input_ids"], use_cache=False).logits[0]
        for end, length in zip(ends, encoded.lengths[:4], strict=True):
            ids = packed["input_ids"][:, end - length : end]
            alone = model(input_ids=ids, use_cache=False).logits[0]
            assert (alone - together[end - length : end]).abs().max() < 1e-4
    assert (leaked - together).abs().max() > 1e-2, "without positions the samples see each other: the test can fail"


@pytest.mark.parametrize("way", WAYS)
def test_losses_of_samples_do_not_depend_on_how_they_are_packed(
    model: Any, encoded: chat.EncodedChats, way: Way
) -> None:
    alone = losses.sample_losses(model, bins_of(encoded, [[p] for p in range(12)]), 12, "positions")
    packed = losses.sample_losses(model, bins_of(encoded, packing.fit(encoded.lengths, 512)), 12, way)
    assert np.allclose(alone[0], packed[0], atol=1e-3)
    assert alone[1].tolist() == packed[1].tolist()
    starts = np.cumsum(encoded.lengths) - encoded.lengths
    assert alone[1].tolist() == np.add.reduceat(encoded.trained, starts, dtype=np.int64).tolist()


def loss_of(model: Any, rows: list[packing.Row], way: Way, rounds: int = 0) -> float:
    import torch

    parts = separation.batches(rows, way, rounds)
    with torch.no_grad():
        return sum(float(losses.token_losses(model, losses.tensors(part, "cpu"), way)[0].sum()) for part in parts)


@pytest.mark.parametrize("way", WAYS)
def test_several_rows_at_once_give_the_sum_of_each(model: Any, encoded: chat.EncodedChats, way: Way) -> None:
    bins = bins_of(encoded, [[0, 1], [2], [3, 4, 5]])
    each = sum(loss_of(model, bins.rows(np.array([p])), "positions") for p in range(3))
    assert loss_of(model, bins.rows(np.arange(3)), way) == pytest.approx(each, abs=1e-3)


def with_gradients(model: Any, rows: list[packing.Row], way: Way, how: losses.How) -> tuple[Any, dict[str, Any]]:
    """Return the losses of rows, and the gradients of all weights."""
    model.zero_grad()
    parts = separation.batches(rows, way)
    values = [losses.token_losses(model, losses.tensors(part, "cpu"), way, how)[0] for part in parts]
    total: Any = sum(value.sum() for value in values)
    total.backward()
    return values, {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("way", WAYS)
def test_losses_and_gradients_are_the_same_when_few_logits_are_there_at_once(
    model: Any, encoded: chat.EncodedChats, way: Way, smoothing: float
) -> None:
    rows = bins_of(encoded, [[0, 1], [2], [3, 4, 5]]).rows(np.arange(3))
    whole, gradients = with_gradients(model, rows, way, losses.How(0, smoothing))
    some, again = with_gradients(model, rows, way, losses.How(16, smoothing))
    for one, other in zip(whole, some, strict=True):
        assert one.numel() > 16
        assert (one - other).abs().max() < 1e-5
    for name, gradient in gradients.items():
        assert (gradient - again[name]).norm() < 1e-6 * gradient.norm() + 1e-9, name


def test_no_more_logits_are_there_at_once_than_asked_for(model: Any, encoded: chat.EncodedChats) -> None:
    rows = bins_of(encoded, [[0, 1, 2, 3]]).rows(np.array([0]))
    seen: list[int] = []
    head = model.get_output_embeddings()
    logits = head.forward

    def counted(hidden: Any) -> Any:
        seen.append(hidden[..., 0].numel())
        return logits(hidden)

    head.forward = counted
    with_gradients(model, rows, "positions", losses.How(16))
    del head.forward
    assert max(seen) == 16
    assert len(seen) >= 4, "once forwards and once backwards"


def test_smoothing_spreads_a_share_of_the_label_over_the_vocabulary(model: Any, encoded: chat.EncodedChats) -> None:
    import torch

    batch = losses.tensors(packing.batch(bins_of(encoded, [[0]]).rows(np.array([0]))), "cpu")
    with torch.no_grad():
        plain, at = losses.token_losses(model, batch, "positions")
        smooth, _ = losses.token_losses(model, batch, "positions", losses.How(smoothing=0.3))
        logits = model(input_ids=batch["input_ids"], use_cache=False).logits[:, at - 1]
    assert torch.allclose(smooth, 0.7 * plain - 0.3 * logits.log_softmax(-1).mean(-1), atol=1e-5)


def test_a_model_that_changes_its_logits_after_the_head_is_found_out(model: Any) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, final_logit_softcapping=1.0, sliding_window=16,
    )  # fmt: skip
    assert losses.bounds_work(model, "fp32", "positions", "cpu")
    assert not losses.bounds_work(Gemma2ForCausalLM(config), "fp32", "positions", "cpu")


def test_one_sample_a_row_costs_no_more_tokens_than_packed_rows(encoded: chat.EncodedChats) -> None:
    rows = bins_of(encoded, packing.fit(encoded.lengths, 512)).rows(np.array([0]))
    made = separation.batches(rows, "alone")
    assert all(batch["input_ids"].size <= len(rows[0][0]) for batch in made)
    assert len(made) == separation.num_batches(rows) < len(encoded.lengths)
    sample_of = np.concatenate([batch["sample"][batch["labels"] != packing.IGNORED] for batch in made])
    assert set(sample_of.tolist()) == set(range(int((rows[0][2] == 0).sum())))


def test_further_rounds_add_nothing_to_the_loss(model: Any, encoded: chat.EncodedChats) -> None:
    rows = bins_of(encoded, [[0, 1]]).rows(np.array([0]))
    assert len(separation.batches(rows, "alone", 7)) == 7
    assert loss_of(model, rows, "alone", 7) == loss_of(model, rows, "alone")


def test_the_comparison_weighs_tokens_and_its_interval_holds_the_difference() -> None:
    tokens = np.array([1, 3] * 50)
    before = Scores(np.array([2.0, 3.0] * 50), tokens, 0.0)
    after = Scores(np.array([1.0, 3.0] * 50), tokens, 0.0)
    found = compare(before, after, np.arange(100), draws=500, seed=0)
    assert found["loss_before"] == pytest.approx(250 / 200)
    assert found["difference"] == pytest.approx(-50 / 200)
    assert found["perplexity_after"] == pytest.approx(math.exp(200 / 200))
    assert found["ci_low"] < found["difference"] < found["ci_high"] < 0
    assert (found["families"], found["families_better"], found["families_worse"]) == (100, 50, 0)
    assert compare(before, after, np.arange(100), draws=500, seed=0) == found


def test_models_that_are_alike_have_an_interval_round_zero() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 50, 200)
    before = Scores(rng.random(200) * tokens, tokens, 0.0)
    after = Scores(before.summed + rng.normal(0, 1, 200), tokens, 0.0)
    found = compare(before, after, np.arange(200), draws=1000, seed=1)
    assert found["ci_low"] < 0 < found["ci_high"]


def test_copies_of_one_sample_do_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 50, 40)
    before = Scores(rng.random(40) * tokens, tokens, 0.0)
    after = Scores(before.summed + rng.normal(0, 1, 40), tokens, 0.0)
    many = [Scores(np.tile(scores.summed, 9), np.tile(tokens, 9), 0.0) for scores in (before, after)]
    one = compare(before, after, np.arange(40), draws=500, seed=1)
    nine = compare(many[0], many[1], np.tile(np.arange(40), 9), draws=500, seed=1)
    for end in ("ci_low", "ci_high", "difference"):
        assert nine[end] == pytest.approx(one[end])
