"""A few engines of `make proof`: what they give, and what a driver that cannot follow and lost machines cost."""

from tests.proof.goodput import RayCost, play


def test_engines_are_full_until_the_last_shard_is_given_out() -> None:
    found = play(8, 300.0)
    assert found["efficiency"] == 1.0 and 0.9 < found["whole"] < 1.0


def test_a_driver_that_cannot_follow_keeps_engines_waiting() -> None:
    found = play(32, 300.0, RayCost(call_s=0.2))
    assert found["driver_cores"] > 0.9 and found["efficiency"] < 0.9 and found["whole"] < 0.6


def test_lost_machines_cost_the_requests_under_way_alone() -> None:
    found = play(16, 1200.0, hazard_s=600.0)
    assert found["taken_away"] >= 2
    assert 0 < found["lost_with_requests_under_way"] < 0.02 and found["efficiency"] > 0.97
