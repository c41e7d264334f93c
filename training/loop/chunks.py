"""Losses without all logits at once: the head runs on some tokens at a time, and again in the backward pass.

With a model of two layers and a vocabulary of 49,152, a step on 4,096 tokens in fp32 took 2,589 MB. With the logits of
512 tokens at a time, it took 638 MB and 1.4 times the CPU time; in such a small model, the head takes most of the time.

While the model computes, its head returns the losses of the tokens instead of their logits, one chunk at a time. If a
model changes the logits after its head (a soft cap, a scale), this is wrong. `losses.bounds_work` tests whether a
loaded model does so.

Source: Wijmans et al. 2024, arXiv:2411.09009, section 4, for the idea. Departures: chunks of tokens are computed again
in plain PyTorch, without a kernel.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gristmill.training.data.packing import IGNORED

if TYPE_CHECKING:
    import torch


@contextmanager
def losses_for_logits(
    head: Any,  # noqa: ANN401 - a module, maybe of DeepSpeed's or PEFT's making
    wanted: "torch.Tensor",
    keep: "torch.Tensor",
    size: int,
    smoothing: float,
) -> "Iterator[None]":
    """Let the head of a model return losses, [rows, kept, 1], while the block runs.

    Args:
        head: the model's output embeddings.
        wanted: [rows, kept] labels of the tokens.
        keep: [kept] positions of these tokens, for a head that gets all tokens of the rows.
        size: largest number of tokens that have logits in memory at once.
        smoothing: share of the label that is spread over the vocabulary.
    """
    import torch
    from torch.nn.functional import cross_entropy
    from torch.utils.checkpoint import checkpoint

    logits = head.forward

    def chunk(hidden: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
        found: torch.Tensor = logits(hidden).float()
        return cross_entropy(found, labels, ignore_index=IGNORED, reduction="none", label_smoothing=smoothing)

    def losses(hidden: "torch.Tensor") -> "torch.Tensor":
        kept = hidden if hidden.shape[1] == len(keep) else hidden[:, keep]
        pairs = zip(torch.split(kept.flatten(0, 1), size), torch.split(wanted.flatten(), size), strict=True)
        each = [checkpoint(chunk, *pair, use_reentrant=False) for pair in pairs]
        return torch.cat(each).view(*wanted.shape, 1)

    head.forward = losses
    try:
        yield
    finally:
        head.forward = logits
