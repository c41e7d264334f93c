"""The loss of each trained token of a batch. Training sums the losses, evaluation assigns them to samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gristmill.training.data.packing import IGNORED
from gristmill.training.loop import separation, sequence
from gristmill.training.loop.chunks import losses_for_logits
from gristmill.training.loop.separation import Way

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from gristmill.training.data.prepare import Bins
    from gristmill.training.tuning.model import Precision


ALIKE: "Mapping[Precision, float]" = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}
"""Largest difference of a token's loss, in nats, that is taken for rounding."""


def tensors(batch: "Mapping[str, NDArray[np.int64]]", device: Any) -> "dict[str, torch.Tensor]":  # noqa: ANN401
    """Return the arrays of a batch as tensors on a device."""
    import torch

    return {name: torch.tensor(array).to(device) for name, array in batch.items()}


@dataclass(frozen=True, slots=True)
class How:
    """Settings for the computation of losses."""

    at_once: int = 0
    """Largest number of tokens that have logits in memory at once; 0 for no limit."""
    smoothing: float = 0.0
    """Share of the label that is spread over the vocabulary."""
    team: sequence.Team | None = None
    """The workers that share the tokens of the rows; None if this worker computes whole rows."""


def token_losses(
    model: Any,  # noqa: ANN401
    batch: "Mapping[str, torch.Tensor]",
    way: Way,
    how: How = How(),
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return the negative log-likelihoods of the tokens, and their positions; of this worker's share, if it has one.

    The head runs only at positions directly before a trained token of some row. On instruction data, this saves about
    half of its work and memory.

    Args:
        model: a model, or an engine of one.
        batch: one of `separation.batches`, as tensors.
        way: how samples are kept apart in it.
        how: how losses are computed.

    Returns:
        [rows, kept] float32 losses in nats, 0 for ignored labels; and [kept] positions of the labels.
    """
    import torch
    from torch.nn.functional import cross_entropy

    if how.team:
        part, labels, first = sequence.share(batch, how.team)
        args = separation.inputs(model, part, "positions")
    else:
        sequence.end()
        labels, first = batch["labels"][:, 1:], 0
        args = separation.inputs(model, batch, way)
    keep = torch.nonzero((labels != IGNORED).any(dim=0)).flatten()
    if "logits_to_keep" in separation.parameters(model):
        args["logits_to_keep"] = keep
    wanted = labels[:, keep]
    if how.at_once and wanted.numel() > how.at_once:
        head = separation.inner(model).get_output_embeddings()
        with losses_for_logits(head, wanted, keep, how.at_once, how.smoothing):
            return model(**args).logits[..., 0].float(), keep + 1 + first
    logits = model(**args).logits
    if logits.shape[1] != len(keep):  # the model does not know `logits_to_keep`
        logits = logits[:, keep]
    flat = cross_entropy(
        logits.float().flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="none",
        label_smoothing=how.smoothing,
    )  # fmt: skip
    return flat.view(wanted.shape), keep + 1 + first


def bounds_work(model: Any, precision: "Precision", way: Way, device: Any) -> bool:  # noqa: ANN401
    """Return whether a model's losses stay the same when its logits are computed some at a time.

    Workers that share the model's weights must all call this.
    """
    import numpy as np
    import torch

    known = separation.plain_tokens(model)
    ids = known[np.arange(32) * 7 % len(known)]
    row = (ids.astype(np.int32), ids.astype(np.int32), np.arange(32, dtype=np.int32))
    batch = tensors(separation.batches([row], way)[0], device)
    training = model.training
    model.eval()
    with torch.no_grad():
        whole, some = (token_losses(model, batch, way, How(at_once))[0] for at_once in (0, 8))
    model.train(training)
    return bool((whole - some).abs().max() < ALIKE[precision])


def shares_work(model: Any, precision: "Precision", team: sequence.Team, device: Any) -> bool:  # noqa: ANN401
    """Return whether a model's losses stay the same when workers share the tokens of a row; all of them must call this.

    The row has three samples, and its number of tokens is no multiple of the number of workers.
    """
    import numpy as np
    import torch
    import torch.distributed as dist

    known, sizes = separation.plain_tokens(model), (5 * team.size, 3 * team.size + 1, 7 * team.size)
    ids = np.random.default_rng(0).choice(known, sum(sizes)).astype(np.int32)
    row = (ids, ids, np.concatenate([np.arange(size, dtype=np.int32) for size in sizes]))
    batch = tensors(separation.batches([row], "positions")[0], device)
    training = model.training
    model.eval()
    with torch.no_grad():
        whole, _ = token_losses(model, batch, "positions")
        part, at = token_losses(model, batch, "positions", How(team=team))
    model.train(training)
    apart = torch.zeros(1, device=device)
    if len(at):
        apart += (whole[:, at - 1] - part).abs().max()
    dist.all_reduce(apart, op=dist.ReduceOp.MAX)
    return float(apart) < ALIKE[precision]


def sample_losses(
    model: Any,  # noqa: ANN401
    bins: "Bins",
    count: int,
    way: Way,
) -> "tuple[NDArray[np.float64], NDArray[np.int64]]":
    """Return the summed loss in nats and the number of trained tokens of each sample, both [count].

    Args:
        model: a model in evaluation mode, on its device.
        bins: packed bins that together hold `count` samples.
        count: number of samples.
        way: how samples are kept apart.
    """
    import numpy as np
    import torch

    summed, tokens = np.zeros(count), np.zeros(count, np.int64)
    with torch.no_grad():
        for place in range(len(bins)):
            for arrays in separation.batches(bins.rows(np.array([place])), way):
                values, at = token_losses(model, tensors(arrays, model.device), way)
                kept = at.cpu().numpy()
                trained = arrays["labels"][:, kept] != IGNORED
                owner = bins.column("samples", place)[arrays["sample"][:, kept][trained]]
                np.add.at(summed, owner, values.double().cpu().numpy()[trained])
                np.add.at(tokens, owner, 1)
    return summed, tokens
