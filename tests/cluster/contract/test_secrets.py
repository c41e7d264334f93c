"""Credentials in URIs and settings are left out; what is needed to reach the place again stays."""

import json
import logging
import pickle
from pathlib import Path

import pytest

from gristmill.cluster.contract.errors import JobError, RunError
from gristmill.cluster.contract.secrets import public_settings, public_text, public_uri, without_key
from gristmill.cluster.io.readers.files import find
from gristmill.cluster.io.targets import target_of
from gristmill.cluster.jobs.recipe import Recipe, load
from gristmill.cluster.jobs.run import _recorded
from gristmill.cluster.runtime import log
from gristmill.cluster.store.store import Store
from tests.generation.ground import a_run

USER, PASSWORD, TOKEN = "AKIAPLANTEDKEY", "planted/secret+of@people", "planted-token-0123456789"
PLANTED = (USER, PASSWORD, TOKEN, "secret+of", "planted")
S3 = f"s3://{USER}:{PASSWORD}@bucket/folder?region=eu-west-1"


def check_clean(text: str) -> None:
    assert not [word for word in PLANTED if word in text], text


@pytest.mark.parametrize(
    ("uri", "public"),
    [
        (S3, "s3://bucket/folder?region=eu-west-1"),
        (f"s3://{USER}@bucket/x", "s3://bucket/x"),
        (f"s3://{USER}:{PASSWORD}@bucket/数据 a/x", "s3://bucket/数据 a/x"),
        (f"s3://bucket/x?secret_key={TOKEN}", "s3://bucket/x"),
        (f"s3://b/x?scheme=http&X-Amz-Security-Token={TOKEN}&region=x", "s3://b/x?scheme=http&region=x"),
        (f"s3://b/x?endpoint_override=http://u:{TOKEN}@h:9", "s3://b/x?endpoint_override=http://h:9"),
        (f"abfss://box:{TOKEN}@me.dfs.core.windows.net/x?sig={TOKEN}", "abfss://box@me.dfs.core.windows.net/x"),
        (f"https://people:{TOKEN}@host:8000/v1", "https://host:8000/v1"),
    ],
)
def test_credentials_leave_a_uri_and_the_rest_stays(uri: str, public: str) -> None:
    assert public_uri(uri) == public
    assert public_uri(public) == public
    check_clean(public_text(f"store {uri!r}: cannot be reached").removesuffix("reached"))


@pytest.mark.parametrize(
    "text",
    [
        "s3://host:9000/a@b/c",
        "s3://bucket/a@b.jsonl",
        "s3://bucket/part-?.jsonl",
        "hf://datasets/owner/name",
        "builtin:smollm2-135m-instruct",
        "See http://example.org/a: it asks, write to me@example.org",
        "http://host: write to me@example.org",
    ],
)
def test_a_text_without_credentials_is_unchanged(text: str) -> None:
    assert public_uri(text) == text == public_text(text)


def test_settings_lose_the_entries_with_the_names_of_credentials() -> None:
    args = {"hf_token": TOKEN, "api_key": TOKEN, "max_tokens": 5, "deep": [{"password": TOKEN, "key": "tags.a"}]}
    kept = {"max_tokens": 5, "deep": [{"key": "tags.a"}]}
    engine = {"endpoint": f"http://u:{TOKEN}@h/v1", "api_key_env": "KEY"}
    assert public_settings({"engine": engine, "args": args}) == {
        "engine": {"endpoint": "http://h/v1", "api_key_env": "KEY"},
        "args": kept,
    }


def test_the_stored_recipe_has_none_and_the_running_one_has_all(tmp_path: Path) -> None:
    (tmp_path / "seeds.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    (tmp_path / "r.toml").write_text(
        f'store = "{S3}"\n[generate]\ninput = "seeds.jsonl"\n[generate.engine]\nmodel = "m"\n'
        f'endpoint = "http://people:{TOKEN}@host/v1"\nargs = {{hf_token = "{TOKEN}"}}\n'
    )
    recipe = load(tmp_path / "r.toml")
    works = recipe.works()
    stored = recipe.resolve(works)
    check_clean(json.dumps(stored))
    assert stored["store"] == "s3://bucket/folder?region=eu-west-1"
    assert (recipe.store, recipe.jobs["generate"].model_dump()["engine"]["args"]) == (S3, {"hf_token": TOKEN})
    check_clean(json.dumps(recipe.jobs["generate"].manifest(works["generate"], "samples", ()).settings))
    (tmp_path / "recipe.json").write_text(json.dumps(stored))
    again = load(tmp_path / "recipe.json")
    assert isinstance(again, Recipe) and again.jobs["generate"].input == recipe.jobs["generate"].input


def test_a_store_shows_its_public_uri_and_travels_with_the_credentials() -> None:
    store = Store(f"s3://{USER}:{TOKEN}@bucket/x?region=eu-west-1&endpoint_override=127.0.0.1:1&scheme=http")
    check_clean(store.uri + store.at("runs"))
    assert TOKEN in pickle.dumps(store).decode(errors="replace")


def test_errors_show_none_whoever_raises_them() -> None:
    bad = f"s3://{USER}:{PASSWORD}@bucket/x?surprise=1"
    for refused in (lambda: Store(bad), lambda: find((bad,), "auto"), lambda: target_of(f"{bad}.jsonl", None)):
        with pytest.raises(Exception, match="cannot be reached") as caught:
            refused()
        check_clean(str(caught.value))
        assert caught.value.__suppress_context__
    with pytest.raises(JobError) as wrong:
        load({"generate": {"input": "a.jsonl", "target": [bad] * 3}, "store": "runs"}, [f"store {bad}"])
    check_clean(str(wrong.value))
    check_clean(str(pickle.loads(pickle.dumps(JobError(f"{bad}: no")))))


def test_ledger_and_logs_show_none(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = a_run(store)
    before = logging.getLogger().handlers[:]
    log.driver(tmp_path)
    try:
        with pytest.raises(RunError) as caught, _recorded(run, ["select"]):
            raise ConnectionError(f"no answer of {S3}")
        logging.getLogger("gristmill.x").warning("read %s", S3)
    finally:
        logging.getLogger().handlers[:] = before
    written = (tmp_path / "driver.log").read_text()
    assert "Traceback" in written and "read s3://bucket/folder" in written
    check_clean(written + "\n".join(run.ledger.lines) + str(caught.value) + "".join(capsys.readouterr()))


def test_a_key_that_a_server_repeats_is_hidden_and_a_short_one_is_a_word() -> None:
    reply = {"choices": [{"message": {"content": f"Your key is {TOKEN}."}}], "n": 1}
    assert without_key(reply, TOKEN) == {"choices": [{"message": {"content": "Your key is ***."}}], "n": 1}
    assert without_key(f"bad key {TOKEN}".encode(), TOKEN) == b"bad key ***"
    assert without_key(b"EMPTY", "EMPTY") == b"EMPTY"
