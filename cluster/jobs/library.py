"""Runs and datasets for Python callers of `import gristmill`: run or plan a recipe, open a run or a dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Sample, from_table
from gristmill.cluster.jobs.figures import Figures
from gristmill.cluster.jobs.job import JOBS, Plan, figures_class
from gristmill.cluster.jobs.recipe import Recipe, open_recipe, plans_of
from gristmill.cluster.jobs.run import ended_samples, execute, find
from gristmill.cluster.jobs.state import state_of
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.store import Manifest, Store

if TYPE_CHECKING:
    import datasets
    import pandas

Given = str | Path | Mapping[str, Any]
"""A recipe: the path of a TOML file, or the same tables as a dict. Paths in a dict are relative to the current
folder."""


@dataclass(frozen=True)
class Dataset:
    """A complete dataset of samples in a store. Its rows are read only when they are needed."""

    store: Store
    manifest: Manifest

    @property
    def name(self) -> str:
        """The folder's name in the store."""
        return self.manifest.name

    @property
    def path(self) -> str:
        """The path of the folder."""
        return self.store.at(self.name)

    def __len__(self) -> int:
        """Return the number of kept samples."""
        return self.manifest.kept

    def table(self, *, dropped: bool | None = False, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the samples as an Arrow table in memory.

        Args:
            dropped: False for the kept samples, True for the dropped ones with their reasons, None for all.
            columns: names of the columns to read. By default all are read.
        """
        wanted = None if columns is None else [*dict.fromkeys((*columns, "dropped"))]
        table = self.store.read(self.name, wanted)
        if dropped is not None:
            table = table.filter(pc.is_valid(table["dropped"]) if dropped else pc.is_null(table["dropped"]))
        return table if columns is None else table.select(list(columns))

    def samples(self, *, dropped: bool | None = False) -> list[Sample]:
        """Return the samples as values with messages, scores, tags and drop reason."""
        return from_table(self.table(dropped=dropped))

    def to_pandas(self, *, dropped: bool | None = False) -> "pandas.DataFrame":
        """Return the samples as a pandas frame. The package pandas must be installed."""
        return self.table(dropped=dropped).to_pandas()

    def to_datasets(self, *, dropped: bool | None = False) -> "datasets.Dataset":
        """Return the samples as a Hugging Face dataset. The package datasets must be installed."""
        import datasets

        return datasets.Dataset(self.table(dropped=dropped))

    def reasons(self) -> dict[str, int]:
        """Return the number of dropped samples by reason, the most frequent first."""
        counts = self.table(dropped=True, columns=["dropped"])["dropped"].value_counts().to_pylist()
        return {c["values"]: c["counts"] for c in sorted(counts, key=lambda c: (-c["counts"], c["values"]))}


@dataclass(frozen=True)
class Run:
    """A run: the outputs and the figures of its jobs."""

    store: Store
    id: str

    @property
    def state(self) -> str:
        """`done`, `failed`, `running` or `stopped`."""
        return state_of(self.store, self.id).state

    @property
    def outputs(self) -> dict[str, str]:
        """The name of the folder that each job made, by job."""
        return {name: job.output for name, job in state_of(self.store, self.id).jobs.items() if job.output}

    def path(self, job: str) -> str:
        """Return the path of a job's output, such as the folder of a model."""
        return self.store.at(self.outputs[job])

    @property
    def dataset(self) -> Dataset:
        """The last dataset of samples that the run makes.

        Raises:
            JobError: if the job that makes it has not ended.
        """
        return Dataset(self.store, self.store.manifest(ended_samples(self.store, self.id)))

    @property
    def datasets(self) -> dict[str, Dataset]:
        """The complete datasets of samples, by the job that made them, in the order in which the jobs run."""
        outputs = self.outputs
        manifests = {
            name: self.store.manifest(outputs[name])
            for name in ("ingest", *JOBS)
            if name in outputs and self.store.complete(outputs[name])
        }
        return {name: Dataset(self.store, m) for name, m in manifests.items() if m.kind == "samples"}

    @property
    def figures(self) -> dict[str, Figures]:
        """The figures of each finished job, as a value of that job's own class."""
        jobs = state_of(self.store, self.id).jobs
        return {name: figures_class(name).read(job.figures) for name, job in jobs.items() if job.figures}

    @property
    def report(self) -> str:
        """The path of the report, which is one HTML page."""
        return self.store.at("runs", self.id, "report.html")


def run(recipe: Given, *overrides: str, quiet: bool = False) -> Run:
    """Run every section of a recipe, and return the run. Outputs that are complete in the store are not made again.

    Args:
        recipe: a path, or the tables as a dict.
        overrides: settings to replace, such as `"generate.target=512"`, as for `--set` on the command line.
        quiet: whether to print no progress.

    Raises:
        JobError: if anything is wrong with the recipe. Nothing has started then.
        RunError: if a job fails. The same call continues after the committed shards.
    """
    loaded, works = open_recipe(recipe, overrides)
    return Run(Store(loaded.store), execute(loaded, works, list(works), Screen(quiet=quiet)))


def plan(recipe: Given, *overrides: str) -> list[Plan]:
    """Return the plan of each job of a recipe, without loading a model.

    Raises:
        JobError: if anything is wrong with the recipe. The message has all its errors.
    """
    loaded, works = open_recipe(recipe, overrides)
    return plans_of(loaded, works)


def load(name: str = "", store: str = "runs") -> Run | Dataset:
    """Open a run or a dataset of a store by its name, or by the beginning of its name. By default it is the newest run.

    Raises:
        JobError: if no name, or more than one name, begins with this.
    """
    there = Store(store)
    if not there.exists():
        raise JobError(f"{store}: absent, must be a store; run a recipe first")
    kind, full = find(there, name) if name else ("run", _newest(there))
    return Run(there, full) if kind == "run" else Dataset(there, there.manifest(full))


def _newest(store: Store) -> str:
    from gristmill.cluster.jobs.run import runs

    ids = runs(store)
    if not ids:
        raise JobError(f"{store.uri}: has no run, must have one; run a recipe first")
    return max(ids, key=lambda run_id: state_of(store, run_id).started)


__all__ = ["Dataset", "Given", "Recipe", "Run", "load", "plan", "run"]
