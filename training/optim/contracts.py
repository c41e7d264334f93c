"""The contract of an optimizer: a frozen value that makes an optimizer of PyTorch for groups of parameters."""

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
    """Whether the parameters are matrices of layers. Embeddings, the head, norms and biases are not."""
    decays: bool
    """Whether the parameters have weight decay. Norms and biases, with fewer than two dimensions, have none."""
    relative_rate: float
    """Learning rate of the parameters, as a multiple of `train.learning_rate`."""


class Optimizer(Step):
    """An optimizer; the loop sets its learning rate before each step."""

    whole: ClassVar[bool] = False
    """Whether it reads complete matrices. Then what it makes is a `pieces.Pieces`, because ZeRO splits matrices."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay: at each step, a weight loses this share of itself, times the learning rate. Norms and biases have
    no weight decay."""

    def make(self, groups: Sequence[Group], lr: float) -> Any:  # noqa: ANN401
        """Return PyTorch's optimizer. Each of its groups has a `relative_rate`, a factor of the learning rate.

        Args:
            groups: all parameters to train.
            lr: the learning rate until the loop sets another one.
        """
        raise NotImplementedError

    def _tables(self, groups: Sequence[Group]) -> list[dict[str, Any]]:
        """Return groups in the form that PyTorch takes."""
        return [
            {
                "params": list(group.parameters),
                "weight_decay": self.weight_decay if group.decays else 0.0,
                "relative_rate": group.relative_rate,
            }
            for group in groups
        ]
