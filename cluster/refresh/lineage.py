"""Lineage: where a row comes from, and everything that it went into.

A row names its parents. A dataset, a model or an evaluation names the folders that it was made from, in its manifest.
A row that a trained model wrote is in a dataset whose settings name that model. All of this is read from the store;
nothing else is stored for it.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from textwrap import shorten
from typing import Literal, TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from gristmill.cluster.contract.errors import JobError, StoreError
from gristmill.cluster.contract.ids import ID_HEX, SHORT_HEX
from gristmill.cluster.contract.sample import Sample, from_table
from gristmill.cluster.store.store import Manifest, Store
from gristmill.cluster.text.terminal import visible

LINES = "lines"
"""Folder of the store with the lines of rounds. The decisions about models are in `lines/LINE/decisions`."""
LEAST = 6
"""Least number of letters of the beginning of an id."""
BRIEF = 100
"""Most characters of a text that is printed."""
SHOWN = 8
"""Most rows of a generation that are printed. The JSON form has all."""
_FOLDER = re.compile(rf"\b[a-z]+-[0-9a-f]{{{SHORT_HEX}}}\b")
"""Matches the name of a folder that a job made."""
Direction = Literal["up", "down"]


def generations(
    ids: Iterable[str], parents_of: Callable[[Sequence[str]], Iterable[str]], most: int | None = None
) -> Iterator[list[str]]:
    """Yield these ids, then their parents, then the parents of those, each id once.

    Args:
        ids: the ids of the first generation.
        parents_of: returns the parents of the rows of one generation. It is called with each generation once.
        most: largest number of ids of a generation; the rest is left out.
    """
    seen = set[str]()
    wanted = list(ids)
    while wanted := [one for one in dict.fromkeys(wanted) if one not in seen][:most]:
        seen.update(wanted)
        yield wanted
        wanted = list(parents_of(wanted))


def made_from(store: Store, name: str) -> list[str]:
    """Return the complete datasets of samples of which a dataset was made, the nearest first."""

    def inputs(names: Sequence[str]) -> Iterator[str]:
        for folder in names:
            for other in store.manifest(folder).inputs.values():
                if "/" not in other and store.complete(other) and store.manifest(other).kind == "samples":
                    yield other

    return [folder for level in generations([name], inputs) for folder in level][1:]


def descendants(store: Store, ids: Iterable[str]) -> dict[str, list[str]]:
    """Return the sorted ids of these rows and of all rows made from them, kept or dropped, by dataset.

    The datasets are sorted so that each is after those that it was made from. A dataset without such a row is left
    out. Rows of datasets that are not complete are not seen.

    Each dataset is read shard by shard, once or twice. Memory: 40 bytes for each row of the largest dataset and 36 for
    each of its parents, one shard, and about 200 bytes for each row that is found.

    Raises:
        StoreError: if a dataset or a manifest was altered, because it is not known then which rows are descendants.
    """
    return _closure(store, _datasets(_manifests(store)), ids, "down")[1]


def _manifests(store: Store) -> dict[str, Manifest]:
    """Return the manifests of all complete folders by name."""
    whole, damaged = store.entries()
    if damaged:
        raise StoreError(f"the lineage is not known: {damaged[0]}")
    return {manifest.name: manifest for manifest in whole}


def _datasets(manifests: Mapping[str, Manifest]) -> list[str]:
    """Return the datasets of samples, each after those that it was made from.

    Raises:
        StoreError: if manifests name each other, which only altered ones do.
    """
    samples = {name: one for name, one in manifests.items() if one.kind == "samples"}
    order = TopologicalSorter({name: sorted(one.inputs.values()) for name, one in samples.items()})
    try:
        return [name for name in order.static_order() if name in samples]
    except CycleError as error:
        raise StoreError(f"manifests name each other as inputs, must not: {', '.join(error.args[1])}") from error


def _closure(
    store: Store, datasets: Sequence[str], ids: Iterable[str], way: Direction
) -> tuple[list[str], dict[str, list[str]]]:
    """Return these ids with those of all rows above or below, and which of them each dataset has.

    An id is followed in a dataset after it was found anywhere. So a dataset is read again if others found further ids.
    """
    known = dict.fromkeys(ids)
    found = list(known)
    asked = dict.fromkeys(datasets, 0)
    has: dict[str, dict[str, None]] = {name: {} for name in datasets}
    order = datasets if way == "down" else datasets[::-1]
    while waiting := [name for name in order if asked[name] < len(found)]:
        for name in waiting:
            if asked[name] == len(found):
                continue
            table = _links(store, name)
            while asked[name] < len(found):
                new = pa.array(found[asked[name] :], pa.string())
                asked[name] = len(found)
                here, further = _step(table, new, way)
                has[name].update(dict.fromkeys(here))
                for one in further:
                    if one not in known:
                        known[one] = None
                        found.append(one)
    return found, {name: sorted(rows) for name, rows in has.items() if rows}


def _links(store: Store, name: str) -> pa.Table:
    """Return the ids of a dataset's rows and of their parents."""
    return pa.concat_tables(
        [pa.table({"id": pa.array([], pa.string())}), *store.scan(name, ["id", "parents"])],
        promote_options="default",
    ).combine_chunks()


