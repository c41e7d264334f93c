"""Rows with all that a sample can have, and what loads them as other tools do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.contract.sample import Message, Origin, Sample, ToolCall, seed, to_table
from gristmill.cluster.store.store import Manifest, Store


def conversation(*contents: str, system: str = "") -> tuple[Message, ...]:
    turns = [Message("user" if place % 2 == 0 else "assistant", text) for place, text in enumerate(contents)]
    return (Message("system", system), *turns) if system else tuple(turns)


ORIGIN = Origin("quickstart-1", "s" * 32, "builtin:small", 7, 10, 20, "stop")
FIRST = seed(conversation("What is 1 + 1?", "2"), {"language": "en"})
SECOND = seed(conversation("你好", "你好！", "再见", "再见！", system="简短"), {"language": "zh", "topic": "chat"})
DROPPED = seed(conversation("no", "no"), {"language": "en"}, "rule: too short")
MADE = Sample(
    "b" * 32,
    conversation("Name a river.", "The Seine."),
    parents=(FIRST.id,),
    method="self_instruct",
    round=1,
    scores={"judge": 0.75},
    tags={"language": "en"},
    origin=ORIGIN,
)
CALL = Message("assistant", None, tool_calls=(ToolCall("c1", "weather", '{"town":  "Oslo"}'),))
CALLING = seed(
    [
        Message("user", "Rain?"),
        CALL,
        Message("tool", "no", tool_call_id="c1", name="weather"),
        Message("assistant", "No."),
    ],
    tools='[{"type": "function", "function": {"name": "weather", "parameters": {"n": 1}}}]',
)
OTHER_TOOLS = seed(conversation("Hi", "Hello"), tools='[{"name": "add", "parameters": {"n": {"deep": ["x"]}}}]')
THINKING = seed([Message("user", "17+5?"), Message("assistant", "22", reasoning="10+12")])
CONTEXT = seed([*conversation("1", "2"), Message("user", "3"), Message("assistant", "4", train=False)])
SEEN = seed(
    [Message("user", "What?", parts='[{"type": "text", "text": 5}, {"type": "image"}]'), Message("assistant", "It.")]
)
PAIR = [
    replace(seed(conversation("Say hi.", text), {"group": "g"}), scores={"preference": score, "rating": score * 4})
    for text, score in (("Hi!", 1.0), ("No.", 0.0))
]
RICH = [FIRST, CALLING, OTHER_TOOLS, THINKING, CONTEXT, SEEN, *PAIR]


@pytest.fixture
def rich(store: Store) -> str:
    """A dataset with all that a row can have."""
    entries = tuple(store.commit_shard("rich-1", f"shard-{n:05d}", to_table([row])) for n, row in enumerate(RICH))
    store.commit(Manifest("rich-1", "samples", "ingest", "f" * 32, {}, {}, entries))
    return "rich-1"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`datasets.load_dataset` for a folder or a file, without network and with its cache in the test's folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    import datasets

    def load_dataset(target: Path) -> Any:
        cache = str(tmp_path / "cache")
        if target.is_dir():
            return datasets.load_dataset(str(target), split="train", cache_dir=cache)
        kind = "parquet" if target.suffix == ".parquet" else "json"
        return datasets.load_dataset(kind, data_files=str(target), split="train", cache_dir=cache)

    return load_dataset
