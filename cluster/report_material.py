"""What a run has left in the store, read for its report: counts of everything, samples up to a bound."""

import re
from collections import Counter
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cluster.ledger import RunState
from cluster.ledger import state as state_of
from cluster.sample import Sample, from_table
from cluster.store import Manifest, Store

MAX_ROWS = 50_000
"""Samples read for distributions; counts and reasons come from all of them."""
_ID, _DECIMAL, _WHOLE = re.compile(r"\b[0-9a-f]{32}\b"), re.compile(r"-?\b\d+\.\d+\b"), re.compile(r"\b\d+\b")


@dataclass
class Material:
    """What a run has left in the store, as far as it has come."""

    run_id: str
    recipe: dict[str, Any]
    state: RunState
    manifests: dict[str, Manifest]
    """By job name, of the outputs that are complete."""
    figures: dict[str, dict[str, Any]]
    seeds: dict[str, Sample] = field(default_factory=dict)
    samples: dict[str, Sample] = field(default_factory=dict)
    """By id, up to `MAX_ROWS`: as the last job that decided on them left them."""
    fates: dict[str, str] = field(default_factory=dict)
    before: Counter[str] = field(default_factory=Counter)
    """Drop reasons before selection, counts and ids cut out of them."""
    selection: Counter[str] = field(default_factory=Counter)
    """Drop reasons of selection."""
    rows: int = 0
    """Samples in all, whether read or only counted."""
    examples: dict[str, Sample] = field(default_factory=dict)
    """Samples that figures name and that are not among those read, by id."""


def material_of(store: Store, run_id: str) -> Material:
    """Return what there is of a run.

    Raises:
        StoreError: when there is no such run.
    """
    recipe = store.read_json("runs", run_id, "recipe.json")
    state = state_of(store, f"runs/{run_id}")
    outputs = {name: job.output for name, job in state.jobs.items() if job.output} | dict(recipe.get("outputs", {}))
    manifests = {name: store.manifest(folder) for name, folder in outputs.items() if store.complete(folder)}
    figures = {name: store.figures(manifest.name) for name, manifest in manifests.items()}
    for name, job in state.jobs.items():
        figures[name] = {**job.figures, **figures.get(name, {})}
    material = Material(run_id, recipe, state, manifests, figures)
    _read_samples(store, material)
    return material


def _read_samples(store: Store, material: Material) -> None:
    """Fill in seeds and samples: the dataset that the run began with, and what review and selection made of them."""
    manifests = material.manifests
    later = [manifests[name] for name in ("review", "select", "train") if name in manifests]
    if "ingest" in manifests:
        material.seeds = {s.id: s for s in _rows(store, manifests["ingest"].name, MAX_ROWS)}
    base = manifests.get("generate")
    if base is None:
        folder = next((m.inputs["samples"] for m in later if "samples" in m.inputs), None)
        base = store.manifest(folder) if folder and store.complete(folder) else manifests.get("ingest")
    if base is None:
        return
    material.rows = base.rows
    material.before = _reasons(store, base.name)
    _take_over(store, material, base.name, "dropped before selection")
    if "review" in manifests:
        material.before += _reasons(store, manifests["review"].name)
        _take_over(store, material, manifests["review"].name, "dropped before selection")
    if "select" in manifests:
        material.selection = _reasons(store, manifests["select"].name)
        _take_over(store, material, manifests["select"].name, "dropped in selection")
        named = {name for topic in material.figures["select"].get("topics", []) for name in topic.get("examples", [])}
        material.examples = _named(store, manifests["select"].name, named - material.samples.keys())


def _take_over(store: Store, material: Material, name: str, fate: str) -> None:
    """Put the samples of a dataset in the place of what was known of them before."""
    for sample in _rows(store, name, MAX_ROWS):
        if sample.id in material.samples or len(material.samples) < MAX_ROWS:
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
    """Count the drop reasons of a whole dataset, with numbers and ids left out so that like ones fall together."""
    found: Counter[str] = Counter()
    for table in store.scan(name, ["dropped"]):
        for entry in table["dropped"].value_counts().to_pylist():
            if entry["values"] is not None:
                found[plain_reason(entry["values"])] += entry["counts"]
    return found


def plain_reason(reason: str) -> str:
    """Return a drop reason without the ids and numbers of its one sample."""
    kind, colon, why = reason.partition(": ")
    why = _WHOLE.sub("…", _DECIMAL.sub("", _ID.sub("another sample", why)))
    return f"{kind}{colon}{' '.join(why.split())}"
