"""Small files and texts that would fill the memory or take minutes are refused in words, at once."""

import gzip
import json
import time
from pathlib import Path

import pytest

from gristmill.cluster.contract import gate
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.gate import GateError
from gristmill.cluster.io.ingest import read
from gristmill.cluster.io.readers import files
from gristmill.cluster.jobs.recipe import load
from tests.cluster.io.sources import lines, put, source

ROWS = [{"text": f"Text number {n} of many"} for n in range(50)]


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.json.gz", "x.csv.gz", "x.txt.gz", "x.md.gz"])
def test_a_decompression_bomb_is_refused_by_its_ratio(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LEAST_BOUND", 1 << 20)
    bomb = gzip.compress(b"[" * ("json." in name) + b"a" * (1 << 22))
    path = put(tmp_path, name, bomb)
    with pytest.raises(JobError, match="grows to more than 1048576 bytes, 100 times its size; decompress it first"):
        list(read(source(path, on_bad_row="drop")))


def test_a_file_within_the_ratio_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = lines(*ROWS).encode()
    monkeypatch.setattr(files, "LEAST_BOUND", len(data))
    assert len(list(read(source(put(tmp_path, "x.jsonl.gz", gzip.compress(data)))))) == len(ROWS)


def test_json_of_too_many_values_is_refused_and_brackets_in_texts_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "MOST_INNER", 400)
    monkeypatch.setattr(gate, "MOST_VALUES", 900)
    for bomb in ("[" + "[]," * 500 + "1]", "[" + "1," * 1000 + "1]"):
        with pytest.raises(GateError, match="holds more than 400 lists and tables or 900 values"):
            gate.parse(bomb)
    assert gate.parse(json.dumps({"content": r'\frac{1}{2}, [4] "quoted" ' * 900}))


DEEP = {
    "dotted": "a" + ".a" * 20_000 + " = 1\n",
    "quoted": "# '''\n" + '"a" . ' * 20_000 + "a = 1 # '''\n",
    "header": "[" + "a." * 20_000 + "a]\n",
    "lists": "a = " + "[" * 50_000 + "]" * 50_000,
    "tables": "a = " + "{a = " * 50_000,
    "within python": "[generate]\nx = " + "[" * 150 + "]" * 150,
}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_a_deep_recipe_is_refused_at_once(text: str, tmp_path: Path) -> None:
    path = put(tmp_path, "recipe.toml", text)
    begin = time.monotonic()
    with pytest.raises(JobError, match="more than 100"):
        load(path)
    assert time.monotonic() - begin < 2


def test_dots_in_texts_and_comments_are_no_keys(tmp_path: Path) -> None:
    dots = "a." * 500
    text = f"# {dots}\n[select]\ninput = '{dots}jsonl' # {dots}\nbudget = 5\nsteps = ['''\n{dots}\n''', \"{dots}\"]\n"
    with pytest.raises(JobError, match=r"select\.steps") as caught:
        load(put(tmp_path, "recipe.toml", text))
    assert "more than 100" not in str(caught.value)


def test_other_bombs_of_recipes_are_refused(tmp_path: Path) -> None:
    for name, content, said in (
        ("long.toml", "#" * (1 << 22) + "\n", "is longer than 4194304 bytes"),
        ("digits.toml", "a = " + "9" * 6000, "not TOML: Exceeds the limit"),
        ("deep.json", "[" * 100_000 + "]" * 100_000, "more than 100 lists and tables"),
    ):
        with pytest.raises(JobError, match=said):
            load(put(tmp_path, name, content))
    deep = ".".join(["a"] * 20_000)
    with pytest.raises(JobError, match="has 20000 keys") as caught:
        load({"select": {"input": "x.jsonl"}}, [f"{deep}=1", "select.steps.²=1", "select.steps=" + "[" * 5000])
    assert len(str(caught.value)) < 2000
