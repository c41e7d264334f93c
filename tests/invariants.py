"""What must hold of any dataset, however often its making was killed."""

from gristmill.cluster.contract.sample import Sample, from_table
from gristmill.cluster.store.store import FIGURES, MANIFEST, Store


def samples_of(store: Store, name: str) -> list[Sample]:
    """All rows of a complete dataset, in manifest order."""
    return [sample for table in store.scan(name) for sample in from_table(table)]


def check_dataset(store: Store, name: str, *sources: str) -> list[Sample]:
    """Assert in = kept + dropped, unique ids, known parents, reasons on every drop; return the rows.

    `sources` are the datasets in which parents may lie beside this one.
    """
    manifest = store.manifest(name)
    rows = samples_of(store, name)
    kept = [row for row in rows if row.dropped is None]
    assert len(rows) == manifest.rows
    assert len(kept) == manifest.kept
    assert len({row.id for row in rows}) == len(rows), "an id appears twice"
    known = {row.id for row in rows} | {row.id for source in sources for row in samples_of(store, source)}
    orphans = {parent for row in rows for parent in row.parents} - known
    assert not orphans, f"parents that do not exist: {sorted(orphans)[:3]}"
    assert all(row.dropped is None or ": " in row.dropped for row in rows)
    assert all(row.messages for row in kept)
    check_clean(store, name)
    return rows


def check_clean(store: Store, name: str) -> None:
    """Assert that a complete folder has the files that its manifest lists, and no other file."""
    manifest = store.manifest(name)
    listed = {entry.name for entry in (*manifest.shards, *manifest.files)} | {FIGURES, MANIFEST}
    assert {entry.path for entry in store.walk(name)} == listed
