"""The data of a round: its inputs as they were when it began, and the rows of earlier rounds.

    <store>/input-<digest>/shard-00000.arrow   SAMPLES: the kept rows of an input, or rows of earlier rounds

The name of such a dataset follows from its rows alone, and not from files or from how the rows came together. So a
line that never had a row makes the same datasets as one that has forgotten it.
"""

import heapq
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.own import Own
from gristmill.cluster.contract.sample import Sample, from_table, shards_of, to_table
from gristmill.cluster.contract.secrets import public_settings
from gristmill.cluster.contract.settings import Settings, Step
from gristmill.cluster.io.ingest import SHARD_ROWS, STORED, Source, ingest
from gristmill.cluster.jobs.figures import Figures
from gristmill.cluster.jobs.job import Job
from gristmill.cluster.refresh.registry import Rollback, Round
from gristmill.cluster.store import tables
from gristmill.cluster.store.lease import making
from gristmill.cluster.store.store import Manifest, Store, place

log = logging.getLogger(__name__)
INPUT = "input"
"""Name of the job of datasets that rounds work on."""


def fix_inputs(store: Store, jobs: Mapping[str, Job]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the sections of a recipe with datasets of the store in place of files, and each dataset by its key.

    Raises:
        JobError: if an input cannot be read.
    """
    inputs: dict[str, str] = {}
    found = {name: _Fixing(store, job, inputs).value(job, name) for name, job in jobs.items()}
    return public_settings(found), inputs


class _Fixing:
    """Turns the settings of a job into tables whose inputs are datasets."""

    def __init__(self, store: Store, job: Job, inputs: dict[str, str]) -> None:
        self._store, self._inputs = store, inputs
        self._sources = {id(source) for source in job.sources().values()}

    def value(self, value: object, key: str) -> Any:  # noqa: ANN401 - any JSON value
        """Return a value of a setting as JSON. A table has the keys that the recipe gives."""
        if isinstance(value, Source) and id(value) in self._sources:
            self._inputs[key] = value.dataset or fixed(self._store, value)
            return {"path": [f"{STORED}{self._inputs[key]}"]}
        if isinstance(value, Settings):
            given = [name for name in type(value).model_fields if name in value.model_fields_set or name == "kind"]
            table = {name: self.value(getattr(value, name), f"{key}.{name}") for name in given}
            if isinstance(value, Own) and isinstance(value, Step):
                table["kind"] = f"{value.own_source.path}:{value.own_name}"
            return table
        if isinstance(value, Mapping):
            return {name: self.value(inner, f"{key}.{name}") for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(inner, f"{key}.{place}") for place, inner in enumerate(value)]
        return value


def fixed(store: Store, source: Source) -> str:
    """Return the dataset of the kept rows of files; it is made if the store does not have it."""
    name = ingest(store, source)
    return kept(store, (row for table in store.scan(name) for row in from_table(table)))


def kept(store: Store, rows: Iterable[Sample]) -> str:
    """Return the dataset of the kept rows among these, in their order, each id once; it is made if it does not exist.

    All kept rows are in memory.
    """
    first: dict[str, Sample] = {}
    for row in rows:
        if row.dropped is None:
            first.setdefault(row.id, row)
    shards = [to_table(some) for some in shards_of(first.values(), SHARD_ROWS)]
    content = [tables.digest(tables.to_bytes(table, compress=True)) for table in shards]
    name, fingerprint = place(INPUT, {"rows": content}, {})
    if not store.complete(name):
        with making(store, name, say=log.info) as held:
            if not held.complete(name):
                made = [held.commit_shard(name, f"shard-{n:05d}", table) for n, table in enumerate(shards)]
                manifest = Manifest(name, "samples", INPUT, fingerprint, {}, {}, tuple(made))
                held.commit(manifest, Figures(rows=manifest.rows, kept=manifest.kept).to_json())
    return name


def num_new(store: Store, dataset: str, older: str) -> int:
    """Return the number of kept rows of a dataset that an older one does not have; all if there is no older one."""
    known = set(ids_of(store, older)) if older else set()
    return sum(1 for name in ids_of(store, dataset) if name not in known)


def has_answers(store: Store, dataset: str) -> bool:
    """Say whether a kept row of a dataset has a turn of the assistant, which can be trained on."""
    scan = store.scan(dataset, ["messages", "dropped"])
    return any(
        "assistant" in pc.unique(pc.struct_field(pc.list_flatten(table["messages"]), "role")).to_pylist()
        for table in (one.filter(pc.is_null(one["dropped"])) for one in scan)
    )


def written(rounds: Sequence[Round]) -> list[str]:
    """Return the datasets of the rows that closed rounds have written, in the order of the rounds."""
    return list(dict.fromkeys(one.rows for one in rounds if one.rows and one.state not in ("open", "abandoned")))


def history(store: Store, datasets: Sequence[str], gone: Mapping[str, set[str]], most: int) -> str:
    """Return the dataset of at most so many rows of these datasets; the empty string if there is none.

    The rows with the smallest hashes of their ids are taken, so that a row stays when others come.

    Args:
        store: the store.
        datasets: datasets of the rows of earlier rounds.
        gone: ids of rows that are not used, by dataset.
        most: largest number of rows.
    """
    everything = ((ids.digest("replay", name), dataset, name) for dataset in datasets for name in ids_of(store, dataset)
                  if name not in gone.get(dataset, ()))  # fmt: skip
    taken: dict[str, set[str]] = {}
    for _, dataset, name in heapq.nsmallest(most, everything):
        taken.setdefault(dataset, set()).add(name)
    return kept(store, _chosen(store, datasets, taken)) if taken else ""


def quarantined(rollbacks: Iterable[Rollback]) -> dict[str, set[str]]:
    """Return the ids of rows that are not trained on again, by dataset."""
    found: dict[str, set[str]] = {}
    for one in rollbacks:
        for dataset, names in one.quarantined.items():
            found.setdefault(dataset, set()).update(names)
    return found


def whole(store: Store, datasets: Iterable[str], gone: Mapping[str, set[str]]) -> list[str]:
    """Return the datasets that have a kept row which is not gone."""
    return [name for name in datasets if any(row not in gone.get(name, ()) for row in ids_of(store, name))]


def reasons(store: Store, dataset: str, beginning: str) -> dict[str, int]:
    """Return the number of dropped rows of a dataset by those reasons that begin so."""
    columns = (table["dropped"].drop_null().to_pylist() for table in store.scan(dataset, ["dropped"]))
    return dict(sorted(Counter(one for some in columns for one in some if one.startswith(beginning)).items()))


def ids_of(store: Store, dataset: str) -> Iterator[str]:
    """Yield the ids of the kept rows of a dataset."""
    for table in store.scan(dataset, ["id", "dropped"]):
        yield from table["id"].filter(pc.is_null(table["dropped"])).to_pylist()


def _chosen(store: Store, datasets: Sequence[str], taken: Mapping[str, set[str]]) -> Iterator[Sample]:
    for dataset in datasets:
        for table in store.scan(dataset) if dataset in taken else ():
            yield from (row for row in from_table(table) if row.id in taken[dataset])
