"""The material of a report, read from the store: exact counts, and a limited number of samples."""

import re
from collections import Counter
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gristmill.cluster.contract.errors import StoreError
from gristmill.cluster.contract.sample import Sample, from_table
from gristmill.cluster.jobs.figures import Figures
from gristmill.cluster.jobs.job import JOBS, figures_class, job_class
from gristmill.cluster.jobs.state import StoredRecipe, recipe_of, state_of
from gristmill.cluster.store.ledger import RunState
from gristmill.cluster.store.store import Manifest, Store

INGEST = "ingest"
MAX_ROWS = 50_000
"""Most samples that are read for distributions. Counts and reasons use all samples."""
_ID, _DECIMAL, _WHOLE = re.compile(r"\b[0-9a-f]{32}\b"), re.compile(r"-?\b\d+\.\d+\b"), re.compile(r"\b\d+\b")


@dataclass
class Material:
    """The data that a run has written to the store so far."""

    store: Store
    run_id: str
    recipe: StoredRecipe
    state: RunState
    manifests: dict[str, Manifest]
    """Manifests of the complete outputs, by job name."""
    figures: dict[str, Figures]
    """Figures, by job name."""
    problems: list[str]
    """Reasons why some figures cannot be read."""
    seeds: dict[str, Sample] = field(default_factory=dict)
    samples: dict[str, Sample] = field(default_factory=dict)
    """Up to `MAX_ROWS` samples by id. A sample is as the last job that kept or dropped it wrote it."""
    fates: dict[str, str] = field(default_factory=dict)
    base: str = ""
    """The job that made the rows, or `ingest`. It is empty if the rows are from another dataset in the store."""
    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    """Number of dropped samples by reason, for each job. The reasons are in the form of `plain_reason`."""
    rows: int = 0
    """Number of all samples, including those that were not read."""
    examples: dict[str, Sample] = field(default_factory=dict)
    """Samples by id that figures name and that are not in `samples`."""

    def settings(self, job: str) -> dict[str, Any]:
        """Return the settings of a job in the recipe."""
        return self.recipe.jobs.get(job, {})

    def text(self, name: str) -> str:
        """Return the instruction of the sample with this id, or its answer if it has no instruction.

        If the sample was not read, return the id.
        """
        known = self.samples.get(name) or self.seeds.get(name) or self.examples.get(name)
        return (known.instruction or known.answer) if known else name

    def reasons_of(self, *, chosen: bool) -> Counter[str]:
        """Return the numbers of drops by reason, of the jobs that choose among good samples, or of all other jobs."""
        return sum((r for job, r in self.reasons.items() if chooses(job) == chosen), Counter())


def material_of(store: Store, run_id: str, max_rows: int = MAX_ROWS) -> Material:
    """Return the material of a run so far, with up to `max_rows` samples.

    Raises:
        StoreError: if there is no such run.
    """
    recipe = recipe_of(store, run_id)
    state = state_of(store, run_id)
    outputs = {name: job.output for name, job in state.jobs.items() if job.output} | recipe.outputs
    manifests = {name: store.manifest(folder) for name, folder in outputs.items() if store.complete(folder)}
    written = {name: job.figures for name, job in state.jobs.items() if job.figures}
    written |= {name: figures for name, manifest in manifests.items() if (figures := store.figures(manifest.name))}
    figures, problems = {}, []
    for name, value in written.items():
        try:
            figures[name] = figures_class(name).read(value)
        except StoreError as error:
            problems.append(f"{name}: {error}")
    material = Material(store, run_id, recipe, state, manifests, figures, problems)
    _read_samples(material, max_rows)
    return material


def chooses(job: str) -> bool:
    """Say whether the samples that a job drops are good ones that were not chosen."""
    return job in JOBS and job_class(job).chooses


def _read_samples(material: Material, max_rows: int) -> None:
    """Read seeds and samples: the dataset that the run began with, then the datasets that later jobs made of it."""
    store, manifests = material.store, material.manifests
    if INGEST in manifests:
        material.seeds = {s.id: s for s in _rows(store, manifests[INGEST].name, max_rows)}
    order = [name for name in JOBS if name in manifests]
    datasets = {name: manifests[name].name for name in order if manifests[name].kind == "samples"}
    maker = next((name for name in datasets if not job_class(name).upstream), None)
    if maker is None:
        folder = next(
            (manifests[name].inputs["samples"] for name in order if "samples" in manifests[name].inputs), None
        )
        if folder and store.complete(folder):
            datasets = {"": folder, **datasets}
        elif INGEST in manifests:
            datasets = {INGEST: manifests[INGEST].name, **datasets}
    if not datasets:
        return
    material.base = next(iter(datasets))
    material.rows = store.manifest(datasets[material.base]).rows
    for job, name in datasets.items():
        material.reasons[job] = _reasons(store, name)
        fate = "dropped in selection" if chooses(job) else "dropped before selection"
        _take_over(material, name, fate, max_rows)


def read_examples(material: Material, wanted: AbstractSet[str]) -> None:
    """Read the samples with these ids from the last dataset of the run, except samples that were already read."""
    datasets = [m.name for name, m in material.manifests.items() if name in JOBS and m.kind == "samples"]
    if datasets:
        material.examples = _named(material.store, datasets[-1], wanted - material.samples.keys())


def _take_over(material: Material, name: str, fate: str, max_rows: int) -> None:
    """Replace the samples that were read so far by the same samples in a later dataset."""
    for sample in _rows(material.store, name, max_rows):
        if sample.id in material.samples or len(material.samples) < max_rows:
            material.samples[sample.id] = sample
            material.fates[sample.id] = "kept" if sample.dropped is None else fate


def _named(store: Store, name: str, ids: AbstractSet[str]) -> dict[str, Sample]:
    """Return the samples of a dataset with these ids."""
    found: dict[str, Sample] = {}
    for table in store.scan(name) if ids else ():
        mine = table.filter(pc.is_in(table["id"], pa.array(sorted(ids), pa.string())))
        found |= {sample.id: sample for sample in from_table(mine)}
    return found


def _rows(store: Store, name: str, limit: int) -> Iterator[Sample]:
    left = limit
    for table in store.scan(name):
        yield from from_table(table.slice(0, left))
        left -= min(left, table.num_rows)
        if not left:
            return


def _reasons(store: Store, name: str) -> Counter[str]:
    """Count the drop reasons of a dataset. Numbers and ids are left out, so that similar reasons count as one."""
    found: Counter[str] = Counter()
    for table in store.scan(name, ["dropped"]):
        for entry in table["dropped"].value_counts().to_pylist():
            if entry["values"] is not None:
                found[plain_reason(entry["values"])] += entry["counts"]
    return found


def plain_reason(reason: str) -> str:
    """Return a drop reason without the ids and numbers in it, which differ between samples."""
    kind, colon, why = reason.partition(": ")
    why = _WHOLE.sub("…", _DECIMAL.sub("", _ID.sub("another sample", why)))
    return f"{kind}{colon}{' '.join(why.split())}"
