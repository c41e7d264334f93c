"""Export: other tools load what is written, and what is written comes back as it was."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from gristmill.cluster.contract.errors import JobError, StoreError
from gristmill.cluster.contract.sample import Message, seed, to_table
from gristmill.cluster.io.card import size_category
from gristmill.cluster.io.export import ExportResult, export
from gristmill.cluster.io.forms import ExportForm
from gristmill.cluster.io.ingest import Source, read
from gristmill.cluster.store.store import Manifest, Store
from tests.cluster.io.conftest import CALL, CALLING, DROPPED, FIRST, MADE, ORIGIN, PAIR, RICH, SECOND, conversation
from tests.invariants import samples_of

FORMS: tuple[ExportForm, ...] = ("parquet", "jsonl", "sharegpt", "alpaca", "prompts")


@pytest.fixture
def name(store: Store) -> str:
    """A dataset whose first shard has no history, no system turn and fewer tags, and whose second is all dropped."""
    shards = [[FIRST, MADE], [DROPPED], [SECOND]]
    entries = tuple(store.commit_shard("made-1", f"shard-{n:05d}", to_table(rows)) for n, rows in enumerate(shards))
    settings = {"input": {"path": ["/home/someone/private/x.jsonl"]}, "target": 3}
    store.commit(Manifest("made-1", "samples", "generate", "f" * 32, {"samples": "ingest-1"}, settings, entries))
    return "made-1"


def target_of(folder: Path, form: ExportForm, *, whole: bool) -> Path:
    return folder / (f"out-{form}" if whole else f"out.{'parquet' if form == 'parquet' else 'jsonl'}")


@pytest.mark.parametrize("whole", [True, False], ids=["folder", "file"])
@pytest.mark.parametrize("form", FORMS)
def test_datasets_loads_every_form(
    form: ExportForm, whole: bool, store: Store, name: str, tmp_path: Path, load: Any
) -> None:
    for dropped, count in ((False, 3), (True, 4)):
        target = target_of(tmp_path / str(dropped), form, whole=whole)
        assert export(store, name, target, form, dropped=dropped).rows == count
        assert load(target).num_rows == count


def test_messages_and_tags_come_out_as_they_are(store: Store, name: str, tmp_path: Path, load: Any) -> None:
    export(store, name, tmp_path / "out", "jsonl", dropped=True)
    rows = load(tmp_path / "out").to_list()
    assert [row["id"] for row in rows] == [FIRST.id, MADE.id, DROPPED.id, SECOND.id]
    assert rows[3]["messages"] == [{"role": turn.role, "content": turn.content} for turn in SECOND.messages]
    assert rows[0]["tags"] == {"language": "en", "topic": ""}
    assert rows[3]["tags"] == {"language": "zh", "topic": "chat"}
    assert [row["dropped"] for row in rows] == ["", "", "rule: too short", ""]


def test_an_export_under_a_name_that_was_loaded_before_is_not_taken_for_it(
    store: Store, name: str, tmp_path: Path, load: Any
) -> None:
    for side, dropped in (("a", False), ("b", True)):
        export(store, name, tmp_path / side / "out", "jsonl", dropped=dropped)
        assert load(tmp_path / side / "out").num_rows == 3 + dropped


def test_sharegpt_has_humans_and_gpts(store: Store, name: str, tmp_path: Path, load: Any) -> None:
    export(store, name, tmp_path / "out.jsonl", "sharegpt")
    assert load(tmp_path / "out.jsonl")[2]["conversations"][:3] == [
        {"from": "system", "value": "简短"},
        {"from": "human", "value": "你好"},
        {"from": "gpt", "value": "你好！"},
    ]


def test_alpaca_has_the_last_turn_and_the_history_before_it(store: Store, name: str, tmp_path: Path, load: Any) -> None:
    export(store, name, tmp_path / "out", "alpaca")
    rows = load(tmp_path / "out").to_list()
    assert rows[0] == {"instruction": "What is 1 + 1?", "input": "", "output": "2", "history": [], "system": ""}
    assert rows[2] == {
        "instruction": "再见",
        "input": "",
        "output": "再见！",
        "history": [["你好", "你好！"]],
        "system": "简短",
    }


def test_alpaca_has_neither_history_nor_system_where_no_sample_has(store: Store, tmp_path: Path, load: Any) -> None:
    entry = store.commit_shard("docs-1", "shard-00000", to_table([FIRST, seed(conversation("a plain text"))]))
    store.commit(Manifest("docs-1", "samples", "ingest", "f", {}, {}, (entry,)))
    export(store, "docs-1", tmp_path / "out", "alpaca")
    rows = load(tmp_path / "out").to_list()
    assert rows[1] == {"instruction": "a plain text", "input": "", "output": ""}


def test_parquet_holds_every_column(store: Store, name: str, tmp_path: Path, load: Any) -> None:
    export(store, name, tmp_path / "out.parquet", "parquet")
    row = load(tmp_path / "out.parquet")[1]
    assert row["parents"] == [FIRST.id]
    assert row["scores"] == [{"key": "judge", "value": 0.75}]
    assert row["origin"]["model"] == "builtin:small"
    assert pq.read_table(tmp_path / "out.parquet", columns=["round"])["round"].to_pylist() == [0, 1, 0]


@pytest.mark.parametrize("form", FORMS)
def test_an_export_can_be_ingested_again(form: ExportForm, store: Store, name: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    export(store, name, target, form, dropped=True)
    back = list(read(Source(path=(f"{target}/data/*",))))
    there = samples_of(store, name)
    assert [s.messages for s in back] == [s.messages for s in there]
    assert [s.dropped for s in back] == [s.dropped for s in there]
    if form in ("parquet", "jsonl"):
        assert [s.tags for s in back] == [dict(s.tags) for s in there]
        assert [s.scores for s in back] == [dict(s.scores) for s in there]


def test_the_card_has_the_recipe_of_the_run_without_folders(store: Store, name: str, tmp_path: Path) -> None:
    given = {"target": 3, "input": {"path": ["/home/someone/x.jsonl"]}}
    jobs = {"generate": given, "train": {"model": "/home/someone/m"}}
    store.write_json({"name": "mill", "jobs": jobs}, "runs", ORIGIN.run, "recipe.json")
    export(store, name, tmp_path / "out", "jsonl")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    recipe = json.loads(card.split(f"## Recipe of the run {ORIGIN.run}")[1].split("```")[1].removeprefix("json"))
    assert recipe == {
        "name": "mill",
        "generate": {"target": 3, "input": {"path": ["x.jsonl"]}},
        "train": {"model": "m"},
    }


def test_the_card_says_where_the_rows_come_from(store: Store, name: str, tmp_path: Path) -> None:
    export(store, name, tmp_path / "out", "jsonl")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    header, body = card.removeprefix("---\n").split("\n---\n", 1)
    for line in ('- "en"', '- "zh"', "- n<1K", "- synthetic", "- gristmill"):
        assert line in header.splitlines()
    for words in (
        "4, 3 kept, 1 dropped",
        "| self_instruct | 1 |",
        "| builtin:small | 1 |",
        "| rule | 1 |",
        "quickstart-1",
    ):
        assert words in body
    assert f"fingerprint `{'f' * 32}`" in body
    assert '"x.jsonl"' in body
    assert "/home/someone" not in card


def test_size_categories_are_the_words_of_the_hub() -> None:
    assert [size_category(rows) for rows in (1, 999, 1000, 99_999, 10**6, 10**10)] == [
        "n<1K",
        "n<1K",
        "1K<n<10K",
        "10K<n<100K",
        "1M<n<10M",
        "n>1B",
    ]


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(store: Store, name: str, tmp_path: Path) -> None:
    tool = seed((Message("user", "q"), Message("tool", "r"), Message("assistant", "a")))
    for folder, rows in (("tool-1", [tool]), ("none-1", [DROPPED])):
        entry = store.commit_shard(folder, "shard-00000", to_table(rows))
        store.commit(Manifest(folder, "samples", "made", "f", {}, {}, (entry,)))
    store.commit(Manifest("model-1", "model", "train", "f", {}, {}, ()))
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("x")
    refused: list[tuple[str, Path, ExportForm, str]] = [
        ("tool-1", tmp_path / "a.jsonl", "alpaca", rf"sample {tool.id}: its turns are user, tool, assistant, must be"),
        ("tool-1", tmp_path / "a", "alpaca", "export as jsonl"),
        ("none-1", tmp_path / "b", "jsonl", "no kept samples"),
        ("model-1", tmp_path / "c", "jsonl", "holds model, must be a dataset of samples"),
        (name, out, "jsonl", "is not empty"),
    ]
    before = sorted(tmp_path.iterdir())
    for folder, target, form, said in refused:
        with pytest.raises(JobError, match=said):
            export(store, folder, target, form)
    with pytest.raises(StoreError, match="absent"):
        export(store, "nothing", tmp_path / "d", "jsonl")
    assert sorted(tmp_path.iterdir()) == before
    assert [p.name for p in out.iterdir()] == ["mine.txt"]


def test_a_file_is_replaced_and_an_empty_folder_filled(store: Store, name: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out.jsonl").write_text("old")
    for target in (tmp_path / "out", tmp_path / "out.jsonl"):
        assert export(store, name, target, "jsonl").rows == 3
    assert (tmp_path / "out.jsonl").read_text().count("\n") == 3
    assert sorted(p.name for p in (tmp_path / "out" / "data").iterdir()) == ["train-00000.jsonl", "train-00001.jsonl"]


def test_the_same_dataset_is_exported_to_the_same_bytes(store: Store, name: str, tmp_path: Path) -> None:
    for form in FORMS:
        files = [target_of(tmp_path / side, form, whole=False) for side in ("a", "b")]
        for file in files:
            export(store, name, file, form)
        assert files[0].read_bytes() == files[1].read_bytes()


# -- what does not fit, and what is for tuning by preference ------------------------------------------------------


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("whole", [True, False], ids=["folder", "file"])
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_what_holds_all_of_a_sample_brings_it_back(
    form: ExportForm, whole: bool, store: Store, rich: str, tmp_path: Path
) -> None:
    target = target_of(tmp_path, form, whole=whole)
    assert export(store, rich, target, form) == ExportResult(len(RICH), {})
    back = list(read(Source(path=(f"{target}/data/*" if whole else str(target),))))
    assert [(s.id, s.messages, s.tools, s.scores) for s in back] == [
        (s.id, s.messages, s.tools, s.scores) for s in RICH
    ]


@pytest.mark.parametrize("form", ["jsonl", "parquet", "preference", "feedback", "prompts"])
def test_datasets_loads_all_that_a_row_can_have(
    form: ExportForm, store: Store, rich: str, tmp_path: Path, load: Any
) -> None:
    written = export(store, rich, tmp_path / form, form)
    rows = load(tmp_path / form)
    assert rows.num_rows == written.rows
    if form == "jsonl":
        assert rows[2]["tools"] == [{"name": "add", "parameters": {"n": {"deep": ["x"]}}}]


def test_sharegpt_holds_calls_and_says_what_it_cannot_hold(store: Store, rich: str, tmp_path: Path) -> None:
    done = export(store, rich, tmp_path / "out.jsonl", "sharegpt")
    rows = written(tmp_path / "out.jsonl")
    assert rows[1]["conversations"] == [
        {"from": "human", "value": "Rain?"},
        {"from": "function_call", "value": '{"id": "c1", "name": "weather", "arguments": {"town":  "Oslo"}}'},
        {"from": "observation", "value": "no", "tool_call_id": "c1", "name": "weather"},
        {"from": "gpt", "value": "No."},
    ]
    assert rows[3]["conversations"][3] == {"from": "gpt", "value": "4", "weight": 0}
    _, back, *_ = read(Source(path=(str(tmp_path / "out.jsonl"),)))
    told = CALL.tool_calls[0]._replace(arguments='{"town": "Oslo"}')  # as a table in JSON, not byte for byte
    assert back.messages == (CALLING.messages[0], CALL._replace(tool_calls=(told,)), *CALLING.messages[2:])
    assert (done.rows, sum(done.left_out.values())) == (5, 3)
    assert sorted(reason.split(",")[0] for reason in done.left_out) == [
        "has a thought",
        "has parts that are no text",
        "is a rejected candidate",
    ]


def test_alpaca_says_what_it_cannot_hold(store: Store, rich: str, tmp_path: Path) -> None:
    done = export(store, rich, tmp_path / "out.jsonl", "alpaca")
    assert [row["output"] for row in written(tmp_path / "out.jsonl")] == ["2", "Hi!"]
    assert (done.rows, sum(done.left_out.values())) == (2, 6)


def test_a_pair_is_the_better_and_the_worse_candidate_of_a_group(store: Store, rich: str, tmp_path: Path) -> None:
    done = export(store, rich, tmp_path / "out.jsonl", "preference")
    assert written(tmp_path / "out.jsonl") == [
        {
            "prompt": [{"role": "user", "content": "Say hi."}],
            "chosen": [{"role": "assistant", "content": "Hi!"}],
            "rejected": [{"role": "assistant", "content": "No."}],
            "tools": [],
            "score_chosen": 4.0,
            "score_rejected": 0.0,
        }
    ]
    assert done.left_out == {"has no tag group, must be a candidate among others for the preference form": 6}


def test_feedback_is_good_from_a_score_on(store: Store, rich: str, tmp_path: Path) -> None:
    export(store, rich, tmp_path / "out.jsonl", "feedback", by="rating", threshold=4.0)
    assert [row["label"] for row in written(tmp_path / "out.jsonl")] == [True, False]


def test_prompts_have_their_references_and_no_rejected_answer(store: Store, rich: str, tmp_path: Path) -> None:
    export(store, rich, tmp_path / "out.jsonl", "prompts")
    assert [row["reference"] for row in written(tmp_path / "out.jsonl")] == ["2", "No.", "Hello", "22", "4", "Hi!"]


@pytest.mark.parametrize("form", ["jsonl", "sharegpt", "alpaca", "feedback", "prompts"])
def test_every_form_can_say_where_its_rows_come_from(form: ExportForm, store: Store, tmp_path: Path) -> None:
    made = replace(MADE, scores={"judge": 0.75, "preference": 1.0})
    entry = store.commit_shard("one-1", "shard-00000", to_table([made]))
    store.commit(Manifest("one-1", "samples", "generate", "f", {}, {}, (entry,)))
    export(store, "one-1", tmp_path / "out.jsonl", form, provenance=True)
    [row] = written(tmp_path / "out.jsonl")
    assert (row["id"], row["parents"], row["method"], row["round"]) == (MADE.id, [FIRST.id], "self_instruct", 1)
    assert (row["scores"], row["tags"]) == ({"judge": 0.75, "preference": 1.0}, {"language": "en"})
    assert row["origin"] == asdict(ORIGIN)


@pytest.mark.parametrize("form", ["jsonl", "parquet", "sharegpt", "alpaca", "preference", "feedback", "prompts"])
def test_how_much_a_row_counts_goes_through_every_form(form: ExportForm, store: Store, tmp_path: Path) -> None:
    heavy, light = (replace(row, scores={**row.scores, "weight": 2.5}) for row in PAIR)
    entry = store.commit_shard("w-1", "shard-00000", to_table([heavy, light, FIRST]))
    store.commit(Manifest("w-1", "samples", "ingest", "f", {}, {}, (entry,)))
    target = tmp_path / f"out.{'parquet' if form == 'parquet' else 'jsonl'}"
    export(store, "w-1", target, form)
    back = list(read(Source(path=(str(target),))))
    weighed = {sample.instruction: sample.scores.get("weight", 1.0) for sample in back}
    assert weighed == {"Say hi.": 2.5} | ({} if form in ("preference", "feedback") else {FIRST.instruction: 1.0})
