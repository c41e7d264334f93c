"""Adam with decoupled weight decay."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from gristmill.training.optim.contracts import Group, Optimizer

Beta = Annotated[float, Field(ge=0, lt=1)]


class AdamW(Optimizer):
    """Step by the mean of the gradients, divided by the root of the mean of their squares.

    It keeps two numbers for each weight.

    Source: Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2.
    """

    kind: Literal["adamw"] = "adamw"

    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Shares of their old values that the two means keep at each step: the mean of the gradients, and the mean of their
    squares."""
    eps: float = Field(default=1e-8, gt=0)
    """Number that is added to the root, so that the division is safe."""

    def make(self, groups: Sequence[Group], lr: float) -> Any:  # noqa: ANN401 - as `Optimizer.make`
        """Return PyTorch's AdamW, fused."""
        import torch

        return torch.optim.AdamW(self._tables(groups), lr=lr, betas=self.betas, eps=self.eps, fused=True)
