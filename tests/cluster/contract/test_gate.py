"""The gate: samples and JSON that no file could hold."""

import math
from dataclasses import replace

import pytest

from gristmill.cluster.contract import gate
from gristmill.cluster.contract.gate import GateError, admit_sample
from gristmill.cluster.contract.sample import Message, Sample, from_table, to_table

GOOD = Sample("0" * 32, (Message("user", "a\x00b"), Message("assistant", "c")), scores={"judge": 4.5}, tags={"a": "b"})


def test_a_good_sample_passes_as_it_is() -> None:
    assert admit_sample(GOOD) is GOOD


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            {"messages": (Message("user", "x \ud83d"),)},
            "row: field 'messages[0]' holds half a surrogate pair at character 2",
        ),
        ({"tools": "\udc00"}, "row: field 'tools' holds half a surrogate pair"),
        ({"tags": {"a": "\udc00"}}, "row: field 'tags' holds half a surrogate pair"),
        ({"tags": {"\udc00": "a"}}, "row: field 'tags' holds half a surrogate pair"),
        ({"scores": {"judge": 1e39}}, "row: field 'scores.judge' is 1e+39, must be within"),
        ({"scores": {"judge": math.inf}}, "row: field 'scores.judge' is inf"),
        ({"scores": {"judge": math.nan, "other": 1.0}}, "row: field 'scores.judge' is nan"),
    ],
)
def test_a_sample_that_no_file_could_hold_is_dropped(changed: dict[str, object], reason: str) -> None:
    dropped = admit_sample(replace(GOOD, **changed))  # type: ignore[arg-type]  # fields of different types
    assert str(dropped.dropped).startswith(reason)
    [back] = from_table(to_table([dropped]))
    assert back.messages == dropped.messages and all(math.isfinite(score) for score in back.scores.values())


def test_json_that_is_deep_is_refused_and_what_is_wide_is_not() -> None:
    assert len(gate.parse("[" + ", ".join(["[1]"] * 500) + "]")) == 500
    with pytest.raises(GateError, match="more than 100 lists and tables in each other"):
        gate.parse("[" * 101 + "]" * 101)
