"""Samples go to Arrow and back without a change."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import ipc

from gristmill.cluster.contract.sample import Message, Origin, Sample, from_table, seed, to_table
from gristmill.cluster.contract.schema import SAMPLES

MADE = Sample(
    id="b" * 32,
    messages=(Message("system", "kurz"), Message("user", "你好吗？"), Message("assistant", "很好。\n😀")),
    parents=("a" * 32, "c" * 32),
    method="evol_instruct",
    round=2,
    scores={"judge": 0.5, "ifd": -1.25},
    tags={"language": "zh", "topic": ""},
    dropped="novelty: 0.98 to aaaa",
    origin=Origin("run-1", "s" * 32, "model", 2**31 - 1, 12, 34, "stop"),
)
SEED = seed([Message("user", "hi"), Message("assistant", "yo")], {"language": "en"})


def by_ipc(table: pa.Table, folder: Path) -> pa.Table:
    with ipc.new_file(folder / "x.arrow", table.schema) as writer:
        writer.write_table(table)
    return ipc.open_file(folder / "x.arrow").read_all()


def by_parquet(table: pa.Table, folder: Path) -> pa.Table:
    pq.write_table(table, folder / "x.parquet")
    return pq.read_table(folder / "x.parquet")


@pytest.mark.parametrize("way", [by_ipc, by_parquet])
def test_samples_survive_the_disk(way: object, tmp_path: Path) -> None:
    assert callable(way)
    back = way(to_table([MADE, SEED]), tmp_path)
    assert back.schema.names == SAMPLES.names
    assert from_table(back) == [MADE, SEED]


def test_no_samples_are_a_table_too() -> None:
    assert to_table([]).schema == SAMPLES
    assert from_table(to_table([])) == []


def test_the_order_of_tags_and_scores_changes_nothing() -> None:
    turned = Sample(**{**{n: getattr(MADE, n) for n in Sample.__slots__}, "tags": {"topic": "", "language": "zh"}})
    assert to_table([turned]).equals(to_table([MADE]))


def test_a_seed_is_named_by_its_conversation_alone() -> None:
    assert seed(SEED.messages, {"topic": "x"}).id == SEED.id
    assert seed((*SEED.messages, Message("user", "more"))).id != SEED.id


def test_the_first_drop_reason_stays() -> None:
    assert SEED.drop("rule: short").drop("judge: low").dropped == "rule: short"
    assert SEED.dropped is None


def test_instruction_and_answer_are_the_first_question_and_the_last_answer() -> None:
    assert (MADE.instruction, MADE.answer) == ("你好吗？", "很好。\n😀")
    empty = seed([Message("system", "x")])
    assert (empty.instruction, empty.answer) == ("", "")
