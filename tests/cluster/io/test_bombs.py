"""Small files and texts that would fill the memory or take minutes are refused in words, at once."""

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gristmill.cluster.contract import gate
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.gate import GateError
from gristmill.cluster.io import ingest as ingest_module
from gristmill.cluster.io.ingest import Source, read
from gristmill.cluster.io.readers import columnar, files
from gristmill.cluster.io.readers.files import find
from gristmill.cluster.io.readers.rows import rows
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


def named(texts: list[str], places: list[int]) -> pa.Table:
    """Rows that name a few texts many times, as a Parquet file has them."""
    column = pa.DictionaryArray.from_arrays(pa.array(places, pa.int32()), pa.array(texts))
    return pa.table({"question": column, "answer": [f"answer {n}" for n in range(len(places))]})


def test_a_text_that_many_rows_name_is_read_a_few_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has the text once. A batch of 1,024 rows would have it 1,024 times."""
    monkeypatch.setattr(columnar, "MOST_BYTES", 1 << 22)
    monkeypatch.setattr(columnar, "MOST_RATIO", 1 << 20)
    path = tmp_path / "x.parquet"
    pq.write_table(named(["long " * 100_000, "short"], [0, 1] * 500), path, compression="zstd", store_schema=False)
    seen: list[int] = []
    real = columnar._batches

    def noted(batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            seen.append(batch.num_rows)
            yield batch

    def watched(file: Any, schema: Any, batches: Iterator[Any]) -> Iterator[Any]:
        return real(file, schema, noted(batches))

    monkeypatch.setattr(columnar, "_batches", watched)
    [file] = find((str(path),), "auto")
    assert [len((row.columns or {})["question"]) for row in rows(file)] == [500_000, 5] * 500
    assert max(seen) == (1 << 22) // (500_000 + 4 + 5 + 4)  # the dictionary's texts, with their lengths


def test_files_of_rows_that_grow_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columnar, "MOST_BYTES", 1 << 20)
    for name, table, options in (
        ("rows", named(["the same"], [0] * 1_000_000).select(["question"]), {"store_schema": False}),
        ("page", pa.table({"question": ["x" * 4_000_000], "answer": ["y"]}), {"use_dictionary": False}),
    ):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(table, path, compression="zstd", **options)
        [file] = find((str(path),), "auto")
        with pytest.raises(JobError, match=rf"{name}.parquet: .*grows .*1000 times its size"):
            list(rows(file))


def test_the_shape_of_long_rows_is_found_from_few_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_module, "SHAPE_CHARACTERS", 10_000)
    taken: list[int] = []
    text = "".join(json.dumps({"question": "long " * 1000 + str(n), "answer": "yes"}) + "\n" for n in range(50))
    real = rows

    def watched(*given: Any) -> Iterator[Any]:
        for row in real(*given):
            taken.append(row.number)
            yield row

    monkeypatch.setattr(ingest_module, "rows", watched)
    first = next(read(Source(path=(put(tmp_path, "x.jsonl", text.encode()).as_posix(),))))
    assert first.dropped is None and len(taken) < 5
