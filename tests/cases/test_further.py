"""Further inputs of the kinds that the cases have: what comes out of each, or how it is refused."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import ipc

from gristmill.cluster.contract.chat import to_openai
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.io.ingest import Source, ingest, read
from gristmill.cluster.store.store import Store
from tests.cluster.io.sources import lines, put

Q = {"role": "user", "content": "q"}
PAIR = {"prompt": "q", "completion": "a"}


def came(path: Path, **settings: Any) -> list[Sample]:
    return list(read(Source.model_validate({"path": str(path), "on_bad_row": "drop", **settings})))


def said(path: Path, **settings: Any) -> list[tuple[str, str] | str]:
    """Question and answer of each row, or why it was dropped."""
    return [s.dropped or (s.instruction, s.answer) for s in came(path, **settings)]


def rows(tmp_path: Path, *values: object, **settings: Any) -> list[Sample]:
    return came(put(tmp_path, "x.jsonl", lines(*values)), **settings)


def refused(path: Path, **settings: Any) -> str:
    with pytest.raises(JobError) as caught:
        came(path, **settings)
    return str(caught.value)


def answering(turn: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [Q, {"role": "assistant", **turn}]}


# -- 01, 03, 28, 35: turns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("caller", ["function_call", "function-call", "tool_calls", "Tool Call".replace(" ", "_")])
@pytest.mark.parametrize("teller", ["observation", "function_response", "function-result", "tool_result", "ipython"])
def test_calls_and_their_results_have_many_speakers(caller: str, teller: str, tmp_path: Path) -> None:
    call = '{"name": "add", "arguments": {"a": 2}}'
    turns = [("human", "q"), (caller, call), (teller, "7"), ("gpt", "It is 7.")]
    [sample] = rows(tmp_path, {"conversations": [{"from": speaker, "value": text} for speaker, text in turns]})
    assert [turn.role for turn in sample.messages] == ["user", "assistant", "tool", "assistant"]
    assert sample.messages[1].tool_calls[0].arguments == '{"a": 2}'


@pytest.mark.parametrize("asks", ["Human", "USER", " user ", "prompter"])
@pytest.mark.parametrize("answers", ["AI", "Assistant", "chatbot", "bard", "MODEL"])
def test_speakers_are_known_by_many_names(asks: str, answers: str, tmp_path: Path) -> None:
    [sample] = rows(tmp_path, {"messages": [{"role": asks, "content": "q"}, {"role": answers, "content": "a"}]})
    assert [turn.role for turn in sample.messages] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("part", "text", "thought", "left"),
    [
        ({"type": "output_text", "text": "a", "annotations": []}, "a", None, None),
        ({"type": "input_text", "text": "a"}, "a", None, None),
        ({"type": "refusal", "refusal": "No."}, "No.", None, None),
        ({"text": "a"}, "a", None, None),
        ({"type": "refusal", "refusal": "No.", "why": 1}, "No.", None, '[{"type": "refusal", "refusal": 3, "why": 1}]'),
        (
            {"type": "image_url", "image_url": {"url": "x"}},
            None,
            None,
            '[{"type": "image_url", "image_url": {"url": "x"}}]',
        ),
    ],
)
def test_parts_of_every_kind_are_text_or_kept(
    part: dict[str, Any], text: str | None, thought: str | None, left: str | None, tmp_path: Path
) -> None:
    [sample] = rows(tmp_path, answering({"content": [part]}))
    turn = sample.messages[-1]
    assert (turn.content, turn.reasoning, turn.parts) == (text, thought, left)
    if left:
        assert to_openai(turn)["content"] == [part]


def test_a_thought_among_the_parts_is_the_thought_of_the_turn(tmp_path: Path) -> None:
    parts = [{"type": "thinking", "thinking": "Hm.", "signature": "s"}, {"type": "text", "text": "a"}]
    signed, plain = rows(
        tmp_path, answering({"content": parts}), answering({"content": [{**parts[0], "signature": None}, parts[1]]})
    )
    assert (signed.messages[1].reasoning, signed.messages[1].content) == ("Hm.", "a")
    assert signed.messages[1].parts == '[{"type": "thinking", "signature": "s"}, {"type": "text", "text": 1}]'
    assert plain.messages[1][1:3] == ("a", "Hm.") and plain.messages[1].parts is None


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ({"type": "text"}, "content[0].text' is absent"),
        ({"content_type": "text", "parts": ["a"]}, "content[0]' is a table, must be text or a table with its type"),
        ({"type": "text", "text": 5}, "content[0].text' is the number 5"),
    ],
)
def test_a_part_without_a_text_is_named(part: dict[str, Any], problem: str, tmp_path: Path) -> None:
    [sample] = rows(tmp_path, answering({"content": [part]}), PAIR, shape="messages")[:1]
    assert problem in str(sample.dropped)


@pytest.mark.parametrize(
    ("turn", "lost"),
    [
        ({"content": "a", "thought": "Hm."}, "messages[].thought"),
        ({"content": "a", "refusal": "No."}, "messages[].refusal"),
        ({"content": "a", "audio": {"id": 1}}, "messages[].audio"),
    ],
)
def test_a_key_of_a_turn_that_says_something_is_not_left_out_silently(
    turn: dict[str, Any], lost: str, tmp_path: Path
) -> None:
    path = put(tmp_path, "x.jsonl", lines(answering(turn)))
    assert f"x.jsonl:1: key '{lost}' is not read" in refused(path)
    assert said(path, ignore=[lost]) == [("q", "a")]


def test_a_key_of_a_call_is_in_the_account(tmp_path: Path, store: Store) -> None:
    call = {"id": "c", "index": 0, "function": {"name": "f", "arguments": "{}"}, "result": "7"}
    path = put(tmp_path, "x.jsonl", lines(answering({"content": None, "tool_calls": [call]})))
    account = json.loads(store.manifest(ingest(store, Source(path=(str(path),)))).metadata["columns"])
    assert account["not read"] == {"messages[].tool_calls[].result": 1}


# -- 04, 06, 25, 48, 77: columns ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["system_message", "System Prompt", "system-prompt", " SYSTEM ", "\ufeffsystem"])
def test_a_system_prompt_has_many_names(name: str, tmp_path: Path) -> None:
    [sample] = rows(tmp_path, {name: "Be brief.", **PAIR})
    assert [turn.role for turn in sample.messages] == ["system", "user", "assistant"]


@pytest.mark.parametrize("name", ["reasoning", "thinking", "Reasoning-Content"])
@pytest.mark.parametrize("row", [PAIR, answering({"content": "a"}), {"text": "q", "label": "a"}])
def test_a_thought_in_a_column_is_that_of_the_answer(name: str, row: dict[str, Any], tmp_path: Path) -> None:
    [sample] = rows(tmp_path, {**row, name: "Hm."})
    assert (sample.messages[-1].content, sample.messages[-1].reasoning) == ("a", "Hm.")


def test_a_thought_that_belongs_to_no_answer_is_asked_about(tmp_path: Path) -> None:
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    for row in ({**pair, "reasoning": "Hm."}, {"text": "q", "thinking": "Hm."}, {**PAIR, "cot": "Hm."}):
        path = put(tmp_path, "x.jsonl", lines(row))
        assert "is not read by the shape" in refused(path)
    [sample] = came(path, columns={"reasoning": "CoT"})
    assert sample.messages[-1].reasoning == "Hm."


@pytest.mark.parametrize(
    ("row", "lost"),
    [
        ({"instruction": "Translate", "prompt": "q", "completion": "a"}, "instruction"),
        ({"messages": [Q], "response": "a"}, "response"),
        ({"problem": "q", "answer": "5", "solution": "2 and 3 make 5"}, "solution"),
        ({"question": "q", "ranks": ["a", "b"], "answer": "a"}, "ranks"),
        ({"question": "q", "passage": "p", "answer": "a"}, "passage"),
        ({"messages": [Q, {"role": "assistant", "content": "a"}], "images": ["x.png"]}, "images"),
    ],
)
def test_a_second_text_is_not_left_out_silently(row: dict[str, Any], lost: str, tmp_path: Path) -> None:
    path = put(tmp_path, "x.jsonl", lines(row))
    assert f"x.jsonl:1: column '{lost}' is not read by the shape" in refused(path)
    assert len(said(path, ignore=[lost])) == 1


def test_a_column_that_repeats_the_turns_is_none_of_these(tmp_path: Path) -> None:
    talk = answering({"content": "a long answer"})
    for more in ({"prompt": "q"}, {"conversations": talk["messages"]}, {"input": "<u>q</u><a>a long answer</a>"}):
        assert len(rows(tmp_path, {**talk, **more})) == 1
    path = put(tmp_path, "x.jsonl", lines({**talk, "prompt": "q"}, {**talk, "prompt": "another question"}))
    assert "x.jsonl:2: column 'prompt' is not read by the shape messages" in refused(path)


def test_the_shape_is_one_that_some_row_has(tmp_path: Path) -> None:
    label, pair = {"text": "t", "label": "l"}, {"prompt": "p", "completion": "c"}
    made = rows(tmp_path, label, pair, label | {"text": "u"})
    assert [sample.dropped is None for sample in made] == [False, True, False]


def test_a_label_that_comes_late_is_asked_about(tmp_path: Path) -> None:
    path = put(tmp_path, "x.jsonl", lines(*({"text": f"t{n}"} for n in range(1500)), {"text": "t", "label": "l"}))
    assert "x.jsonl:1501: column 'label' is not read by the shape document" in refused(path)


# -- 12, 13, 37, 46: values ---------------------------------------------------------------------------------------


def parquet(tmp_path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    return tmp_path / "x.parquet"


@pytest.mark.parametrize(
    ("value", "right"),
    [
        (Decimal("1.50"), "1.5"),
        (Decimal("2.00"), "2"),
        (True, "true"),
        (2**63 - 1, str(2**63 - 1)),
        (-0.0, "0"),
        (float("inf"), "field 'label' is the number inf, must be a word or a number"),
        (float("nan"), "field 'label' is absent"),
        (b"x", "field 'label' is of type bytes"),
        ([1, 2], "field 'label' is a list of 2"),
    ],
)
def test_a_label_of_any_type_is_what_people_write_or_refused(value: object, right: str, tmp_path: Path) -> None:
    [row] = said(parquet(tmp_path, text=["t"], label=[value]))
    assert row == ("t", right) if isinstance(row, tuple) else right in row


def test_names_of_class_labels_count_wherever_they_are(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets writes the names into the file")
    topic = datasets.ClassLabel(names=["sport", "art"])
    word, kinds = datasets.Value("string"), datasets.Sequence(topic)
    features = datasets.Features({"Text": word, "Tags": {"topic": topic}, "Label": topic, "kinds": kinds})
    values = {"Text": ["a", "b"], "Tags": [{"topic": 1}, {"topic": -1}], "Label": [0, 1], "kinds": [[0, 1], []]}
    datasets.Dataset.from_dict(values, features=features).to_parquet(tmp_path / "x.parquet")
    first, second = came(tmp_path / "x.parquet")
    assert first.tags["topic"] == "art" and "topic" not in second.tags
    assert [sample.answer for sample in (first, second)] == ["sport", "art"]


def test_numbers_are_answers_wherever_an_answer_may_be(tmp_path: Path) -> None:
    made = rows(tmp_path, {"prompt": "q", "chosen": 8, "rejected": 9.5})
    assert [sample.answer for sample in made] == ["8", "9.5"]
    assert [sample.answer for sample in rows(tmp_path, {"instruction": "q", "output": False})] == ["false"]


def test_a_map_with_a_key_twice_is_a_bad_row(tmp_path: Path) -> None:
    tags = pa.array([[("k", "v"), ("k", "w")]], pa.map_(pa.string(), pa.string()))
    [row] = said(parquet(tmp_path, text=["t"], tags=tags))
    assert "field 'tags' has the key 'k' twice" in row


def test_bytes_are_no_tag(tmp_path: Path) -> None:
    [row] = said(parquet(tmp_path, text=["t"], tags=[{"k": b"x"}]))
    assert "field 'tags.k' is of type bytes, must be a word" in row


def test_a_label_that_shows_nothing_is_empty(tmp_path: Path) -> None:
    [sample] = rows(tmp_path, {"text": "t", "label": "\u200b"})
    assert "field 'label' is empty" in str(sample.dropped)


# -- 15, 67: what is inside JSON text -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ('{"q": "\\ud83d"}', "holds half a surrogate pair"),
        ('{"q": 1, "q": 2}', "key 'q' comes twice"),
        ('{"q": Infinity}', "must be finite"),
        ("[" * 200 + "]" * 200, "more than 100 lists"),
    ],
)
def test_arguments_that_no_template_can_render_are_named(arguments: str, problem: str, tmp_path: Path) -> None:
    calls = [{"function": {"name": "f", "arguments": arguments}}]
    [sample] = rows(tmp_path, answering({"content": None, "tool_calls": calls}))
    assert "tool_calls[0].arguments' holds what cannot be taken in" in str(sample.dropped)
    assert problem in str(sample.dropped)


def test_arguments_that_are_no_json_stay_as_they_are(tmp_path: Path) -> None:
    calls = [{"function": {"name": "f", "arguments": '{"q": '}}]
    [sample] = rows(tmp_path, answering({"content": None, "tool_calls": calls}))
    assert sample.messages[-1].tool_calls[0].arguments == '{"q": '


# -- 07, 09, 32, 33, 39: text files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (
            'label,text\n"neg,bad\npos,ok\n',
            ["line 2: opens a quote at character 1 that is never closed", ("ok", "pos")],
        ),
        ('label,text\npos,ok\nneg,"bad', [("ok", "pos"), "line 3: opens a quote"]),
        ('label,text\npos,he said "hi"\nneg,"a" b\n', [('he said "hi"', "pos"), "line 3: opens a quote"]),
        ('label,text\npos,"a\\"b"\nneg,b\n', ["line 2: opens a quote", ("b", "neg")]),
        ("sep=;\ntext;label\na, b;pos\n", [("a, b", "pos")]),
        ("\ufefftext\tlabel\na, b\tpos\n", [("a, b", "pos")]),
        ("text,label\na,pos\n\ufefftext,label\nb,neg\n", [("a", "pos"), "line 3: is the header again", ("b", "neg")]),
        ("text,label\na,pos\ntext,label\n", [("a", "pos"), "line 3: is the header again"]),
        (",text,label\n0,a,pos\n", [("a", "pos")]),
        ("label,text\rpos,a\rneg,b\r", [("a", "pos"), ("b", "neg")]),
        ("label,text\r\npos,a\nneg,b\rpos,c\n", [("a", "pos"), "line 3: holds a carriage return"]),
    ],
)
def test_tables_of_many_hands(text: str, right: list[tuple[str, str] | str], tmp_path: Path) -> None:
    made = said(put(tmp_path, "x.csv", text))
    assert len(made) == len(right)
    for row, wanted in zip(made, right, strict=True):
        assert row == wanted if isinstance(wanted, tuple) else wanted in row


@pytest.mark.parametrize(
    "text", ["Text,text ,label\na,b,c\n", "system prompt,system_prompt,text\na,b,c\n", "text,,\na,,\n"]
)
def test_columns_of_one_name_are_refused(text: str, tmp_path: Path) -> None:
    assert "must have two names" in refused(put(tmp_path, "x.csv", text))


def test_a_joined_file_has_marks_at_its_joints(tmp_path: Path) -> None:
    one, two = ("\ufeff" + lines({**PAIR, "prompt": word}) for word in ("a", "b"))
    members = gzip.compress(one.encode()) + gzip.compress(two.encode())
    assert said(put(tmp_path, "x.jsonl.gz", members)) == [("a", "a"), ("b", "a")]
    assert said(put(tmp_path, "x.txt", "a\n\ufeffb\n")) == [("a", ""), ("b", "")]


# -- 18, 20, 22, 75: files that are not what they are called ------------------------------------------------------


def zipped(data: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("x.jsonl", data)
    return made.getvalue()


def tarred(data: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        entry = tarfile.TarInfo("x.jsonl")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return made.getvalue()


ROW = lines(PAIR).encode()


@pytest.mark.parametrize("name", ["x.jsonl", "x", "x.csv", "x.json", "x.md", "x.txt"])
@pytest.mark.parametrize(
    ("data", "what"),
    [
        (zipped(ROW), "a ZIP archive"),
        (tarred(ROW), "a tar archive"),
        (lzma.compress(ROW), "compressed with xz"),
        (gzip.compress(bz2.compress(ROW)), "compressed twice, inside with bz2"),
        (ROW.decode().encode("utf-16"), "UTF-16"),
        (ROW.decode().encode("utf-16-le"), "UTF-16, UTF-32 or no text"),
        (ROW.decode().encode("utf-32"), "UTF-32"),
    ],
)
def test_a_file_that_is_no_text_is_refused_whatever_it_is_called(
    name: str, data: bytes, what: str, tmp_path: Path
) -> None:
    assert f"{name}: is {what}" in refused(put(tmp_path, name, data))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lambda data: pa.compress(data, "zstd", asbytes=True)])
def test_a_compressed_file_of_two_members_is_read_and_a_cut_one_refused(pack: Any, tmp_path: Path) -> None:
    data = pack(ROW) + pack(lines({**PAIR, "prompt": "r"}).encode())
    assert said(put(tmp_path, "x.jsonl", data)) == [("q", "a"), ("r", "a")]
    assert "cannot be read" in refused(put(tmp_path, "x.jsonl", data[:-3]))


def test_what_follows_a_stream_is_not_left_out_silently(tmp_path: Path) -> None:
    table, made = pa.table({"text": ["a", "b"]}), io.BytesIO()
    with ipc.new_stream(made, table.schema) as stream:
        stream.write_table(table)
    for more in (made.getvalue(), b"\x00" * 8):
        path = put(tmp_path, "x.arrow", made.getvalue() + more)
        assert f"holds {len(more)} bytes after the stream that ends with row 2" in refused(path)
