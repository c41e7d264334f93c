"""NEFTune: uniform noise on the embeddings of a sample while it is trained on.

Source: Jain et al. 2023, arXiv:2310.05914, algorithm 1. Departures: in a packed row, each sample has its own length.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray


def lengths(positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each token the length of its sample, [rows, tokens]; positions begin at 0 with each sample."""
    found = np.empty_like(positions)
    for row, of_row in zip(positions, found, strict=True):
        sizes = np.diff([*np.flatnonzero(row == 0), len(row)])
        of_row[:] = np.repeat(sizes, sizes)
    return found


@contextmanager
def noisy(model: Any, batch: Mapping[str, NDArray[np.int64]], alpha: float) -> Iterator[None]:  # noqa: ANN401
    """Add noise to the embeddings of a batch while the block runs: uniform in ± alpha / √(length x width).

    Random numbers come from PyTorch's generator.

    Args:
        model: a model of transformers, also inside of PEFT.
        batch: one of `separation.batches`.
        alpha: size of the noise; 0 for none.
    """
    if not alpha:
        yield
        return
    import torch

    def add(module: Any, args: Any, embedded: Any) -> Any:  # noqa: ANN401 - a forward hook's arguments
        del module, args
        size = torch.from_numpy(alpha / np.sqrt(lengths(batch["position_ids"]) * embedded.shape[-1]))
        return embedded + torch.empty_like(embedded).uniform_(-1, 1) * size.to(embedded)[..., None]

    hook = model.get_input_embeddings().register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()
