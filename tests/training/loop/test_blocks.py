"""Attention of one sample at a time gives the losses and gradients of attention with a mask."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gristmill.training.data import packing
from gristmill.training.data.packing import Row
from gristmill.training.loop import blocks, losses, separation
from tests.training.loop.architectures import tiny

SIZES = ((40, 23, 31), (60, 2), (17,))
SOME = ("llama", "gemma2", "qwen3", "cohere2", "phi3", "mixtral")
"""Some have layers that see few tokens, so that their masks are not the usual ones."""


@pytest.fixture(autouse=True)
def _attention() -> Iterator[None]:
    yield
    uninstall()


def uninstall() -> None:
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register(blocks.NAME, sdpa_attention_forward)
    blocks._last[0] = None


def rows_of(sizes: tuple[tuple[int, ...], ...]) -> list[Row]:
    rng, found = np.random.default_rng(0), []
    for row in sizes:
        ids = rng.integers(3, 128, sum(row)).astype(np.int32)
        labels = np.where(rng.random(len(ids)) < 0.6, ids, packing.IGNORED).astype(np.int32)
        positions = np.concatenate([np.arange(size) for size in row]).astype(np.int32)
        labels[positions == 0] = packing.IGNORED
        found.append((ids, labels, positions))
    return found


def computed(model: Any, rows: list[Row]) -> tuple[Any, dict[str, Any]]:
    """Return the loss of each token of packed rows, and the gradients of all weights."""
    model.zero_grad()
    batch = losses.tensors(separation.batches(rows, "positions")[0], "cpu")
    values: Any = losses.token_losses(model, batch, "positions")[0]
    values.sum().backward()
    return values.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("sizes", [SIZES[:1], SIZES])
@pytest.mark.parametrize("name", SOME)
def test_losses_and_gradients_are_those_of_a_mask(
    name: str, sizes: tuple[tuple[int, ...], ...], *, recompute: bool
) -> None:
    model, rows = tiny(name).train(), rows_of(sizes)
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    whole, gradients = computed(model, rows)
    blocks.install()
    apart, again = computed(model, rows)
    used = blocks._last[0]
    assert used is not None, "the samples were not looked at, so the test compares nothing"
    assert [row[: len(sizes[n])] for n, row in enumerate(used.sizes)] == [list(row) for row in sizes]
    assert (whole - apart).abs().max() < 1e-5
    for weight, gradient in gradients.items():
        assert (gradient - again[weight]).norm() < 1e-5 * gradient.norm() + 1e-8, weight


def test_a_mask_that_shows_other_samples_is_kept() -> None:
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 12, 8) for _ in range(3))
    positions = torch.cat([torch.arange(5), torch.arange(7)])[None]
    number = (positions == 0).cumsum(dim=1)
    seen = torch.ones(1, 1, 12, 12, dtype=torch.bool).tril()
    apart = seen & (number[:, None, :, None] == number[:, None, None, :])
    for mask, same in ((apart, True), (seen, False)):
        args: dict[str, Any] = {"scaling": None, "position_ids": positions}
        found = blocks.attention(torch.nn.Module(), query, key, value, mask, **args)[0]
        assert torch.allclose(found, sdpa_attention_forward(torch.nn.Module(), query, key, value, mask, **args)[0])
        last = blocks._last[0]
        assert last is not None
        assert bool(last.sizes) == same


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sample_is_computed_without_the_others(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    import torch

    asked: list[tuple[int, bool]] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def counted(query: Any, *args: Any, **named: Any) -> Any:
        asked.append((query.shape[2], named["is_causal"]))
        return real(query, *args, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    monkeypatch.setattr(blocks, "WHOLE", 30)
    model = tiny("llama", dtype)
    blocks.install()
    computed(model, rows_of(SIZES[:1]))
    by_pytorch = [size for size in SIZES[0] if size > blocks.WHOLE or dtype == "bfloat16"]
    assert asked == [(size, True) for size in by_pytorch] * model.config.num_hidden_layers


@pytest.mark.parametrize("shared", [1, 2, 6])
def test_attention_in_one_matrix_has_the_gradients_of_pytorch(shared: int) -> None:
    import torch

    torch.manual_seed(0)
    shapes = ((1, 6, 20, 8), (1, shared, 20, 8), (1, shared, 20, 8))
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    query, key, value = given
    weight = torch.randn(1, 20, 6, 8, dtype=torch.float64)
    whole = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    expected = torch.autograd.grad((whole.transpose(1, 2) * weight).sum(), given)
    found = torch.autograd.grad((blocks._whole(query, key, value, None) * weight).sum(), given)
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one, other, atol=1e-12)
