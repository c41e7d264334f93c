"""Identity: what is refused, and digests that must never change, because paths in people's stores follow from them."""

import math

import pytest

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.sample import Message, seed_id


@pytest.mark.parametrize("value", [math.nan, math.inf, print, object(), {1, 2}, b"x", {"a": [1, {"b": len}]}, {1: "x"}])
def test_a_value_without_a_stable_form_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match=r"must be|no stable form"):
        ids.canonical(value)


def test_the_place_of_an_unstable_value_is_named() -> None:
    with pytest.raises(TypeError, match=r"value\.method\[1\]\.prompt"):
        ids.canonical({"method": [1, {"prompt": print}]})


def test_canonical_json_does_not_depend_on_the_order_of_keys_or_on_list_or_tuple() -> None:
    assert (
        ids.canonical({"b": (1, 2), "a": "é中"}) == ids.canonical({"a": "é中", "b": [1, 2]}) == '{"a":"é中","b":[1,2]}'
    )


def test_known_digests_stay() -> None:
    assert ids.digest("a", 1, None, [True, 0.5]) == "895c982e63475961ef36c4b3b7557f30"
    assert seed_id([Message("user", "hi"), Message("assistant", "你好")]) == "9553f1b2d10172d42a4261fe3078b6cd"
    assert ids.made_id("step", ["p", "q"], 7) == "d0eac4a03fd3fc51f1ffebce0bb48fe1"
    assert ids.request_seed("d0eac4a03fd3fc51f1ffebce0bb48fe1", 2) == 1100379066
    assert ids.stream("a", 1).random() == 0.32614999754897733


def test_parts_of_a_digest_do_not_run_together() -> None:
    assert len({ids.digest("ab", "c"), ids.digest("a", "bc"), ids.digest("abc"), ids.digest(["ab", "c"])}) == 4


def test_a_made_id_tells_step_parents_and_ordinal_apart() -> None:
    made = {ids.made_id(s, p, n) for s in "xy" for p in (["a"], ["a", "b"], ["b", "a"]) for n in range(3)}
    assert len(made) == 18
    assert all(len(value) == ids.ID_HEX for value in made)


def test_request_seeds_fit_into_31_bits_and_differ_from_call_to_call() -> None:
    seeds = [ids.request_seed(ids.digest("x"), call) for call in range(200)]
    assert len(set(seeds)) == 200
    assert all(0 <= s < 2**31 for s in seeds)


def test_a_stream_depends_on_its_parts_alone() -> None:
    assert ids.stream("a", 1).sample(range(1000), 5) == ids.stream("a", 1).sample(range(1000), 5)
    assert ids.stream("a", 1).random() != ids.stream("a", 2).random()
