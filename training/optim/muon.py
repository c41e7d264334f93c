"""Muon: the step of a matrix is its momentum made orthogonal; everything else steps by AdamW."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from gristmill.training.optim.adamw import Beta
from gristmill.training.optim.contracts import Group, Optimizer


class Muon(Optimizer):
    """Step matrices of layers along their orthogonal momentum, and the rest as AdamW does.

    It keeps one number for each weight of a matrix.

    Source: Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks; the scale of its steps, which
    lets both parts have one learning rate: Liu et al. 2025, arXiv:2502.16982, section 2.2.
    """

    kind: Literal["muon"] = "muon"
    whole: ClassVar[bool] = True
    example_job: ClassVar[Mapping[str, Any]] = {"zero": {"stage": 0}}

    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Share of the momentum that is kept at each step."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """The `betas` of AdamW, for embeddings, the head, norms and biases."""
    eps: float = Field(default=1e-8, gt=0)
    """The `eps` of AdamW."""

    def make(self, groups: Sequence[Group], lr: float) -> Any:  # noqa: ANN401 - as `Optimizer.make`
        """Return PyTorch's Muon and AdamW as one optimizer."""
        import torch

        matrices, others = ([g for g in groups if g.matrices is wanted] for wanted in (True, False))
        parts: list[Any] = []
        if matrices:
            tables = self._tables(matrices)
            parts.append(torch.optim.Muon(tables, lr=lr, momentum=self.momentum, adjust_lr_fn="match_rms_adamw"))
        if others:
            parts.append(torch.optim.AdamW(self._tables(others), lr=lr, betas=self.betas, eps=self.eps, fused=True))
        return _together(parts)


def _together(parts: Sequence[Any]) -> Any:  # noqa: ANN401
    """Return several optimizers as one, which has the groups of all."""
    import torch

    class Together(torch.optim.Optimizer):
        """Optimizers that step one after the other."""

        def __init__(self) -> None:
            self.parts = parts
            super().__init__([group for part in parts for group in part.param_groups], {})

        def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ANN401 - torch's own signature
            del closure
            for part in parts:
                part.step()

        def state_dict(self) -> dict[str, Any]:
            return {"parts": [part.state_dict() for part in parts]}

        def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
            for part, state in zip(parts, state_dict["parts"], strict=True):
                part.load_state_dict(state)
            self.param_groups[:] = [group for part in parts for group in part.param_groups]  # loading replaces them

    return Together()
