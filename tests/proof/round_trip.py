"""Prove that rows of public shapes come out of the store, and back from every export, as they went in.

    make proof

draws 10,000 rows of the shapes in `tests.proof.rows`, and writes `benchmarks/round_trip.json`. A batch that is in there
already is not drawn again.
"""

import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gristmill.cluster.contract.chat import to_openai
from gristmill.cluster.contract.ids import canonical
from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.io.export import export
from gristmill.cluster.io.forms import ExportForm, shortest
from gristmill.cluster.io.ingest import Source, ingest, read
from gristmill.cluster.store.store import Store
from tests.invariants import samples_of
from tests.proof.rows import BROKEN, SHAPES, Drawn, drawn

RESULT = Path(__file__).parents[2] / "benchmarks" / "round_trip.json"
ROWS, BATCH = 10_000, 1_000
WHOLE: tuple[ExportForm, ...] = ("parquet", "jsonl")
"""Forms that hold all of a sample."""
DERIVED = ("language", "group")
"""Tags that ingest adds."""


def value_of(sample: Sample) -> dict[str, Any]:
    """A stored sample as the JSON value that the drawn rows want."""
    turns = [to_openai(turn) | ({} if turn.train else {"weight": 0}) for turn in sample.messages]
    tools = json.loads(sample.tools) if sample.tools else None
    tags = {tag: word for tag, word in sample.tags.items() if tag not in DERIVED}
    scores = {name: shortest(score) for name, score in sample.scores.items()}
    return {"messages": turns, "tools": tools, "scores": scores, "tags": tags}


def stored(store: Store, path: Path) -> list[Sample]:
    return samples_of(store, ingest(store, Source(path=(str(path),), on_bad_row="drop")))


def lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tried(folder: Path, seed: int, count: int) -> dict[str, dict[str, int]]:
    """By shape: rows, rows refused, samples wanted, and samples that came out otherwise than they should."""
    store, found = Store(str(folder / "store")), {}
    by_shape: dict[str, list[Drawn]] = {}
    for each in drawn(seed, count):
        by_shape.setdefault(each.shape, []).append(each)
    for shape, rows in by_shape.items():
        made = stored(store, lines(folder / f"{shape}-{seed}.jsonl", [each.row for each in rows]))
        counts = Counter(rows=len(rows), refused=sum(row.dropped is not None for row in made))
        wanted = [canonical(value) for each in rows for value in each.wanted]
        came = [canonical(value_of(row)) for row in made if row.dropped is None]
        counts["samples"] = len(wanted)
        counts["changed"] = sum(a != b for a, b in zip(wanted, came, strict=False)) + abs(len(wanted) - len(came))
        found[shape] = counts
        _sent_round(store, folder, f"{shape}-{seed}", made, counts)
    return {shape: dict(counts) for shape, counts in found.items()}


def _sent_round(store: Store, folder: Path, name: str, made: list[Sample], counts: Counter[str]) -> None:
    """Count the samples that differ after they were exported and read again."""
    there = ingest(store, Source(path=(str(folder / f"{name}.jsonl"),), on_bad_row="drop"))
    kept = [row for row in made if row.dropped is None]
    for form in WHOLE:
        target = folder / f"{name}-{form}.{'parquet' if form == 'parquet' else 'jsonl'}"
        export(store, there, target, form)
        counts[f"changed by {form}"] = sum(a != b for a, b in zip(kept, stored(store, target), strict=True))


def refused_by_name(folder: Path) -> list[str]:
    """The rows that must be refused and were not, or without the name of their field."""
    wrong = []
    for number, (field, row) in enumerate(BROKEN):
        path = lines(folder / f"broken-{number}.jsonl", [row])
        reasons = [str(sample.dropped) for sample in read(Source(path=(str(path),), on_bad_row="drop"))]
        wrong += [f"{field}: {reason}" for reason in reasons if not re.search(rf"'[^']*{re.escape(field)}", reason)]
    return wrong


def main() -> int:
    """Draw what is missing, print the sum, and return 1 where a sample changed or over 1 % were refused."""
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {"rows": 0, "batches": {}}
    for seed in range(ROWS // BATCH):
        if str(seed) not in result["batches"]:
            with tempfile.TemporaryDirectory() as there:
                result["batches"][str(seed)] = tried(Path(there), seed, BATCH)
            RESULT.write_text(json.dumps(result, indent=1) + "\n")
    total: Counter[str] = Counter()
    for batch in result["batches"].values():
        for counts in batch.values():
            total.update(counts)
    with tempfile.TemporaryDirectory() as there:
        result |= {"shapes": len(SHAPES), "total": dict(total), "not refused by name": refused_by_name(Path(there))}
    result["rows"] = total["rows"]
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps({key: value for key, value in result.items() if key != "batches"}, indent=1) + "\n")
    changed = sum(count for name, count in total.items() if name.startswith("changed"))
    return int(bool(changed or result["not refused by name"] or total["refused"] * 100 > total["rows"]))


if __name__ == "__main__":
    sys.exit(main())
