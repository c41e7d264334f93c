"""The contract of a tuning: which weights are trained, and at which rates."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from gristmill.cluster.contract.settings import Step


class Tuning(Step):
    """A way to tune a model."""

    usual_rate: ClassVar[float]
    """Default learning rate."""
    partial: ClassVar[bool]
    """Whether some weights of the base model are not trained; checkpoints do not contain these weights."""
    adapter: ClassVar[bool] = False
    """Whether the trained weights are an adapter of PEFT."""
    needs_gpu: ClassVar[bool] = False
    """Whether the workers must have GPUs."""

    @property
    def said(self) -> str:
        """The trained weights in words."""
        raise NotImplementedError

    @property
    def changes_base(self) -> bool:
        """Whether `begin` changes weights that are not trained."""
        return False

    def problems(self, stage: int) -> Iterator[str]:
        """Yield the settings that a stage of ZeRO does not support, each as `key: what is, what must be`."""
        yield from ()

    def missing(self) -> str:
        """Return what is not installed here and must be; empty if all is there."""
        return ""

    def loading(self, dtype: Any) -> dict[str, Any]:  # noqa: ANN401 - a type of torch
        """Return further arguments with which transformers loads the base model, whose type is `dtype`."""
        del dtype
        return {}

    def begin(self, model: Any) -> Any:  # noqa: ANN401 - the class is the model's own
        """Return a loaded model in which exactly the parameters to train require a gradient.

        Random numbers come from PyTorch's generator, which the caller has seeded.

        Raises:
            RunError: when the settings do not fit the model.
        """
        raise NotImplementedError

    def relative_rate(self, name: str) -> float:
        """Return the learning rate of a parameter, as a multiple of `train.learning_rate`."""
        del name
        return 1.0

    def exported(self, state: Mapping[str, Any], initial: Mapping[str, Any]) -> dict[str, Any]:
        """Return the trained tensors of an adapter for the unchanged base model.

        Args:
            state: trained tensors by name.
            initial: their values before the first step, if `begin` has changed the base model with them.
        """
        del initial
        return dict(state)


def head_modules(model: Any) -> list[str] | None:  # noqa: ANN401
    """Return the names of the modules with the head of a task; None for a model without one."""
    weights = getattr(model, "head_weights", None)
    return sorted({name.rpartition(".")[0] for name in weights}) if weights else None
