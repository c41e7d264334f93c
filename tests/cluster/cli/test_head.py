"""`head` and `export` of a run whose jobs have not all ended."""

from pathlib import Path

import pytest

import gristmill
from gristmill.cluster.cli.main import main
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Message, seed, to_table
from gristmill.cluster.io.ingest import ingest
from gristmill.cluster.store.store import Manifest, Store
from tests.cluster.io.sources import lines, put, source

OUTPUT = "generate-0123456789ab"


@pytest.fixture
def stopped(tmp_path: Path) -> Store:
    """A store with a run whose generate was killed after one shard of draws was committed."""
    store = Store(str(tmp_path / "runs"))
    seeds = ingest(store, source(put(tmp_path, "x.jsonl", lines({"text": "A seed."}))))
    store.write_json({"jobs": {}, "outputs": {"ingest": seeds, "generate": OUTPUT}}, "runs", "mill-1", "recipe.json")
    store.commit_shard(OUTPUT, "raw-00000", to_table([seed([Message("user", "Made so far.")])]))
    return store


@pytest.mark.parametrize("arguments", [["head", "mill-1"], ["export", "mill-1", "out.jsonl"]])
def test_the_input_is_not_shown_in_place_of_what_is_not_made_yet(
    arguments: list[str], stopped: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(stopped.uri).parent)
    assert main([*arguments, "--store", stopped.uri]) == 2
    said = capsys.readouterr()
    assert "mill-1: its generate has not ended (1 shards are committed)" in said.err
    assert "--committed, or name ingest-" in said.err.replace("`", "")
    assert "A seed." not in said.out and not Path("out.jsonl").exists()
    with pytest.raises(JobError, match="its generate has not ended"):
        _ = gristmill.load("mill-1", store=stopped.uri).dataset  # type: ignore[union-attr]  # a run


def test_what_is_committed_so_far_can_be_looked_at(stopped: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["head", "mill-1", "--committed", "--store", stopped.uri]) == 0
    assert "Made so far." in capsys.readouterr().out


def test_a_run_that_has_ended_gives_its_last_dataset(stopped: Store, capsys: pytest.CaptureFixture[str]) -> None:
    shard = stopped.commit_shard(OUTPUT, "shard-00000", to_table([seed([Message("user", "All of it.")])]))
    stopped.commit(Manifest(OUTPUT, "samples", "generate", "0" * 32, {}, {}, (shard,)))
    assert main(["head", "mill-1", "--store", stopped.uri]) == 0
    assert "All of it." in capsys.readouterr().out
