"""Selection for Python callers: apply any steps to any table, and see which rows stay, which are dropped, and why."""

import json
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.io.ingest import Source, ingest
from gristmill.cluster.jobs.job import Run, Work
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.runtime.session import session
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Store
from gristmill.selection.contracts import Selector
from gristmill.selection.figures import SelectFigures
from gristmill.selection.job import Select

Step = str | Mapping[str, Any] | Selector
"""A step: its kind, such as `"minhash"`, a table as in a recipe, or a selector."""


@dataclass(frozen=True)
class Selection:
    """The result of a selection."""

    table: pa.Table
    """All rows, in the schema SAMPLES. The column `dropped` holds the reason of a dropped row, and null for a row that
    stays."""
    figures: SelectFigures

    @property
    def kept(self) -> pa.Table:
        """The rows that stay."""
        return self.table.filter(pc.is_null(self.table["dropped"]))

    @property
    def dropped(self) -> pa.Table:
        """The dropped rows, as a table with the columns id, reason, lost_to and messages.

        `lost_to` is the id of the sample that stays instead of the dropped row, or null.
        """
        gone = self.table.filter(pc.is_valid(self.table["dropped"]))
        lost = [dict(tags or []).get("lost_to") for tags in gone["tags"].to_pylist()]
        columns = [gone["id"], gone["dropped"], pa.array(lost, pa.string()), gone["messages"]]
        return pa.table(columns, names=["id", "reason", "lost_to", "messages"])

    def __len__(self) -> int:
        """Return the number of rows that stay."""
        return int(self.table["dropped"].null_count)


def select(data: Any, *steps: Step, **settings: Any) -> Selection:  # noqa: ANN401 - tables of several libraries
    """Choose samples with selectors, one after another.

        gristmill.select("reviews.csv", "exact", {"kind": "minhash", "threshold": 0.7})

    Args:
        data: a path or paths, as in a recipe; or rows: an Arrow table, a pandas frame, a Hugging Face dataset, or
            dicts. Rows may have any shape that ingest knows (`instruction` and `output`, `messages`, `text` and
            `label`, …). A conversation that comes twice is one row.
        steps: the selectors; by default those that drop exact, near and semantic duplicates.
        settings: further settings of `[select]`, such as `encoder` or `seed`.

    Raises:
        JobError: when a step, a setting or the data are wrong.
    """
    given = [{"kind": step} if isinstance(step, str) else step for step in steps]
    try:
        job = Select.model_validate({**({"steps": given} if given else {}), **settings}, context={"base": Path.cwd()})
    except ValidationError as error:
        problems = (f"select.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise JobError("\n".join(problems)) from error
    with tempfile.TemporaryDirectory(prefix="gristmill-select-") as folder:
        store = Store(f"{folder}/store")
        source = Source.model_validate({"path": _paths(data, Path(folder))}, context={"base": Path.cwd()})
        samples = ingest(store, source)
        beside = {role: ingest(store, other) for role, other in job.sources().items()}
        work = Work("select-out", job.fingerprint(), {"samples": samples, **beside})
        run = Run("run", store, Ledger(store, "runs/run"), Screen(quiet=True), None)
        with session(None, None, None) if job.uses_ray(store, work) and not _ray_is_up() else nullcontext():
            figures = job.make(run, work)
        return Selection(store.read(work.output), figures)


def _ray_is_up() -> bool:
    import ray

    return bool(ray.is_initialized())


def _paths(data: Any, folder: Path) -> list[str]:  # noqa: ANN401 - see `select`
    """Return the paths of the data; rows are first written to a file in `folder`."""
    if isinstance(data, str | Path):
        return [str(data)]
    if (table := _table(data)) is not None:
        pq.write_table(table, folder / "rows.parquet")
        return [str(folder / "rows.parquet")]
    if not isinstance(data, Iterable):
        raise JobError(
            f"select: {type(data).__name__} is not data, must be paths, a table, a frame, a dataset or dicts"
        )
    rows = list(data)
    if rows and all(isinstance(row, Mapping) for row in rows):  # a table would give all rows one schema, with nulls
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
        return [str(folder / "rows.jsonl")]
    if rows and all(isinstance(row, str | Path) for row in rows):
        return [str(row) for row in rows]
    raise JobError("select: no rows, or rows of several kinds, must be dicts or paths")


def _table(data: Any) -> pa.Table | None:  # noqa: ANN401 - see `select`
    """Return an Arrow table, a frame or a dataset as an Arrow table, and None for anything else."""
    if isinstance(data, pa.Table):
        return data
    if hasattr(data, "with_format") and hasattr(data, "data"):  # a Hugging Face dataset
        return data.with_format("arrow")[:]
    if hasattr(data, "to_parquet") and hasattr(data, "columns"):  # a pandas frame
        return pa.Table.from_pandas(data, preserve_index=False)
    return None
