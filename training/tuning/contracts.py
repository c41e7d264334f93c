"""What a way of tuning is: it says which weights are trained, and at which rate."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from gristmill.cluster.contract.settings import Step


class Tuning(Step):
    """A way to tune a model."""

    usual_rate: ClassVar[float]
    """Default learning rate."""
    partial: ClassVar[bool]
    """Whether weights of the base stay as they are; checkpoints leave these out."""
    adapter: ClassVar[bool] = False
    """Whether what is trained is an adapter of PEFT."""

    @property
    def said(self) -> str:
        """What is trained, for people."""
        raise NotImplementedError

    @property
    def changes_base(self) -> bool:
        """Whether `begin` changes weights that are not trained."""
        return False

    def problems(self, stage: int) -> Iterator[str]:
        """Yield what cannot be at a stage of ZeRO, each as `key: what is, what must be`."""
        yield from ()

    def begin(self, model: Any) -> Any:  # noqa: ANN401 - the class is the model's own
        """Return a loaded model in which exactly the parameters to train require a gradient.

        Random numbers come from PyTorch's generator, which the caller has seeded.

        Raises:
            RunError: when the settings do not fit the model.
        """
        raise NotImplementedError

    def relative_rate(self, name: str) -> float:
        """Return the learning rate of a parameter, in units of `train.learning_rate`."""
        del name
        return 1.0

    def exported(self, state: Mapping[str, Any], initial: Mapping[str, Any]) -> dict[str, Any]:
        """Return the trained tensors of an adapter for the unchanged base model.

        Args:
            state: trained tensors by name.
            initial: what they were before the first step, as far as `begin` has changed the base model for them.
        """
        del initial
        return dict(state)
