"""What a store holds that nothing needs: `gristmill clean` lists it, and deletes it with `--delete`.

Only what is certainly ours and certainly needed by nobody is listed: a folder with the name of a job and a fingerprint
that has a manifest or a lease of that name, and a file with a name that only a store gives. What a run, or a dataset
that a run needs, names anywhere in its recipe or ledger is needed, and what a line names in its records. So is a
dataset that a person decided about or made in `gristmill ui`. What a living process makes is left alone.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from gristmill.cluster.contract.errors import JobError, StoreError
from gristmill.cluster.jobs.job import JOBS, job_class
from gristmill.cluster.jobs.state import RUNS
from gristmill.cluster.refresh.registry import LINES
from gristmill.cluster.refresh.replay import INPUT
from gristmill.cluster.store.files import TEMPORARY
from gristmill.cluster.store.lease import free, making
from gristmill.cluster.store.ledger import read_lines, state
from gristmill.cluster.store.store import LEASES, MANIFEST, Manifest, Store
from gristmill.cluster.text.terminal import visible
from gristmill.cluster.ui.decisions import FOLDER as REVIEWS
from gristmill.cluster.ui.edit import JOB as EDIT

FOLDERS = (*JOBS, "ingest", INPUT, "vectors", "suite", "items")
"""Beginnings of the names of folders that jobs make, before the fingerprint."""
_OURS = re.compile(rf"({'|'.join(FOLDERS)})-[0-9a-f]{{12}}")
_EDITED = re.compile(rf"{EDIT}-[0-9a-f]{{12}}")
INDEX = "index-"
"""Beginning of the name of a folder with arrays of a dataset, which selection can make again."""


@dataclass(frozen=True)
class Unneeded:
    """Files of one folder that nothing needs."""

    folder: str
    why: str
    bytes: int
    files: tuple[str, ...]
    """Names of the files in the folder. It is empty if the whole folder is meant."""


def unneeded(store: Store) -> list[Unneeded]:
    """Return what nothing needs, sorted by folder. Nothing is changed.

    Raises:
        StoreError: if the recipe of a run cannot be read, because it is not known then which datasets are needed.
    """
    names = [name for name in store.names() if name != RUNS]
    known = [name for name in names if _OURS.fullmatch(name) or _EDITED.fullmatch(name)]
    manifests = {name: store.manifest(name) for name in known if store.complete(name)}
    leased = set(store.names(LEASES))
    needed = _needed(store, manifests)
    found = [*_of_runs(store)]
    for name in names:
        whole = name.removeprefix(INDEX)
        if _OURS.fullmatch(whole) is None or not free(store, whole):
            continue
        if whole in needed:
            found += _left(store, manifests.get(name))
        elif whole in leased or whole in manifests:
            why = "no run refers to it" if name in manifests or name != whole else "incomplete, and no run refers to it"
            found.append(Unneeded(name, why, sum(entry.bytes for entry in store.walk(name)), ()))
    return found


def delete(store: Store, found: Unneeded) -> None:
    """Delete what nothing needs, unless a process makes the dataset now."""
    if found.folder.startswith(RUNS):
        store.delete(found.folder, *found.files)
        return
    name = found.folder.removeprefix(INDEX)
    if not free(store, name):
        return
    with making(store, name, say=lambda line: None):
        if found.files:
            store.delete(found.folder, *found.files)
            return
        store.delete(found.folder, MANIFEST)  # a folder that is half deleted must not look complete
        store.delete_folder(found.folder)


def _needed(store: Store, manifests: Mapping[str, Manifest]) -> set[str]:
    """Return the datasets that runs name, and those that these were made from, or that hold vectors of these."""
    texts = []
    for run in store.names(RUNS):
        if store.exists(RUNS, run, "recipe.json"):
            texts.append(json.dumps(store.read_json(RUNS, run, "recipe.json")))
            texts += read_lines(store, f"{RUNS}/{run}")
    records = [entry.path for entry in store.walk(LINES) if entry.path.endswith(".json")]
    texts += [json.dumps(store.read_json(LINES, path)) for path in records]
    needed = {found[0] for text in texts for found in _OURS.finditer(text)}
    needed |= set(store.names(REVIEWS))
    needed |= {name for name in store.names() if _EDITED.fullmatch(name)}
    while True:
        more = {name for kept in needed & manifests.keys() for name in manifests[kept].inputs.values()}
        more |= {
            name
            for name, manifest in manifests.items()
            if manifest.job in ("embed", "suite") and manifest.inputs and needed >= set(manifest.inputs.values())
        }
        if more <= needed:
            return needed
        needed |= more


def _left(store: Store, manifest: Manifest | None) -> Iterator[Unneeded]:
    """Yield the files that a complete dataset has from its making, old checkpoints among them."""
    if manifest is None:
        return
    working = job_class(manifest.job).working if manifest.job in JOBS else ()
    left = store.leftovers(manifest, working)
    if left:
        names = tuple(entry.path for entry in left)
        yield Unneeded(manifest.name, "left from its making", sum(entry.bytes for entry in left), names)


def _of_runs(store: Store) -> Iterator[Unneeded]:
    """Yield the temporary files of runs whose process has ended."""
    for run in store.names(RUNS):
        folder = f"{RUNS}/{run}"
        left = [e for e in store.walk(folder) if e.path.startswith(".") and e.path.endswith(TEMPORARY)]
        if left and state(store, folder).state != "running":
            total = sum(entry.bytes for entry in left)
            yield Unneeded(folder, "being written when a process ended", total, tuple(entry.path for entry in left))


def lines(found: Sequence[Unneeded], *, deleted: bool) -> Iterator[str]:
    """Yield what was found, for people."""
    for one in found:
        what = f"{len(one.files)} files in {one.folder}" if one.files else one.folder
        yield f"{one.bytes:>15,} bytes  {what}: {one.why}"
    total = f"{sum(one.bytes for one in found):,} bytes in {len(found)} places"
    if not found:
        yield "nothing to delete"
    else:
        yield f"{total} deleted" if deleted else f"{total} can be deleted; `gristmill clean --delete` does it"


def run(arguments: argparse.Namespace) -> int:
    """Carry out the verb `clean`, and return the exit code."""
    store = Store(arguments.store)
    if not store.exists() or store.is_file():
        raise JobError(f"{store.uri}: no folder, must be that of a store; name it with --store")
    try:
        found = unneeded(store)
    except StoreError as error:
        raise StoreError(f"nothing was deleted, because it is not known what is needed: {error}") from error
    if arguments.delete:
        for one in found:
            delete(store, one)
    if arguments.json:
        value = {"deleted": arguments.delete, "unneeded": [asdict(one) for one in found]}
        sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(visible("\n".join(lines(found, deleted=arguments.delete))) + "\n")
    return 0
