"""Adafactor, which keeps the mean squares of a matrix as one number for each row and one for each column."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from gristmill.training.optim.contracts import Group, Optimizer


class Adafactor(Optimizer):
    """Step as Adam does, but without a mean of the gradients, and with almost no memory for states.

    A step is at most the learning rate times the root mean square of the weights that it changes.

    Source: Shazeer & Stern 2018, arXiv:1804.04235, algorithm 4. Departures: as in `torch.optim.Adafactor`, where the
    learning rate is an upper limit of the relative step.
    """

    kind: Literal["adafactor"] = "adafactor"
    whole: ClassVar[bool] = True
    example_job: ClassVar[Mapping[str, Any]] = {"zero": {"stage": 0}}

    beta2_decay: float = Field(default=-0.8, lt=0)
    """At each step, the mean squares keep the share 1 - step ** beta2_decay of their old values."""
    clip: float = Field(default=1.0, ge=1)
    """Largest root mean square of a step, before it is multiplied by the learning rate."""

    def make(self, groups: Sequence[Group], lr: float) -> Any:  # noqa: ANN401 - as `Optimizer.make`
        """Return PyTorch's Adafactor."""
        import torch

        return torch.optim.Adafactor(self._tables(groups), lr=lr, beta2_decay=self.beta2_decay, d=self.clip)
