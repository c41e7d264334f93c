"""Training of every weight of the model."""

from typing import Any, ClassVar, Literal

from gristmill.training.tuning.contracts import Tuning


class Full(Tuning):
    """Train every weight.

    It needs 16 bytes of memory for each weight, summed over all workers. It makes no adapter.
    """

    kind: Literal["full"] = "full"
    usual_rate: ClassVar[float] = 1e-4
    partial: ClassVar[bool] = False

    @property
    def said(self) -> str:
        """The trained weights in words."""
        return "every weight"

    def begin(self, model: Any) -> Any:  # noqa: ANN401 - as `Tuning.begin`
        """Return the model as it is."""
        return model
