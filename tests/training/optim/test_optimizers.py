"""Each optimizer takes the steps that its paper gives, worked out by hand, and decays what is to decay."""

import math
from typing import Any

import pytest
from pydantic import TypeAdapter

from gristmill.training.optim import AnyOptimizer
from gristmill.training.optim.contracts import Group, Optimizer
from gristmill.training.optim.pieces import Piece


def made(**settings: Any) -> Optimizer:
    found: Optimizer = TypeAdapter[Optimizer](AnyOptimizer).validate_python(settings)
    return found


def after(chosen: Optimizer, gradients: list[float], *, decays: bool = True) -> float:
    """Return a weight that was 2, after steps with these gradients at the rate 0.1."""
    import torch

    weight = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = chosen.make([Group([weight], matrices=False, decays=decays, relative_rate=1.0)], 0.1)
    for gradient in gradients:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
    return float(weight.detach())


def test_adamw_steps_by_mean_over_root_of_mean_square_and_decays_apart() -> None:
    chosen = made(kind="adamw", betas=(0.8, 0.9), eps=1e-3, weight_decay=0.5)
    weight, mean, square = 2.0, 0.0, 0.0
    for step, gradient in enumerate((1.0, -3.0), 1):
        mean, square = 0.8 * mean + 0.2 * gradient, 0.9 * square + 0.1 * gradient**2
        weight -= 0.1 * 0.5 * weight
        weight -= 0.1 * (mean / (1 - 0.8**step)) / (math.sqrt(square / (1 - 0.9**step)) + 1e-3)
    assert after(chosen, [1.0, -3.0]) == pytest.approx(weight, abs=1e-9)
    assert after(chosen, [0.0], decays=False) == 2.0
    assert after(chosen, [0.0]) == pytest.approx(2 - 0.1 * 0.5 * 2)


def test_sgd_steps_along_a_sum_that_keeps_its_momentum() -> None:
    assert after(made(kind="sgd", momentum=0.5), [1.0, 1.0, 0.0]) == pytest.approx(2 - 0.1 * (1 + 1.5 + 0.75))
    assert after(made(kind="sgd", momentum=0.5, nesterov=True), [1.0]) == pytest.approx(2 - 0.1 * 1.5)
    assert after(made(kind="sgd", momentum=0.0, weight_decay=0.5), [1.0]) == pytest.approx(2 - 0.1 * (1 + 0.5 * 2))


def test_adafactor_takes_a_step_of_the_rate_times_the_size_of_the_weight() -> None:
    """The mean squares are the square at the first step, and at the second keep 1 - 2 ** -0.8 of it."""
    assert after(made(kind="adafactor"), [5.0]) == pytest.approx(2 - 0.1 * 2.0)
    second = math.sqrt((1 - 2**-0.8) * 25 + 2**-0.8)
    assert after(made(kind="adafactor"), [5.0, 1.0]) == pytest.approx(1.8 - 0.1 * 1.8 / second)


def test_muon_steps_a_matrix_by_what_is_nearly_orthogonal_and_the_rest_by_adamw() -> None:
    import torch

    matrix, bias = torch.nn.Parameter(torch.zeros(4, 8)), torch.nn.Parameter(torch.zeros(4))
    groups = [
        Group([matrix], matrices=True, decays=True, relative_rate=1.0),
        Group([bias], matrices=False, decays=False, relative_rate=1.0),
    ]
    optimizer = made(kind="muon").make(groups, 0.1)
    matrix.grad = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    bias.grad = torch.tensor([1.0, -2.0, 3.0, -4.0])
    optimizer.step()
    size = 0.1 * 0.2 * math.sqrt(8)  # the rate times 0.2 times the root of the longer side
    values = torch.linalg.svdvals(matrix.detach()) / size
    assert ((values > 0.6) & (values < 1.3)).all(), "five Newton-Schulz steps bring singular values near 1"
    assert torch.allclose(bias, -0.1 * bias.grad.sign(), atol=1e-5)


@pytest.mark.parametrize("kind", ["muon", "adafactor"])
def test_whole_matrices_step_as_in_pytorch(kind: str) -> None:
    import torch

    generator = torch.Generator().manual_seed(2)
    first = [torch.randn(shape, generator=generator) for shape in ((6, 4), (4, 6), (5, 5))]
    ours, theirs = ([torch.nn.Parameter(one.clone()) for one in first] for _ in range(2))
    own = made(kind=kind, weight_decay=0.2).make([Group(ours, matrices=True, decays=True, relative_rate=1.0)], 0.1)
    peer: torch.optim.Optimizer = (
        torch.optim.Muon(theirs, lr=0.1, weight_decay=0.2, adjust_lr_fn="match_rms_adamw")
        if kind == "muon"
        else torch.optim.Adafactor(theirs, lr=0.1, weight_decay=0.2)
    )
    for number in range(3):
        for optimizer, weights in ((own, ours), (peer, theirs)):
            for weight in weights:
                weight.grad = torch.cos(weight.detach() + number)
            optimizer.step()
    for one, other, begin in zip(ours, theirs, first, strict=True):
        assert torch.equal(one, other) and not torch.equal(one, begin)


def test_a_flat_tensor_is_stepped_by_the_matrices_inside_it() -> None:
    import torch

    generator = torch.Generator().manual_seed(3)
    shapes = ((6, 4), (4, 3))
    apart = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    flat = torch.nn.Parameter(torch.cat([torch.zeros(2), *(one.detach().flatten() for one in apart), torch.zeros(3)]))
    places = [Piece(n, shape, at, 0, shape[0] * shape[1], split=False, device="cpu")
              for n, (shape, at) in enumerate(zip(shapes, (2, 26), strict=True))]  # fmt: skip
    for kind in ("muon", "adafactor"):
        one, many = (
            made(kind=kind).make([Group(some, matrices=True, decays=True, relative_rate=1.0)], 0.1)
            for some in ([flat], apart)
        )
        one.pieces = {flat: [*places, Piece(2, (9, 9), 0, 0, 0, split=False, device="cpu")]}
        for number in range(3):
            for weight in apart:
                weight.grad = torch.cos(weight.detach() + number)
            flat.grad = torch.cat(
                [torch.zeros(2), *(torch.cos(w.detach() + number).flatten() for w in apart), torch.zeros(3)]
            )
            many.step()
            one.step()
        for place, weight in zip(places, apart, strict=True):
            assert torch.equal(place.part(flat).view(place.shape), weight)
        assert not any(name.endswith(".2") for name in one.state[flat]), "the state of what others hold"


def test_two_optimizers_as_one_share_rates_and_continue_from_a_state() -> None:
    import torch

    def problem() -> tuple[list[Any], Any]:
        generator = torch.Generator().manual_seed(1)
        weights = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 3), (3,))]
        groups = [
            Group([weights[0]], matrices=True, decays=True, relative_rate=2.0),
            Group([weights[1]], matrices=False, decays=False, relative_rate=1.0),
        ]
        return weights, made(kind="muon").make(groups, 0.1)

    def step(weights: list[Any], optimizer: Any, number: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (number + 1) * group["relative_rate"]
        for weight in weights:
            weight.grad = torch.cos(weight.detach() + number)
        optimizer.step()

    whole, first = problem()
    for number in range(4):
        step(whole, first, number)
    broken, second = problem()
    for number in range(2):
        step(broken, second, number)
    again, third = problem()
    for old, new in zip(broken, again, strict=True):
        new.data.copy_(old.data)
    third.load_state_dict(second.state_dict())
    for number in range(2, 4):
        step(again, third, number)
    assert all(torch.equal(one, other) for one, other in zip(whole, again, strict=True))
