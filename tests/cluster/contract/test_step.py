"""What decides a step's fingerprint, and what does not."""

from typing import Any, ClassVar, Literal

import pytest
from pydantic import Field, ValidationError

from gristmill.cluster.contract.settings import Settings, Step


class Inner(Settings):
    not_identity: ClassVar[frozenset[str]] = frozenset({"actors"})

    limit: int = 3
    """Most there may be."""
    actors: int = 1


class Cut(Step):
    not_identity: ClassVar[frozenset[str]] = frozenset({"speed"})

    kind: Literal["cut"] = "cut"
    speed: int = 1
    words: tuple[str, ...] = ("a",)
    inner: Inner = Inner()
    args: dict[str, Any] = Field(default_factory=dict)


class Revised(Cut):
    revision: ClassVar[int] = 2


def test_the_same_settings_have_the_same_fingerprint() -> None:
    assert Cut(words=("a",)).fingerprint() == Cut.model_validate({"words": ["a"]}).fingerprint()


def test_every_setting_that_decides_the_data_changes_the_fingerprint() -> None:
    changed = [
        Cut(words=("b",)),
        Cut(words=()),
        Cut(inner=Inner(limit=4)),
        Cut(args={"x": {"y": 1}}),
        Cut(args={"x": 1}),
    ]
    assert len({step.fingerprint() for step in [Cut(), *changed]}) == len(changed) + 1


def test_how_fast_or_where_is_no_identity_at_any_depth() -> None:
    assert Cut(speed=9, inner=Inner(actors=5)).fingerprint() == Cut().fingerprint()
    assert Cut(args={"speed": 1}).fingerprint() != Cut().fingerprint()


def test_class_and_revision_belong_to_the_identity() -> None:
    class Other(Cut):
        pass

    assert len({Cut().fingerprint(), Other().fingerprint(), Revised().fingerprint()}) == 3


def test_a_step_is_frozen_and_refuses_unknown_keys_and_nan() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Cut().speed = 2  # type: ignore[misc]  # what is refused here
    with pytest.raises(ValidationError, match="Extra inputs"):
        Cut.model_validate({"sped": 2})

    class Rate(Settings):
        value: float = 0.0

    with pytest.raises(ValidationError, match="finite"):
        Rate(value=float("nan"))


def test_a_setting_is_documented_by_the_string_under_it() -> None:
    assert Inner.model_fields["limit"].description == "Most there may be."


def test_an_open_dictionary_with_an_unstable_value_is_refused() -> None:
    with pytest.raises(TypeError, match="args"):
        Cut(args={"x": print}).fingerprint()
