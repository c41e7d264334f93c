"""The rows and the rate of a step follow from the step alone."""

import math

import numpy as np
import pytest

from gristmill.training.optim.schedule import Schedule, batch_of, global_batch, learning_rate, num_steps, plateau, share


@pytest.mark.parametrize(("world", "micro"), [(1, 1), (2, 1), (4, 2), (8, 1)])
def test_all_workers_together_take_the_same_rows_whatever_their_number(world: int, micro: int) -> None:
    places = global_batch(7, seed=3, groups=50, batch=8)
    taken = np.concatenate([share(places, rank, world, micro).ravel() for rank in range(world)])
    assert sorted(taken.tolist()) == sorted(places.tolist())
    assert share(places, 0, world, micro).shape == (8 // (world * micro), micro)


def test_an_epoch_holds_every_row_once_and_the_next_one_in_another_order() -> None:
    stream = np.concatenate([global_batch(step, seed=0, groups=10, batch=4) for step in range(5)])
    assert sorted(stream[:10].tolist()) == sorted(stream[10:].tolist()) == list(range(10))
    assert stream[:10].tolist() != stream[10:].tolist()


def test_a_step_is_the_same_whenever_it_is_asked_for() -> None:
    first = global_batch(9, seed=5, groups=7, batch=3)
    for step in range(9):
        global_batch(step, seed=5, groups=7, batch=3)
    assert global_batch(9, seed=5, groups=7, batch=3).tolist() == first.tolist()
    assert global_batch(9, seed=6, groups=7, batch=3).tolist() != first.tolist()


def test_the_batches_left_out_are_jumped_over() -> None:
    assert [batch_of(step, ()) for step in range(4)] == [0, 1, 2, 3]
    assert [batch_of(step, (3, 0, 4)) for step in range(4)] == [1, 2, 5, 6]


def test_steps_cover_the_epochs() -> None:
    assert num_steps(3, 10, 4) == 8
    assert num_steps(1, 8, 4) == 2
    assert num_steps(0.1, 3, 8) == 1


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_rate_rises_to_its_peak_and_never_above(schedule: Schedule) -> None:
    rates = [learning_rate(s, steps=50, peak=1.0, warmup=0.1, schedule=schedule) for s in range(50)]
    assert rates[:6] == sorted(rates[:6])
    assert max(rates) == rates[5] == 1.0
    assert min(rates) > 0
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert (rates[-1] < 0.05) == (schedule != "constant")


def test_rates_fall_as_their_schedules_say() -> None:
    def rates(schedule: Schedule, **more: float) -> list[float]:
        return [learning_rate(s, steps=11, peak=2.0, warmup=0.0, schedule=schedule, **more) for s in range(11)]

    half = rates("cosine", lowest=0.1)
    assert half[0] == 2.0
    assert half[5] == pytest.approx(0.2 + 1.8 * 0.5 * (1 + math.cos(math.pi * 5 / 11)))
    assert rates("linear", lowest=0.5) == pytest.approx([2 - n / 11 for n in range(11)])
    assert rates("wsd", decay=0.4) == pytest.approx([2.0] * 6 + [2.0, 1.6, 1.2, 0.8, 0.4])
    assert rates("wsd", decay=1.0) == rates("linear")
    assert rates("constant") == [2.0] * 11


@pytest.mark.parametrize(("patience", "factor", "lowest"), [(0, 0.5, 0.0), (2, 0.1, 0.0), (1, 0.3, 0.05)])
def test_the_rate_falls_on_a_plateau_as_in_pytorch(patience: int, factor: float, lowest: float) -> None:
    import torch

    rng = np.random.default_rng(patience)
    losses = np.round(3 * 0.9 ** np.arange(40) + rng.normal(0, 0.3, 40), 2).tolist()
    losses[7:9] = [losses[6] * (1 - 0.9e-4), float("nan")]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=factor, patience=patience, min_lr=lowest, eps=0.0
    )
    assert plateau([], patience=patience, factor=factor, lowest=lowest) == 1
    for count in range(1, 41):
        theirs.step(losses[count - 1])
        ours = plateau(losses[:count], patience=patience, factor=factor, lowest=lowest)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"]), count
    assert ours < 0.1
