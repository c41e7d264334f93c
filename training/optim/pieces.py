"""The parameters inside the flat tensors that ZeRO gives to an optimizer, for optimizers that read whole matrices.

At stages 1 to 3 a worker has its share of the trained numbers in flat tensors. A matrix at the border of two shares is
split; at stage 3 every matrix is. To step a split matrix, the workers put it together by a sum of tensors that are zero
outside of the own part. The result is exact, because each number is in one part only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of a parameter that a flat tensor of this worker holds."""

    number: int
    """Place of the parameter in the flat tensors of all workers."""
    shape: tuple[int, ...]
    """Shape of the whole parameter."""
    at: int
    """Where the part begins in the flat tensor."""
    begin: int
    """Where the part begins in the flattened parameter."""
    count: int
    """Number of numbers in the part; 0 if other workers hold all of it."""
    split: bool
    """Whether several workers hold parts. Then all workers must call `whole`, in the same order."""
    device: Any
    """Device on which workers exchange tensors."""

    def part(self, flat: Any) -> Any:  # noqa: ANN401 - tensors
        """Return a view of the part in a flat tensor, [count]."""
        return flat.view(-1)[self.at : self.at + self.count]

    def whole(self, flat: Any) -> Any:  # noqa: ANN401 - tensors
        """Return the whole parameter out of the flat tensors of all workers; a view if this worker holds all of it."""
        import torch
        import torch.distributed as dist

        if not self.split:
            return self.part(flat).view(self.shape).to(self.device)
        full = torch.zeros(prod(self.shape), dtype=flat.dtype, device=self.device)
        full[self.begin : self.begin + self.count] = self.part(flat)
        dist.all_reduce(full)
        return full.view(self.shape)

    def of(self, whole: Any) -> Any:  # noqa: ANN401 - tensors
        """Return the part of a tensor that has the shape of the whole parameter, [count]."""
        return whole.reshape(-1)[self.begin : self.begin + self.count]


class Pieces:
    """What an optimizer knows of the parameters inside its tensors. Without more, each tensor is one parameter."""

    pieces: Mapping[Any, Sequence[Piece]] = {}

    def pieces_of(self, flat: Any) -> Sequence[Piece]:  # noqa: ANN401 - a tensor
        """Return the pieces of a flat tensor that this worker steps, or must help to put together."""
        alone = Piece(0, tuple(flat.shape), 0, 0, flat.numel(), split=False, device=flat.device)
        return [one for one in self.pieces.get(flat, [alone]) if one.count or one.split]
