"""Cases after public bug reports about decisions: copies, leaks, languages, verdicts of people, markup, kills."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from gristmill.cluster.contract.errors import StoreError
from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.io.ingest import Source, ingest, read
from gristmill.cluster.report.page import script_safe
from gristmill.cluster.store.store import Store
from gristmill.generation.filters.language import Language
from gristmill.generation.labels import people
from gristmill.selection.selectors.decontaminate import Decontaminate
from gristmill.selection.selectors.exact import Exact
from gristmill.selection.selectors.minhash import MinHash
from tests.cluster.io.sources import lines, put
from tests.fakes import ScriptedAsk
from tests.invariants import check_dataset
from tests.selection.made import kept_of, view_of

HERE = Path(__file__).parent


def case(number: int, name: str = "in.jsonl") -> Path:
    [path] = HERE.glob(f"{number:02d}-*/{name}")
    return path


def samples(number: int, name: str = "in.jsonl") -> list[Sample]:
    return list(read(Source(path=(str(case(number, name)),))))


def lost(rows: Sequence[Sample], step: Exact | MinHash | Decontaminate, **beside: list[Sample]) -> list[str]:
    """The questions that a selector drops."""
    view = view_of(rows, None, **{name: view_of(items) for name, items in beside.items()})
    kept = kept_of(view, step.pick(view, Random(0)))
    return [row.instruction for row in rows if row.id not in kept]


def test_signs_that_mean_something_are_kept_apart() -> None:  # 41; its README calls these two a matter of taste
    assert [question[:16] for question in lost(samples(41), Exact())] == ["What is log(x) a", "Translate: Thank"]


@pytest.mark.parametrize("number", [42, 84])
def test_what_many_questions_share_makes_no_copies(number: int) -> None:
    assert lost(samples(number), MinHash()) == []


def test_a_template_is_no_leak() -> None:  # 44
    step = Decontaminate.model_validate({"sets": ["exam.jsonl"]})
    assert lost(samples(44), step, exam=samples(44, "exam.jsonl")) == []


def test_translations_and_code_are_kept() -> None:  # 86
    for sample in samples(86):
        assert asyncio.run(Language().judge(sample, ScriptedAsk())).dropped is None


def test_a_line_separator_in_a_verdict_ends_no_line() -> None:  # 88
    votes, problems = people.read(case(88, "verdicts.json").read_bytes(), "verdicts.json")
    assert [(vote.sample, vote.answer) for vote in votes] == [("s1", "pos"), ("s2", "neg")]
    assert problems == []


def test_markup_in_a_sample_ends_no_script_of_the_report() -> None:  # 59
    texts = [text for sample in samples(59) for text in (sample.instruction, sample.answer)]
    assert any("</script>" in text for text in texts) and any("<!--" in text for text in texts)
    assert "<" not in script_safe(texts) and json.loads(script_safe(texts)) == texts


INGEST = """
import sys
from gristmill.cluster.io.ingest import Source, ingest
from gristmill.cluster.store.store import Store
ingest(Store(sys.argv[1]), Source(path=(sys.argv[2],)), shard_rows=1000)
"""


def test_a_killed_ingest_is_made_whole_and_an_altered_shard_is_named(tmp_path: Path) -> None:  # 90
    path = put(tmp_path, "in.jsonl", lines(*({"text": f"row {n}"} for n in range(4_000))))
    child = subprocess.Popen([sys.executable, "-c", INGEST, str(tmp_path / "killed"), str(path)])
    end = time.monotonic() + 120
    while not any((tmp_path / "killed").glob("*/shard-00000.json")) and child.poll() is None:
        assert time.monotonic() < end, "no shard was written"
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "the ingest ended before it was killed"
    store, unbroken = Store(str(tmp_path / "killed")), Store(str(tmp_path / "unbroken"))
    name = ingest(store, Source(path=(str(path),)), shard_rows=1000)
    assert ingest(unbroken, Source(path=(str(path),)), shard_rows=1000) == name
    assert store.manifest(name) == unbroken.manifest(name)
    assert len(check_dataset(store, name)) == 4_000
    shard = store.folder(name) / "shard-00001.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(
        StoreError, match=f"{name}/shard-00001.arrow: content does not match its digest, it was altered"
    ):
        store.read(name)
