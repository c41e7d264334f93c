"""Training of some weights, chosen by their layers or names; the other weights are frozen."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from gristmill.cluster.contract.errors import RunError
from gristmill.training.tuning.contracts import Tuning


class Freeze(Tuning):
    """Train only the last layers, or only weights with names that match patterns, or both. It makes no adapter.

    The head of a task is trained in any case.
    """

    kind: Literal["freeze"] = "freeze"
    usual_rate: ClassVar[float] = 1e-4
    partial: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {"last_layers": 2}

    train: tuple[str, ...] = ()
    """Regular expressions, such as `model.layers.2[0-9].*`. A weight is trained if one of them matches its complete
    name. The names are those in the model's file."""
    last_layers: int = Field(default=0, ge=0)
    """Number of layers that are trained, counted from the last one. The head and the last norm are not trained."""

    @field_validator("train")
    @classmethod
    def _compiles(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"must be a regular expression ({error})") from None
        return patterns

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.train and not self.last_layers:
            raise ValueError("nothing is trained, must have `train` or `last_layers`")
        return self

    @property
    def said(self) -> str:
        """The trained weights in words."""
        layers = f"the last {self.last_layers} layers" if self.last_layers else ""
        return " and ".join(filter(None, (layers, f"weights like {', '.join(self.train)}" if self.train else "")))

    def begin(self, model: Any) -> Any:  # noqa: ANN401 - as `Tuning.begin`
        """Return the model; only its chosen weights require a gradient."""
        unmatched, chosen, head = set(self.train), self._of_layers(model), getattr(model, "head_weights", ())
        for name, parameter in model.named_parameters():
            matched = {pattern for pattern in self.train if re.fullmatch(pattern, name)}
            unmatched -= matched
            parameter.requires_grad_(bool(matched) or name.startswith(chosen) or name in head)
        if unmatched:
            names = ", ".join(list(dict(model.named_parameters()))[-3:])
            raise RunError(
                f"train.tuning.train: {', '.join(sorted(unmatched))} matches no weight of the model, must match one "
                f"whole name, such as {names}"
            )
        return model

    def _of_layers(self, model: Any) -> tuple[str, ...]:  # noqa: ANN401
        """Return the prefixes of the names of weights in the last layers."""
        if not self.last_layers:
            return ()
        prefix, count = max(_lists(model), key=lambda found: found[1], default=("", 0))
        if self.last_layers > count:
            raise RunError(
                f"train.tuning.last_layers: {self.last_layers}, must be at most {count}, which the model has"
            )
        return tuple(f"{prefix}.{place}." for place in range(count - self.last_layers, count))


def _lists(model: Any) -> Iterator[tuple[str, int]]:  # noqa: ANN401
    """Yield the names of a model's lists of modules, with their lengths. The longest list has the layers."""
    import torch

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList):
            yield name, len(module)
