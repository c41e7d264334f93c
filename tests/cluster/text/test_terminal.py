"""What strangers wrote cannot steer the terminal on which it is shown, and stays readable."""

import json
import logging
from pathlib import Path

import pytest

from gristmill.cluster.cli.main import main
from gristmill.cluster.contract.sample import Message, seed, to_table
from gristmill.cluster.runtime import log
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.store import Manifest, Store
from gristmill.cluster.text.terminal import visible

ATTACK = "\x1b]0;title\x07\x1b[2J\x9b31m\u202eevil\x00\r\x7f"
SHOWN = "\\u001b]0;title\\u0007\\u001b[2J\\u009b31m\\u202eevil\\u0000\\u000d\\u007f"


def check_harmless(text: str) -> None:
    assert not [letter for letter in text if letter in "\x1b\x07\x9b\u202e\x00\r\x7f"], text
    assert "evil" in text


def test_what_steers_is_escaped_and_what_does_not_stays() -> None:
    assert visible(ATTACK) == SHOWN
    for text in ("plain", "第一行\n\tsecond – “quoted” 👩‍👩‍👧", "عربي \u200f", ""):
        assert visible(text) == text
    value = {"a": ATTACK, "中": [1.5, "\ud83d"]}
    assert json.loads(visible(json.dumps(value, ensure_ascii=False))) == value


def test_every_verb_shows_a_hostile_sample_harmlessly(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [Message("user", f"ask {ATTACK}"), Message("assistant", f"say {ATTACK}", reasoning=ATTACK)]
    rows = [seed(turns, {"topic": ATTACK}), seed(turns[:1], {}, dropped=f"rule: {ATTACK}")]
    shard = store.commit_shard("made-1", "shard-00000", to_table(rows))
    store.commit(Manifest("made-1", "samples", "made", "f" * 32, {}, {"x": ATTACK}, (shard,), metadata={"m": ATTACK}))
    for words in (
        ["head", "made-1"],
        ["head", "made-1", "--dropped"],
        ["show", "made-1"],
        ["show", "made-1", "--json"],
    ):
        assert main([*words, "--store", store.uri]) == 0
        check_harmless(capsys.readouterr().out)
    assert main(["head", ATTACK, "--store", store.uri]) == 2
    check_harmless(capsys.readouterr().err)


def test_messages_and_warnings_are_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger().handlers[:]
    log.driver(None)
    try:
        logging.getLogger("gristmill.x").warning("column %s", ATTACK)
        Screen().say(f"ingest {ATTACK}")
    finally:
        logging.getLogger().handlers[:] = before
    check_harmless(capsys.readouterr().err)


def test_errors_of_recipes_are_harmless(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.toml"
    path.write_text('name = "\\u001b[2Jevil/"\n[generate]\n"\\u001b[2J" = 1\n')
    assert main(["plan", str(path)]) == 2
    check_harmless(capsys.readouterr().err)
