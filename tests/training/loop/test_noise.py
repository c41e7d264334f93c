"""Noise on embeddings is as large as the paper says, for each sample of a row by its own length, and goes away."""

from typing import Any

import numpy as np

from gristmill.training.loop.noise import lengths, noisy
from gristmill.training.tuning.model import load


def test_the_length_of_each_token_is_that_of_its_sample() -> None:
    positions = np.array([[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]])
    assert lengths(positions).tolist() == [[3, 3, 3, 2, 2], [1, 4, 4, 4, 4]]


def test_noise_is_uniform_within_its_bound_and_drawn_anew(tiny: str) -> None:
    import torch

    model: Any = load(tiny, "fp32")
    embed = model.get_input_embeddings()
    batch = {"position_ids": np.concatenate([np.arange(400), np.arange(100)])[None]}
    ids = torch.arange(500)[None] % 250
    plain = embed(ids)
    torch.manual_seed(0)
    with noisy(model, batch, 5.0):
        first, second = embed(ids) - plain, embed(ids) - plain
    assert torch.equal(embed(ids), plain)
    for part, length in ((first[:, :400], 400), (first[:, 400:], 100)):
        bound = 5.0 / (length * 64) ** 0.5
        assert 0.99 * bound < part.abs().max() <= bound + 1e-6
        assert abs(float(part.detach().mean())) < 0.02 * bound
        assert abs(float(part.detach().square().mean().sqrt()) / bound - 3**-0.5) < 0.01, (
            "that of a uniform distribution"
        )
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    with noisy(model, batch, 5.0):
        assert torch.equal(embed(ids) - plain, first)
    with noisy(model, batch, 0.0):
        assert torch.equal(embed(ids), plain)
