"""Sequence parallelism: several workers share the tokens of each row, so that longer rows fit into their memory.

A worker computes its share of the tokens in all layers. For attention, the workers of a row exchange tokens for heads:
each gets all tokens of some heads, and gives back the results of its heads for the others' tokens. Every worker knows
the positions of the whole row, so it makes the mask that keeps packed samples apart.

Source: Jacobs et al. 2023, DeepSpeed Ulysses, arXiv:2309.14509, section 3. Departures: DeepSpeed 0.19.8 gives no mask
to PyTorch's attention (`UlyssesSPAttentionHF` with sdpa), so that packed samples would see each other; the exchange is
here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gristmill.training.data.packing import IGNORED

if TYPE_CHECKING:
    import torch

NAME = "gristmill_sequence_parallel"
"""The name of the attention in transformers."""


WINDOWS = ("sliding_window", "attention_chunk_size", "local_attention", "window_size")
"""Names of the number of tokens that a token sees, in configs of models whose attention does not see the whole row."""


@dataclass(frozen=True, slots=True)
class Team:
    """The workers that share the tokens of a row."""

    group: Any
    """Their process group."""
    size: int
    place: int
    """The place of this worker in it: it has the tokens from `place` / `size` of a row on."""


@dataclass(slots=True)
class _Attention:
    """What the attention of the row that is computed now needs; the backward pass may compute it again."""

    team: Team | None = None
    mask: Any = None


_now = _Attention()


def window(config: Mapping[str, Any]) -> int | None:
    """Return the number of tokens that a token sees in a model, from its config; None if it is the whole row."""
    if config.get("use_sliding_window") is False:
        return None
    found = [config[name] for name in WINDOWS if isinstance(config.get(name), int) and config[name] > 0]
    return min(found, default=None)


def form(size: int) -> Team | None:
    """Return this worker's team of so many workers with consecutive ranks, or None for 1; every rank must call this."""
    import torch.distributed as dist

    end()
    if size == 1:
        return None
    rank, found = dist.get_rank(), None
    for first in range(0, dist.get_world_size(), size):
        group = dist.new_group(list(range(first, first + size)))
        if first <= rank < first + size:
            found = Team(group, size, rank - first)
    return found


def install(model: Any) -> None:  # noqa: ANN401 - the class is the model's own
    """Give a loaded model of transformers the attention that works for whole rows and for shares of them."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def attention(
    module: Any,  # noqa: ANN401 - a layer of any model
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: "torch.Tensor | None",
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,  # noqa: ANN401 - of any model
) -> "tuple[torch.Tensor, None]":
    """Return the results of attention, [rows, tokens, heads, size]; `query`, `key` and `value` are [rows, heads, …].

    A row that is not shared is computed by PyTorch's attention as transformers calls it.
    """
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    team = _now.team
    if team is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    if key.shape[1] % team.size:  # fewer heads of keys than workers
        key, value = (one.repeat_interleave(team.size // one.shape[1], dim=1) for one in (key, value))
    query, key, value = (_tokens_for_heads(one, team) for one in (query, key, value))
    groups = query.shape[1] // key.shape[1]
    key, value = (one.repeat_interleave(groups, dim=1) for one in (key, value))
    found = scaled_dot_product_attention(
        query, key, value, attn_mask=_now.mask, dropout_p=dropout, scale=scaling, is_causal=_now.mask is None
    )
    return _heads_for_tokens(found, team).transpose(1, 2).contiguous(), None


def _tokens_for_heads(given: "torch.Tensor", team: Team) -> "torch.Tensor":
    """Return [rows, heads, tokens, size] with all tokens of some heads, out of some tokens of all heads."""
    rows, heads, tokens, size = given.shape
    parts = given.reshape(rows, team.size, heads // team.size, tokens, size).movedim(1, 0)
    return _exchange(parts, team).movedim(0, 2).reshape(rows, heads // team.size, tokens * team.size, size)


def _heads_for_tokens(given: "torch.Tensor", team: Team) -> "torch.Tensor":
    """Return [rows, heads, tokens, size] with some tokens of all heads, out of all tokens of some heads."""
    rows, heads, tokens, size = given.shape
    parts = given.reshape(rows, heads, team.size, tokens // team.size, size).movedim(2, 0)
    return _exchange(parts, team).movedim(0, 1).reshape(rows, heads * team.size, tokens // team.size, size)


def _exchange(parts: "torch.Tensor", team: Team) -> "torch.Tensor":
    """Give part n to the worker with place n, and return what the others gave to this worker, in their order."""
    import torch
    import torch.distributed as dist

    def moved(given: torch.Tensor) -> torch.Tensor:
        found = torch.empty_like(given, memory_format=torch.contiguous_format)
        dist.all_to_all_single(found, given.contiguous(), group=team.group)
        return found

    class Exchange(torch.autograd.Function):
        """The exchange; its gradient is exchanged in the same way."""

        @staticmethod
        def forward(ctx: Any, given: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 - torch's
            del ctx
            return moved(given)

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
            del ctx
            return moved(gradient)

    exchange: Any = Exchange.apply
    found: torch.Tensor = exchange(parts)
    return found


def share(batch: "Mapping[str, torch.Tensor]", team: Team) -> "tuple[dict[str, torch.Tensor], torch.Tensor, int]":
    """Return this worker's share of a batch, and prepare the attention for the batch.

    Args:
        batch: `input_ids`, `labels` and `position_ids` of whole rows, [rows, tokens].
        team: the workers that share the rows.

    Returns:
        `input_ids` and `position_ids` of the share; for each of its tokens the label of the next token, [rows, share];
        and the place of its first token in the row.
    """
    import torch
    from torch.nn.functional import pad

    tokens = batch["input_ids"].shape[1]
    more = -tokens % team.size
    each = (tokens + more) // team.size
    first = team.place * each
    positions = batch["position_ids"]
    filling = torch.arange(more, device=positions.device).expand(len(positions), more)  # a sample of its own
    whole = {
        "input_ids": pad(batch["input_ids"], (0, more)),
        "position_ids": torch.cat([positions, filling], dim=1),
        "labels": pad(batch["labels"][:, 1:], (0, more + 1), value=IGNORED),
    }
    number = (whole["position_ids"] == 0).cumsum(dim=1)
    alone = bool((number == 1).all())
    _now.team = team
    _now.mask = None if alone else (number[:, :, None] == number[:, None, :]).tril()[:, None]
    part = {name: one[:, first : first + each] for name, one in whole.items()}
    return part, part.pop("labels"), first


def end() -> None:
    """Let the next rows be computed as a whole by this worker."""
    _now.team = _now.mask = None
