"""Adafactor, which keeps the mean squares of a matrix as one number for each row and one for each column."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from gristmill.training.optim.contracts import Group, Optimizer
from gristmill.training.optim.pieces import Pieces

SETTINGS = ("lr", "beta2_decay", "eps", "d", "weight_decay")
"""PyTorch's names of the settings of a group."""
STATES = ("row_var", "col_var", "variance")
"""PyTorch's names of the mean squares: by row and by column of a matrix, and of other parameters."""


class Adafactor(Optimizer):
    """Step as Adam does, but without a mean of the gradients, and with almost no memory for states.

    A step is at most the learning rate times the root mean square of the weights that it changes. At ZeRO 1 and 2 the
    parameters at the border of two workers are put together at each step, at ZeRO 3 all, one after the other. Each
    worker that holds a part of a matrix keeps the states of the whole matrix.

    Source: Shazeer & Stern 2018, arXiv:1804.04235, algorithm 4. Departures: as in `torch.optim.Adafactor`, where the
    learning rate is an upper limit of the relative step.
    """

    kind: Literal["adafactor"] = "adafactor"
    whole: ClassVar[bool] = True

    beta2_decay: float = Field(default=-0.8, lt=0)
    """At each step, the mean squares keep the share 1 - step ** beta2_decay of their old values."""
    clip: float = Field(default=1.0, ge=1)
    """Largest root mean square of a step, before it is multiplied by the learning rate."""

    def make(self, groups: Sequence[Group], lr: float) -> Any:  # noqa: ANN401 - as `Optimizer.make`
        """Return PyTorch's Adafactor, which steps whole parameters out of the tensors of ZeRO."""
        import torch

        class ByParameter(torch.optim.Adafactor, Pieces):
            """Adafactor that steps the parameters inside its tensors one after the other."""

            @torch.no_grad()
            def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ANN401 - torch's signature
                del closure
                for group in self.param_groups:
                    for flat in group["params"]:
                        if flat.grad is not None:
                            self._step_flat(flat, group)

            def _step_flat(self, flat: Any, group: dict[str, Any]) -> None:  # noqa: ANN401 - a tensor
                state = self.state[flat]
                done = state.setdefault("step", torch.tensor(0.0))
                for piece in self.pieces_of(flat):
                    weight = torch.nn.Parameter(piece.whole(flat.detach()))
                    weight.grad = piece.whole(flat.grad)
                    if not piece.count:
                        continue
                    one: Any = torch.optim.Adafactor([weight], **{name: group[name] for name in SETTINGS})
                    names = {name: f"{name}.{piece.number}" for name in STATES}
                    if done:
                        kept = {name: state[place] for name, place in names.items() if place in state}
                        one.state[weight] = {"step": done.clone(), **kept}
                    one.step()
                    state |= {place: one.state[weight][n] for n, place in names.items() if n in one.state[weight]}
                    piece.part(flat).copy_(piece.of(weight.detach()))
                done += 1

        return ByParameter(self._tables(groups), lr=lr, beta2_decay=self.beta2_decay, d=self.clip)
