"""Attention of packed rows on a CPU: one sample at a time.

PyTorch's attention computes all pairs of tokens of a row, and then masks those of different samples. Here each sample
is computed alone. For 9 heads of 64 numbers, forwards and backwards in fp32 on one thread of an EPYC:

    row                       with a mask    each sample by PyTorch    as here
    512 tokens, 3 samples           25 ms                     22 ms      10 ms
    2,050 tokens, 10 samples       312 ms                     52 ms      46 ms

PyTorch computes tiles of few tokens, each with its own small products. In fp32, a sample of up to `WHOLE` tokens is
computed here with one product for all heads that share a key. Its backward pass computes the scores again, as PyTorch's
does, so that none are kept.

The samples are found in the `position_ids` that transformers hands to attention, and the mask is looked at: if it lets
a token see another sample, the row is computed as before. So the results are those of transformers, but for rounding.
On a GPU, many small calls would take longer than one large call, so nothing changes there.
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAME = "sdpa"
"""The name in transformers of PyTorch's attention, which is replaced."""
WHOLE = 512
"""Largest number of tokens of a sample whose scores are one matrix. With 700, PyTorch's tiles take 0.9 of the time."""


@dataclass(frozen=True, slots=True)
class _Blocks:
    """The samples of some rows, made for one batch and used by all its layers."""

    positions: Any
    mask: Any
    sizes: list[list[int]]
    """[rows][samples] number of tokens."""
    causal: list[list[bool]]
    """[rows][samples] whether each token sees exactly the tokens up to itself."""


_last: list[_Blocks | None] = [None]


def install() -> None:
    """Let the models of transformers in this process compute packed rows on a CPU one sample at a time."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attention)


def attention(
    module: Any,  # noqa: ANN401 - a layer of any model
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: "torch.Tensor | None",
    **others: Any,  # noqa: ANN401 - of any model
) -> "tuple[torch.Tensor, None]":
    """Return the results of attention, [rows, tokens, heads, size]; `query`, `key` and `value` are [rows, heads, …]."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    found = _blocks(query, key, attention_mask, others)
    if found is None or attention_mask is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **others)
    others = {**others, "is_causal": True}  # it only counts where there is no mask
    rows = []
    # `split` and `cat` have each other as gradients; a slice would have a whole row of zeros
    tensors: tuple[Any, ...] = (query, key, value)
    for row, one in enumerate(zip(*(tensor.split(1) for tensor in tensors), strict=True)):
        sizes, parts, end = found.sizes[row], [], 0
        each = zip(*(tensor.split(sizes, dim=2) for tensor in one), sizes, found.causal[row], strict=True)
        for q, k, v, size, causal in each:
            seen = slice(end, end := end + size)
            if causal and size <= WHOLE and q.dtype == torch.float32 and not others.get("dropout"):
                parts.append(_whole(q, k, v, others.get("scaling")))
                continue
            mask = None if causal else attention_mask[min(row, len(attention_mask) - 1), :, seen, seen][None]
            parts.append(sdpa_attention_forward(module, q, k, v, mask, **others)[0])
        rows.append(torch.cat(parts, dim=1))
    return torch.cat(rows), None


def _whole(query: Any, key: Any, value: Any, scaling: float | None) -> Any:  # noqa: ANN401 - tensors
    """Return the results of causal attention of one sample, [1, tokens, heads, size], from scores in one matrix."""
    _, heads, tokens, size = query.shape
    shared = key.shape[1]
    scale = size**-0.5 if scaling is None else scaling
    # the heads that share a key are next to each other
    found = _attend()(query.reshape(shared, heads // shared * tokens, size) * scale, key[0], value[0])
    return found.view(1, heads, tokens, value.shape[-1]).transpose(1, 2)


@cache
def _attend() -> Any:  # noqa: ANN401
    """Return the function of queries [keys, heads of a key * tokens, size] and of keys and values [keys, tokens, size].

    Source: the gradients of attention are those of Dao et al. 2022, arXiv:2205.14135, appendix B.2.
    """
    import torch

    def shares(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Return how much of each value a token takes, [keys, heads of a key * tokens, tokens]."""
        tokens = key.shape[1]
        scores = torch.bmm(query, key.transpose(1, 2)).view(len(key), -1, tokens, tokens)
        scores += torch.full((tokens, tokens), -torch.inf, dtype=scores.dtype).triu(1)
        return scores.softmax(dim=-1).view(len(key), -1, tokens)

    class Attend(torch.autograd.Function):
        """Causal attention that keeps no scores."""

        @staticmethod
        def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
            ctx.save_for_backward(query, key, value)
            return torch.bmm(shares(query, key), value)

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:  # noqa: ANN401
            query, key, value = ctx.saved_tensors
            taken = shares(query, key)
            of_taken = torch.bmm(gradient, value.transpose(1, 2))
            of_scores = torch.ops.aten._softmax_backward_data(of_taken, taken, -1, taken.dtype)
            of_key, of_value = (
                torch.bmm(one.transpose(1, 2), two) for one, two in ((of_scores, query), (taken, gradient))
            )
            return torch.bmm(of_scores, key), of_key, of_value

    return Attend.apply


def _blocks(query: Any, key: Any, mask: Any, others: dict[str, Any]) -> _Blocks | None:  # noqa: ANN401 - tensors
    """Return the samples of the rows; None if they must be computed together, or there is only one in each row."""
    import torch

    positions = others.get("position_ids")
    if positions is None or mask is None or query.device.type != "cpu" or mask.dtype != torch.bool:
        return None
    if others.get("position_bias") is not None or others.get("cache") is not None:
        return None
    last = _last[0]
    if last is None or last.positions is not positions or last.mask is not mask:
        last = _last[0] = _of(positions, mask)
    rows, tokens = query.shape[0], query.shape[2]
    fits = len(last.sizes) == rows and all(sum(sizes) == tokens == key.shape[2] for sizes in last.sizes)
    return last if fits and max(map(len, last.sizes)) > 1 else None


def _of(positions: Any, mask: Any) -> _Blocks:  # noqa: ANN401 - tensors
    """Return the samples of rows; none if the mask lets a token see another sample, or is one for each head."""
    import torch

    none = _Blocks(positions, mask, [], [])
    tokens = mask.shape[-1]
    if positions.dim() != 2 or mask.dim() != 4 or mask.shape[1] != 1:
        return none
    if positions.shape[1] != tokens or mask.shape[2] != tokens or len(mask) not in (1, len(positions)):
        return none
    begins = positions == 0
    begins[:, 0] = True
    number = begins.cumsum(dim=1)
    if bool((mask[:, 0] & (number[:, :, None] != number[:, None, :])).any()):
        return none
    sizes, causal = [], []
    for row, begin in enumerate(begins):
        borders = [*torch.nonzero(begin).flatten().tolist(), tokens]
        seen = mask[min(row, len(mask) - 1), 0]
        pairs = [slice(*pair) for pair in pairwise(borders)]
        sizes.append([pair.stop - pair.start for pair in pairs])
        causal.append([bool((seen[p, p] == torch.ones_like(seen[p, p]).tril()).all()) for p in pairs])
    return _Blocks(positions, mask, sizes, causal)
