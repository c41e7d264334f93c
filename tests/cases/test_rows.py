"""Cases after public bug reports about rows that were damaged or lost on their way in."""

from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.contract.sample import Message, Sample, ToolCall
from gristmill.cluster.io.export import export
from gristmill.cluster.io.forms import ExportForm
from gristmill.cluster.io.ingest import Source, ingest, read
from gristmill.cluster.store.store import Store
from tests.invariants import samples_of

HERE = Path(__file__).parent
CALL = ToolCall("c1", "weather", '{"town": "harbour"}')


def case(number: int) -> Source:
    [folder] = HERE.glob(f"{number:02d}-*")
    return Source(path=(str(folder / "in.jsonl"),), on_bad_row="drop")


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str | None, **more: Any) -> Message:
    return Message("assistant", text, **more)


RIGHT: dict[int, list[tuple[Message, ...] | str]] = {
    1: [
        (
            user("Is it raining in the harbour town?"),
            assistant("Let me look.", tool_calls=(CALL,)),
            Message("tool", '{"rain": true}', tool_call_id="c1", name="weather"),
            assistant("Yes, it rains."),
        )
    ],
    3: [
        (
            user("Add 2 and 5."),
            assistant(None, tool_calls=(ToolCall(None, "add", "{}"),)),
            Message("tool", "7"),
            assistant("It is 7."),
        )
    ],
    4: [
        (Message("system", "Answer in one word only."), user("Capital of Italy?"), assistant("Rome")),
        (Message("system", "Answer as a pirate."), user("Capital of Spain?"), assistant("Arr, Madrid!")),
    ],
    6: [(user("17+5?"), assistant("22", reasoning="17 and 5 make 22."))],
    15: ["field 'label' holds half a surrogate pair at character 6", (user("bad"), assistant("sad"))],
    17: ["field 'messages[0].content' holds half a surrogate pair", (user("hi"), assistant("ok 👍"))],
    28: [
        (
            user("What is this?")._replace(
                parts='[{"type": "text", "text": 13}, {"type": "image_url", "image_url": {"url": "file.png"}}]'
            ),
            assistant("A lamp."),
        ),
        (user("Line 1.\nLine 2."), assistant("ok")),
    ],
    30: ["field 'scores.votes' is the number 1e+39, must be within", "field 'scores.votes' is the number 16777217"],
    48: [
        (
            Message("system", "只用一个字回答。"),
            user("一加一？"),
            assistant("二"),
            user("再加一？"),
            assistant("三"),
        )
    ],
    49: [(user("Say hi."), assistant("Hi!")), (user("Say hi."), assistant("No."))],
    51: [
        (user("Name\u200b a river\ufeff."), assistant("Elbe")),
        (user("Name a river."), assistant("Rhine")),
        (user("Cafe\u0301?"), assistant("yes")),
        (user("Caf\u00e9?"), assistant("yes")),
        (user("\u202eabc\u202c?"), assistant("rtl")),
        (user("a\x00b?"), assistant("nul")),
        (user("line\u2028two?"), assistant("ls")),
        "field 'prompt' is empty",
        (user("👩\u200d👩\u200d👧\u200d👦?"), assistant("family")),
        "field 'prompt' is empty",
    ],
    57: [(user("a?"), assistant("b")), (user("line\u2028two\x85three?"), assistant("d\x00e"))],
}


@pytest.mark.parametrize("number", RIGHT)
def test_a_case_comes_out_right(number: int) -> None:
    samples = list(read(case(number)))
    assert len(samples) == len(RIGHT[number])
    for sample, right in zip(samples, RIGHT[number], strict=True):
        if isinstance(right, str):
            assert right in str(sample.dropped)
        else:
            assert (sample.messages, sample.dropped) == (right, None)


def test_tools_come_with_the_row_and_an_empty_list_is_none() -> None:
    [with_tools], [without] = read(case(1)), read(case(3))
    assert (
        with_tools.tools == '[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]'
    )
    assert without.tools is None


def test_candidates_share_a_group_and_their_scores_order_them() -> None:
    good, bad = read(case(49))
    assert good.tags["group"] == bad.tags["group"]
    assert (good.scores, bad.scores) == ({"preference": 1.0}, {"preference": 0.0})


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_an_export_brings_back_scores_tags_and_every_character(form: ExportForm, store: Store, tmp_path: Path) -> None:
    name = ingest(store, case(57))
    target = tmp_path / f"out.{form}"
    export(store, name, target, form)
    back = list(read(Source(path=(str(target),))))
    assert back == samples_of(store, name)
    assert [sample.scores for sample in back] == [{"judge": 4.5}, {"judge": 1.5}]


def identity(samples: list[Sample]) -> list[tuple[str, Any, Any]]:
    return [(sample.id, sample.messages, sample.scores) for sample in samples]


def test_the_forms_for_tuning_by_preference_bring_back_the_candidates(store: Store, tmp_path: Path) -> None:
    name = ingest(store, case(49))
    export(store, name, tmp_path / "pairs.jsonl", "preference")
    assert identity(list(read(Source(path=(str(tmp_path / "pairs.jsonl"),))))) == identity(samples_of(store, name))


def test_columns_of_a_csv_file_say_system_weight_and_what_is_context(tmp_path: Path) -> None:
    lines = "prompt,completion,system,weight,train\na?,b,Be brief.,0.5,false\nc?,d,,,\n"
    (tmp_path / "x.csv").write_text(lines, encoding="utf-8")
    first, second = read(Source(path=(str(tmp_path / "x.csv"),)))
    assert [turn.role for turn in first.messages] == ["system", "user", "assistant"]
    assert (first.scores, first.messages[-1].train) == ({"weight": 0.5}, False)
    assert (second.scores, second.messages) == ({}, (user("c?"), assistant("d")))
