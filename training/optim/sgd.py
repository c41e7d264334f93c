"""Stochastic gradient descent with momentum."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from gristmill.training.optim.contracts import Group, Optimizer


class Sgd(Optimizer):
    """Step along a running sum of the gradients.

    It keeps one number for each weight. It needs far higher learning rates than AdamW.

    Source: Polyak 1964, Some methods of speeding up the convergence of iteration methods; the form is that of
    Sutskever et al. 2013, On the importance of initialization and momentum in deep learning, as PyTorch has it.
    Departures: the weight decay is added to the gradient, as in PyTorch.
    """

    kind: Literal["sgd"] = "sgd"

    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Share of the running sum that is kept at each step."""
    nesterov: bool = False
    """Whether a step looks ahead along the running sum (Nesterov 1983)."""

    def make(self, groups: Sequence[Group], lr: float) -> Any:  # noqa: ANN401 - as `Optimizer.make`
        """Return PyTorch's SGD."""
        import torch

        nesterov = self.nesterov and self.momentum > 0
        return torch.optim.SGD(self._tables(groups), lr=lr, momentum=self.momentum, nesterov=nesterov)
