"""Muon: the step of a matrix is its momentum made orthogonal; everything else steps by AdamW."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from gristmill.training.optim.adamw import Beta
from gristmill.training.optim.contracts import Group, Optimizer
from gristmill.training.optim.pieces import Pieces

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the polynomial of a Newton-Schulz step, from Jordan et al. 2024."""
STEPS = 5
"""Newton-Schulz steps, which bring the singular values near 1 (0.68 to 1.13)."""


class Muon(Optimizer):
    """Step matrices of layers along their orthogonal momentum, and the rest as AdamW does.

    It keeps one number for each weight of a matrix. At ZeRO 1 and 2 the matrices at the border of two workers are put
    together at each step, at ZeRO 3 all matrices, one after the other.

    Source: Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks; the scale of its steps, which
    lets both parts have one learning rate: Liu et al. 2025, arXiv:2502.16982, section 2.2.
    """

    kind: Literal["muon"] = "muon"
    whole: ClassVar[bool] = True

    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Share of the momentum that is kept at each step."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """The `betas` of AdamW, for embeddings, the head, norms and biases."""
    eps: float = Field(default=1e-8, gt=0)
    """The `eps` of AdamW."""

    def make(self, groups: Sequence[Group], lr: float) -> Any:  # noqa: ANN401 - as `Optimizer.make`
        """Return PyTorch's AdamW, which steps matrices in another way. The steps are those of PyTorch's Muon."""
        import torch

        class OrthogonalSteps(torch.optim.AdamW, Pieces):
            """AdamW that makes the steps of the groups with `matrices` orthogonal."""

            @torch.no_grad()
            def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ANN401 - torch's signature
                del closure
                groups = self.param_groups
                for group in groups:
                    for flat in group["params"] if group["matrices"] else ():
                        if flat.grad is not None:
                            self._step_matrices(flat, group)
                self.param_groups = [group for group in groups if not group["matrices"]]
                try:
                    super().step()
                finally:
                    self.param_groups = groups

            def _step_matrices(self, flat: Any, group: dict[str, Any]) -> None:  # noqa: ANN401 - a tensor
                state = self.state[flat]
                if not state:
                    state |= {"step": torch.tensor(0.0), "momentum_buffer": torch.zeros_like(flat)}
                state["step"] += 1  # AdamW looks for it when states are loaded
                mean = state["momentum_buffer"]
                mean.lerp_(flat.grad, 1 - group["momentum"])
                update = flat.grad.lerp(mean, group["momentum"])
                flat.mul_(1 - group["lr"] * group["weight_decay"])
                for piece in self.pieces_of(flat):
                    whole = piece.whole(update)
                    if piece.count:
                        size = group["lr"] * 0.2 * max(piece.shape) ** 0.5
                        piece.part(flat).add_(piece.of(orthogonal(whole)).to(flat.device), alpha=-size)

        tables = self._tables(groups)
        for table, given in zip(tables, groups, strict=True):
            table |= {"matrices": given.matrices, "momentum": self.momentum}
        return OrthogonalSteps(tables, lr=lr, betas=self.betas, eps=self.eps, fused=True)


def orthogonal(matrix: Any) -> Any:  # noqa: ANN401 - tensors
    """Return a matrix with the singular vectors of another one, and singular values near 1; in bf16, [rows, columns].

    Source: as `torch.optim.Muon`.
    """
    import torch

    a, b, c = COEFFICIENTS
    upright = matrix.size(0) > matrix.size(1)
    found = matrix.bfloat16()
    found = found.T if upright else found
    found = found / found.norm().clamp(min=1e-7)
    for _ in range(STEPS):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.T if upright else found