def _step(table: pa.Table, ids: pa.Array, way: Direction) -> tuple[list[str], list[str]]:
    """Return which of the ids the table has, and the ids of their parents or children."""
    rows = pc.is_in(table["id"], ids)
    here = table["id"].filter(rows).to_pylist()
    if "parents" not in table.column_names:
        return here, []
    parents = table["parents"]
    if way == "up":
        return here, pc.list_flatten(parents.filter(rows)).unique().to_pylist()
    hits = pc.is_in(pc.list_flatten(parents), ids)
    children = pc.unique(pc.list_parent_indices(parents).filter(hits))
    return here, table["id"].take(children).to_pylist()


@dataclass(frozen=True)
class Link:
    """One row of a lineage."""

    id: str
    dataset: str
    """The first dataset that has the row; empty if no complete dataset of the store has it."""
    method: str = ""
    model: str = ""
    """The model that wrote the row; empty for a seed, a document or a person's row."""
    text: str = ""
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lineage:
    """Everything that a row, or a folder of the store, comes from and went into."""

    id: str
    generations: tuple[tuple[Link, ...], ...]
    """The row, its parents, the parents of these and so on. It is empty for a folder."""
    made_from: tuple[str, ...]
    """Folders of which the row's dataset, or the folder, was made: datasets, and the models that wrote them."""
    rows: Mapping[str, Mapping[str, int]]
    """Numbers of rows, `kept` and `dropped`, that are the row or were made from it, by dataset."""
    models: Mapping[str, Mapping[str, str]]
    """The models that were trained on a dataset with such a row that is kept: the dataset of each role, by model."""
    evaluations: tuple[str, ...]
    """Evaluations that asked these models, or that asked such a row as an item."""
    written: tuple[str, ...]
    """Datasets that were written by these models, or made from what they wrote."""
    decisions: tuple[str, ...]
    """Files with the decisions about these models."""


def lineage(store: Store, name: str) -> Lineage:
    """Return the lineage of a row or of a complete folder of the store.

    Args:
        store: the store. All complete datasets in it are searched.
        name: the id of a row, or its beginning with at least `LEAST` letters; or the name of a folder.

    Raises:
        JobError: if there is no such row or folder, or if several rows begin so.
        StoreError: if a dataset or a manifest was altered.
    """
    manifests = _manifests(store)
    above = {folder: _sources(manifest, manifests) for folder, manifest in manifests.items()}
    if name in manifests:
        return _of_folder(store, name, manifests, above)
    order = _datasets(manifests)
    row = _whole_id(store, order, name)
    links = _links_above(store, order, row)
    below = _closure(store, order, [row], "down")[1]
    rows = {folder: _states(store, folder, ids) for folder, ids in below.items()}
    kept = {folder for folder, states in rows.items() if states["kept"]}
    levels = generations([row], lambda ids: [parent for one in ids for parent in links[one].parents])
    first = links[row].dataset
    return Lineage(
        id=row,
        generations=tuple(tuple(links[one] for one in level) for level in levels),
        made_from=tuple(_reached([first], above)[1:]),
        rows=rows,
        **_use(store, kept, manifests, above),
    )


def _of_folder(
    store: Store, name: str, manifests: Mapping[str, Manifest], above: Mapping[str, Sequence[str]]
) -> Lineage:
    below = {folder for folder in manifests if name in _reached([folder], above)}
    samples = {folder for folder in below if manifests[folder].kind == "samples"}
    rows = {folder: {"kept": manifests[folder].kept, "dropped": manifests[folder].rows - manifests[folder].kept}
            for folder in _datasets(manifests) if folder in samples}  # fmt: skip
    use = _use(store, below, manifests, above)
    return Lineage(id=name, generations=(), made_from=tuple(_reached([name], above)[1:]), rows=rows, **use)


class _Use(TypedDict):
    models: Mapping[str, Mapping[str, str]]
    evaluations: tuple[str, ...]
    written: tuple[str, ...]
    decisions: tuple[str, ...]


def _use(
    store: Store, folders: Collection[str], manifests: Mapping[str, Manifest], above: Mapping[str, Sequence[str]]
) -> _Use:
    """Return what was made with some folders: models, and what these were used for."""
    models = {
        name: {role: folder for role, folder in one.inputs.items() if folder in folders}
        for name, one in manifests.items()
        if one.kind == "model" and (name in folders or {*one.inputs.values()} & {*folders})
    }
    after = [name for name in manifests if {*_reached([name], above)} & {*models}]
    asked = [name for name, one in manifests.items() if {*one.inputs.values()} & {*folders}]
    decided = [
        f"{LINES}/{line}/decisions/{file}"
        for line in store.names(LINES)
        for file in store.names(LINES, line, "decisions")
        if any(name in store.read_bytes(LINES, line, "decisions", file).decode(errors="replace") for name in models)
    ]
    return {
        "models": models,
        "evaluations": tuple(sorted(name for name in {*after, *asked} if manifests[name].kind == "evaluation")),
        "written": tuple(name for name in after if manifests[name].kind == "samples"),
        "decisions": tuple(decided),
    }


