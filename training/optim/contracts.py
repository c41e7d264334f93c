"""What an optimizer is: a frozen value that makes one of PyTorch's for groups of parameters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from gristmill.cluster.contract.settings import Step


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that are treated alike."""

    parameters: Sequence[Any]
    matrices: bool
    """Whether they are matrices of layers; embeddings, the head, norms and biases are not."""
    decays: bool
    """Whether the weight decay is for them: not for norms and biases, which have fewer than two dimensions."""
    relative_rate: float
    """Their learning rate in units of `train.learning_rate`."""


class Optimizer(Step):
    """An optimizer; the loop sets its learning rate before each step."""

    whole: ClassVar[bool] = False
    """Whether it reads a matrix as a whole, which ZeRO splits from stage 1 on."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Share of a weight, times the learning rate, that is taken off at each step; not for norms and biases."""

    def make(self, groups: Sequence[Group], lr: float) -> Any:  # noqa: ANN401
        """Return PyTorch's optimizer, in whose groups `relative_rate` is what the learning rate is multiplied by.

        Args:
            groups: all parameters to train.
            lr: a learning rate, until the loop sets another.
        """
        raise NotImplementedError

    def _tables(self, groups: Sequence[Group]) -> list[dict[str, Any]]:
        """Return groups as PyTorch takes them."""
        return [
            {
                "params": list(group.parameters),
                "weight_decay": self.weight_decay if group.decays else 0.0,
                "relative_rate": group.relative_rate,
            }
            for group in groups
        ]
