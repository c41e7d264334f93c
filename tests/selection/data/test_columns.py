"""Columns of samples without a Python object a row."""

import numpy as np
import pyarrow as pa
import pytest

from gristmill.cluster.contract.sample import Message, Sample, to_table
from gristmill.selection.data import columns
from tests.selection.made import view_of

TALK = (
    Message("system", "You are terse."),
    Message("user", " Hi"),
    Message("assistant", "Hello"),
    Message("user", "Name a river"),
    Message("tool", "{}"),
    Message("assistant", "The Elbe"),
)
ROWS = [
    Sample(
        f"{n:032x}",
        TALK if n % 3 else (Message("user", "说一条河"),),
        scores={"judge": n} if n % 2 else {},
        tags={"label": "xyz"[n % 3]} if n % 4 else {},
    )
    for n in range(8)
]
ROWS += [Sample("f" * 32, (Message("system", "only"),)), Sample("e" * 32, (Message("assistant", "A plain text"),))]
TABLE = to_table(ROWS)


@pytest.mark.parametrize(
    ("which", "said"),
    [
        ("instruction", "Hi\nName a river"),
        ("answer", "Hello\nThe Elbe"),
        ("conversation", "Hi\nHello\nName a river\nThe Elbe"),
        (
            "chat",
            (
                "<|system|>\nYou are terse.\n<|user|>\n Hi\n<|assistant|>\nHello\n<|user|>\nName a river\n"
                "<|tool|>\n{}\n<|assistant|>\nThe Elbe"
            ),
        ),
    ],
)
def test_a_part_takes_every_turn_of_its_roles(which: columns.Part, said: str) -> None:
    assert columns.part(TABLE, which)[1].as_py() == said


def test_a_missing_part_is_all_but_the_system_prompt() -> None:
    assert columns.part(TABLE, "instruction").to_pylist()[-2:] == ["", "A plain text"]
    assert columns.part(TABLE, "answer")[0].as_py() == "说一条河"


@pytest.mark.parametrize(
    "table", [TABLE.slice(3, 4), pa.concat_tables([TABLE.slice(3, 1), TABLE.slice(4, 3)]), TABLE.slice(0, 0)]
)
def test_slices_and_chunks_read_as_the_whole_does(table: pa.Table) -> None:
    rows = slice(3, 3 + len(table))
    for which in ("instruction", "answer", "conversation", "chat"):
        assert columns.part(table, which).to_pylist() == columns.part(TABLE, which).to_pylist()[rows]
    np.testing.assert_array_equal(columns.score(table, "judge"), columns.score(TABLE, "judge")[rows])
    assert columns.tag(table, "label").to_pylist() == [row.tags.get("label") for row in ROWS[rows]]
    assert columns.ids(table).tolist() == [row.id.encode() for row in ROWS[rows]]


def test_a_view_stands_in_the_order_of_ids_and_narrows_without_reading() -> None:
    view = view_of(ROWS[::-1])
    assert [name.decode() for name in view.ids] == sorted(row.id for row in ROWS if row.id != "f" * 32)
    assert view.order(("judge", "length"))[:2].tolist() == [7, 5]
    some = view.take(np.arange(len(view)) % 2 == 1)
    assert some.texts("answer").to_pylist() == [view.texts("answer")[n].as_py() for n in range(1, len(view), 2)]
    assert some.some("answer", np.array([2, 0])) == [some.texts("answer")[n].as_py() for n in (2, 0)]
    for each in (view, some):
        codes, names = each.tags("label")
        told = {row.id.encode(): row.tags.get("label") for row in ROWS}
        assert [names[code] if code >= 0 else None for code in codes] == [told[name] for name in each.ids.tolist()]
    assert view.tags("method")[1] == ["seed"]
    assert view.tags("nothing")[1] == []