def _sources(manifest: Manifest, manifests: Mapping[str, Manifest]) -> list[str]:
    """Return the folders that a folder was made from: its inputs, and the models that its settings name."""
    named = _FOLDER.findall(json.dumps(dict(manifest.settings)))
    return [name for name in dict.fromkeys([*manifest.inputs.values(), *named]) if name in manifests]


def _reached(names: Iterable[str], above: Mapping[str, Sequence[str]]) -> list[str]:
    """Return these folders, and all that they were made from, the nearest first."""
    levels = generations(names, lambda level: [source for name in level for source in above.get(name, ())])
    return [name for level in levels for name in level]


def _whole_id(store: Store, datasets: Sequence[str], name: str) -> str:
    """Return the id that begins so."""
    found: dict[str, None] = {}
    for dataset in datasets:
        for table in store.scan(dataset, ["id"]):
            column = table["id"]
            hits = pc.equal(column, name) if len(name) == ID_HEX else pc.starts_with(column, name)
            found.update(dict.fromkeys(column.filter(hits).to_pylist()))
    if len(found) == 1 and len(name) >= LEAST:
        return next(iter(found))
    if name in found:
        return name
    if not found:
        what = "no complete dataset has a row, and no folder is, of this name"
        raise JobError(f"{name}: {what}; `gristmill show` lists datasets and models, `gristmill head` prints ids")
    some = ", ".join(islice(found, 3))
    raise JobError(f"{name}: {len(found)} rows begin so ({some}), must be one, with {LEAST} letters; give more letters")


def _links_above(store: Store, order: Sequence[str], row: str) -> dict[str, Link]:
    """Return a row and all rows above it, by id. A parent that no dataset has is there with its id alone."""
    ids, has = _closure(store, order, [row], "up")
    found = {one: Link(one, "") for one in ids}
    for dataset in (name for name in order if name in has):
        for sample in _samples(store, dataset, has[dataset]):
            if not found[sample.id].dataset:
                model = sample.origin.model if sample.origin else ""
                text = sample.instruction or next((turn.text for turn in sample.messages), "")
                found[sample.id] = Link(sample.id, dataset, sample.method, model, text, sample.parents)
    return found


def _samples(store: Store, dataset: str, ids: Sequence[str]) -> Iterator[Sample]:
    wanted = pa.array(ids, pa.string())
    for table in store.scan(dataset):
        yield from from_table(table.filter(pc.is_in(table["id"], wanted)))


def _states(store: Store, dataset: str, ids: Sequence[str]) -> dict[str, int]:
    """Return how many of these rows a dataset keeps, and how many it has dropped."""
    wanted, kept, total = pa.array(ids, pa.string()), 0, 0
    for table in store.scan(dataset, ["id", "dropped"]):
        mine = table["dropped"].filter(pc.is_in(table["id"], wanted))
        kept, total = kept + mine.null_count, total + len(mine)
    return {"kept": kept, "dropped": total - kept}


def lines(found: Lineage) -> Iterator[str]:
    """Yield a lineage as lines for people."""
    for depth, level in enumerate(found.generations):
        yield "row" if not depth else "parents" if depth == 1 else f"parents, {depth} steps back"
        for link in level[:SHOWN]:
            by = f" by {link.model}" if link.model else ""
            where = f"{link.dataset}, {link.method}{by}" if link.dataset else "in no complete dataset of this store"
            yield f"  {link.id}  {where}  {shorten(link.text, BRIEF)}".rstrip()
        if len(level) > SHOWN:
            yield f"  and {len(level) - SHOWN} more"
    parts = (
        ("made from", found.made_from),
        ("rows that are it, or were made from it" if found.generations else "its rows, and datasets made from it",
         [f"{name}  {count['kept']:,} kept, {count['dropped']:,} dropped" for name, count in found.rows.items()]),
        ("models trained on these",
         [f"{name}  {', '.join(f'{role} {folder}' for role, folder in reads.items())}".rstrip()
          for name, reads in found.models.items()]),
        ("evaluations", found.evaluations),
        ("datasets that these models wrote, or that were made from what they wrote", found.written),
        ("decisions", found.decisions),
    )  # fmt: skip
    for title, entries in parts:
        if entries:
            yield title
            yield from (f"  {entry}" for entry in entries)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the verb `lineage`, and return the exit code."""
    store = Store(arguments.store)
    if not store.exists() or store.is_file():
        raise JobError(f"{store.uri}: no folder, must be that of a store; name it with --store")
    found = lineage(store, arguments.id)
    value = json.dumps(asdict(found), indent=1, ensure_ascii=False)
    sys.stdout.write(visible(value if arguments.json else "\n".join(lines(found))) + "\n")
    return 0
