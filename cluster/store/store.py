"""Datasets and models on disk or in an object store: immutable folders whose manifest is written last.

    <store>/<job>-<fingerprint>/shard-00000.arrow     Arrow IPC file, written to a temporary name, flushed, renamed
                                shard-00000.json      its commit: rows, kept, bytes, digest; written after the shard
                                figures.json          what the job measured; not part of the data
                                manifest.json         written last: it exists exactly when the folder is complete

A shard is committed as soon as its commit file exists. A killed job continues after its committed shards. A complete
folder has the files that its manifest lists, its figures and its manifest, and no other file.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import BusyError, StoreError
from gristmill.cluster.contract.schema import SCHEMA_VERSION, check
from gristmill.cluster.contract.secrets import public_uri
from gristmill.cluster.store import tables
from gristmill.cluster.store.backend import SHOWN, Backend, Entry, Fence, in_words
from gristmill.cluster.store.leftovers import leftovers
from gristmill.cluster.store.locate import locate
from gristmill.cluster.store.typed import typed
from gristmill.cluster.store.uri import UriError

T = TypeVar("T")
MANIFEST = "manifest.json"
FIGURES = "figures.json"
LEASES = ".leases"
"""Folder of a store with the leases of datasets; see `lease.py`."""
Kind = Literal["samples", "vectors", "model", "evaluation"]


@dataclass(frozen=True, slots=True)
class Shard:
    """One committed file of a dataset, a model or an evaluation."""

    name: str
    rows: int
    kept: int
    bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents and the sources of a complete folder."""

    name: str
    kind: Kind
    job: str
    fingerprint: str
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]
    shards: tuple[Shard, ...]
    schema_version: int = SCHEMA_VERSION
    metadata: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Shard, ...] = ()
    """Further files, which hold no rows of the dataset."""

    @property
    def rows(self) -> int:
        """Rows in all shards, kept and dropped."""
        return sum(s.rows for s in self.shards)

    @property
    def kept(self) -> int:
        """Kept rows in all shards."""
        return sum(s.kept for s in self.shards)


@dataclass(frozen=True)
class _Versioned:
    """The part of a manifest that is read first, because another version may have other keys."""

    schema_version: int


class Store:
    """A folder with datasets, models and runs: a local path, or a URI such as `s3://…`, `gs://…` or `abfs://…`."""

    def __init__(self, uri: str, fences: Mapping[str, int] | None = None) -> None:
        """Open a store. A local folder is created at the first write.

        Args:
            uri: a path or a URI.
            fences: numbers of the leases with which this process writes, by folder; see `lease.py`.

        Raises:
            StoreError: if the URI is of no known file system, or cannot be reached.
        """
        self.uri = public_uri(uri)
        """The path or URI without credentials."""
        try:
            found = locate(uri)
        except UriError as error:  # its cause may have credentials
            raise StoreError(f"{self.uri[:SHOWN]}: {str(error)[:SHOWN]}") from None
        self.backend: Backend = found.backend
        """The files of the store by path."""
        self.local: Path | None = found.local
        self._address = str(self.local or uri)
        self.root = found.shown
        self._inside = found.inside
        self._numbers: dict[str, int] = {}
        self._fences: dict[str, Fence] = {}
        self._add(fences or {})

    def with_fences(self, numbers: Mapping[str, int]) -> "Store":
        """Return the same store, with the same backend, for a process that has the leases of these folders."""
        found = copy(self)
        found._add(numbers)
        return found

    def _add(self, numbers: Mapping[str, int]) -> None:
        new = {name: self.backend.fence(self.path(LEASES, name), number) for name, number in numbers.items()}
        self._numbers, self._fences = {**self._numbers, **numbers}, {**self._fences, **new}

    def is_file(self) -> bool:
        """Say whether the path of the store is a file."""
        with in_words(self.root):
            return self.backend.has(self.path())

    def __reduce__(self) -> tuple[type["Store"], tuple[str, dict[str, int]]]:
        """Pickle the store as its URI and the numbers of its leases."""
        return Store, (self._address, self._numbers)

    def at(self, *names: str) -> str:
        """Return the path of a file or folder of the store on its file system.

        Raises:
            StoreError: if the names lead out of the store, as those in an altered manifest or ledger may.
        """
        return self._join(self.root, names)

    def path(self, *names: str) -> str:
        """Return the path of a file or folder for the backend. It may lack the bucket, which `at` shows."""
        return self._join(self._inside, names)

    def _join(self, root: str, names: Sequence[str]) -> str:
        for name in names:
            if not isinstance(name, str) or name.startswith("/") or "\0" in name or ".." in name.split("/"):
                raise StoreError(f"{self.uri}: {str(name)[:SHOWN]!r} leads out of the store, must be a name in it")
        return "/".join([*([root.rstrip("/")] if root else []), *names])

    def folder(self, name: str) -> Path:
        """Return the local path of a folder of the store, and make the folder if it is absent.

        Raises:
            StoreError: if the store is not on a local or mounted file system.
        """
        if self.local is None:
            raise StoreError(f"{self.uri}: {name} needs a local or shared folder, the store is an object store")
        path = Path(self.path(name))
        with in_words(str(path)):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def exists(self, *names: str) -> bool:
        """Say whether a file or folder is in the store."""
        with in_words(self.at(*names)):
            return self.backend.kind(self.path(*names)) is not None

    def write_bytes(self, data: bytes | pa.Buffer, *names: str) -> None:
        """Write a file completely or not at all.

        Raises:
            BusyError: if another process has got the lease of the folder since.
        """
        fence = next((held for name, held in self._fences.items() if "/".join(names).startswith(f"{name}/")), None)
        try:
            with in_words(self.at(*names)):
                self.backend.write(self.path(*names), data, fence)
        except BusyError:
            self._withdraw(*names)
            raise

    def _withdraw(self, *names: str) -> None:
        """Delete a file that this process has written too late, after another one had completed the folder."""
        folder, file = names[0].partition("/")[0], "/".join(names).partition("/")[2]
        if self.complete(folder) and file in {entry.path for entry in self.leftovers(self.manifest(folder))}:
            self.delete(folder, file)

    def write_json(self, value: object, *names: str) -> None:
        """Write a JSON file completely or not at all."""
        self.write_bytes((json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode(), *names)

    def read_bytes(self, *names: str) -> bytes:
        """Read a file.

        Raises:
            StoreError: if it is absent or cannot be read.
        """
        with in_words(self.at(*names)):
            data: bytes = self.backend.read(self.path(*names)).to_pybytes()
        return data

    def read_json(self, *names: str) -> Any:  # noqa: ANN401 - JSON has no narrower type
        """Read a JSON file.

        Raises:
            StoreError: if it is absent or not JSON.
        """
        try:
            return json.loads(self.read_bytes(*names))
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{self.at(*names)}: not JSON ({error}); move it away and run again") from error

    def read_as(self, kind: type[T], *names: str) -> T:
        """Read a JSON file as a value of a dataclass, or of another type that pydantic checks.

        Raises:
            StoreError: if it is absent, or is no such value.
        """
        return typed(kind, self.read_bytes(*names), self.at(*names))

    def file(self, folder: str, name: str) -> Shard:
        """Return the manifest's entry for a file that was written into a folder."""
        data = self.read_bytes(folder, name)
        return Shard(name, 0, 0, len(data), tables.digest(data))

    def names(self, *names: str) -> list[str]:
        """Return the sorted names of files and folders in a folder. Names that begin with a dot are left out."""
        with in_words(self.at(*names)):
            found = self.backend.names(self.path(*names))
        return sorted(name for name in found if not name.startswith("."))

    def walk(self, *names: str) -> list[Entry]:
        """Return all files below a folder, sorted by path, also those whose names begin with a dot."""
        with in_words(self.at(*names)):
            return sorted(self.backend.walk(self.path(*names)), key=lambda entry: entry.path)

    def delete(self, folder: str, *names: str) -> None:
        """Delete files of a folder. Those that are absent are no error."""
        with in_words(self.at(folder)):
            self.backend.delete([self.path(folder, name) for name in names])

    def delete_folder(self, folder: str) -> None:
        """Delete a folder with everything in it, if it exists."""
        with in_words(self.at(folder)):
            self.backend.delete_folder(self.path(folder))

    # -- shards -------------------------------------------------------------------------------------------------

    def commit_shard(self, name: str, shard: str, table: pa.Table, *, compress: bool = True) -> Shard:
        """Write a table as one shard, and commit it. The same table always gives the same bytes.

        Args:
            name: the dataset's folder.
            shard: the shard's name without suffix, such as `shard-00003`.
            table: rows of one of the schemas in `contract.schema`. A row whose `dropped` is null is kept.
            compress: whether to compress with zstd. Vectors are not compressed, so that they can be memory-mapped.
        """
        check(table, tables.contract(table), f"{name}/{shard}")
        data = tables.to_bytes(table, compress=compress)
        kept = pc.sum(pc.is_null(table["dropped"])).as_py() or 0 if "dropped" in table.column_names else table.num_rows
        entry = Shard(f"{shard}.arrow", table.num_rows, int(kept), data.size, tables.digest(data))
        self.write_bytes(data, name, entry.name)
        self.write_json(asdict(entry), name, f"{shard}.json")
        return entry

    def shard(self, name: str, shard: str) -> Shard:
        """Return one committed shard of a folder that has no manifest yet. The shard's name is without suffix."""
        return self.read_as(Shard, name, f"{shard}.json")

    def committed(self, name: str, prefix: str = "shard-") -> dict[str, Shard]:
        """Return the committed shards of a folder that has no manifest yet, by their names without suffix."""
        found = (n for n in self.names(name) if n.startswith(prefix) and n.endswith(".json"))
        return {n.removesuffix(".json"): self.shard(name, n.removesuffix(".json")) for n in found}

    def read_shard(
        self,
        name: str,
        shard: Shard,
        columns: Sequence[str] | None = None,
        schema_of: Callable[[pa.Table], pa.Schema] | None = None,
    ) -> pa.Table:
        """Check the size, digest and schema of one shard, and read it. In a local store it is memory-mapped.

        `columns` are returned, all by default. `schema_of` says which schema a table must have, by default a dataset's.

        Raises:
            StoreError: if the shard is absent, truncated or altered. The message names it and says what to do.
            SchemaError: if it has another schema.
        """
        where = f"{name}/{shard.name}"
        advice = f"move the folder {self.at(name)} away and run again"
        with in_words(self.at(name, shard.name)):
            try:
                data = self.backend.read(self.path(name, shard.name))
            except FileNotFoundError as error:
                raise StoreError(f"{where}: absent, the manifest lists it; {advice}") from error
        if data.size != shard.bytes:
            raise StoreError(f"{where}: {data.size} bytes, the manifest says {shard.bytes}; {advice}")
        if tables.digest(data) != shard.digest:
            raise StoreError(f"{where}: content does not match its digest, it was altered; {advice}")
        table = tables.from_bytes(data, where, advice)
        check(table, (schema_of or tables.contract)(table), where)
        return table.select(list(columns)) if columns else table

    # -- whole folders ------------------------------------------------------------------------------------------

    def complete(self, name: str) -> bool:
        """Say whether a folder is complete, which means that it has its manifest."""
        with in_words(self.at(name, MANIFEST)):
            return self.backend.has(self.path(name, MANIFEST))

    def commit(self, manifest: Manifest, figures: Mapping[str, Any] | None = None) -> None:
        """Complete a folder: write its figures, then its manifest, and delete the files of its making."""
        self.write_json(dict(figures or {}), manifest.name, FIGURES)
        self.write_json(asdict(manifest), manifest.name, MANIFEST)
        self.delete(manifest.name, *(entry.path for entry in self.leftovers(manifest)))

    def leftovers(self, manifest: Manifest, working: Sequence[str] = ()) -> list[Entry]:
        """Return the files that a complete folder has from its making; see `leftovers.py`."""
        listed = {entry.name for entry in (*manifest.shards, *manifest.files)} | {FIGURES, MANIFEST}
        return leftovers(self.walk(manifest.name), listed, working)

    def manifest(self, name: str) -> Manifest:
        """Return the manifest of a complete folder.

        Raises:
            StoreError: if the folder is absent, incomplete or of another schema version.
        """
        with in_words(self.at(name, MANIFEST)):
            try:
                data = self.backend.read(self.path(name, MANIFEST)).to_pybytes()
            except (FileNotFoundError, NotADirectoryError) as error:
                state = "incomplete (it has no manifest)" if self.exists(name) else "absent"
                advice = "must be complete; run the job that makes it"
                raise StoreError(f"{self.at(name)}: {state}, {advice}") from error
        version = typed(_Versioned, data, self.at(name, MANIFEST)).schema_version
        if version != SCHEMA_VERSION:
            raise StoreError(f"{name}: schema version {version}, must be {SCHEMA_VERSION}; make it again")
        manifest = typed(Manifest, data, self.at(name, MANIFEST))
        if manifest.name != name:
            where, advice = self.at(name, MANIFEST), "move the folder away and run again"
            raise StoreError(f"{where}: is that of {manifest.name[:SHOWN]!r}, must be that of its folder; {advice}")
        return manifest

    def figures(self, name: str) -> dict[str, Any]:
        """Return the figures of a complete folder.

        Raises:
            StoreError: if they are absent or no table.
        """
        return self.read_as(dict[str, Any], name, FIGURES)

    def scan(self, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield each shard of a complete dataset as a table, in the order of the manifest."""
        for shard in self.manifest(name).shards:
            yield self.read_shard(name, shard, columns)

    def read(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return a complete dataset as one table. It must fit into memory.

        Raises:
            StoreError: if the dataset is absent, incomplete or altered, or has no shard.
        """
        found = list(self.scan(name, columns))
        if not found:
            raise StoreError(f"{self.at(name)}: has no shard, must have one; move the folder away and run again")
        return pa.concat_tables(found)

    def entries(self) -> tuple[list[Manifest], list[str]]:
        """Return the manifests of all complete folders, sorted by name, and the problems of damaged manifests."""
        whole, damaged = [], []
        for name in filter(self.complete, self.names()):
            try:
                whole.append(self.manifest(name))
            except StoreError as error:
                damaged.append(str(error))
        return whole, damaged


def place(job: str, identity: Mapping[str, Any], inputs: Mapping[str, str]) -> tuple[str, str]:
    """Return (folder name, fingerprint) of the output that a job with this identity makes from these inputs.

    `inputs` has the name of each input folder by its role.
    """
    fingerprint = ids.digest(job, SCHEMA_VERSION, dict(identity), dict(inputs))
    return f"{job}-{fingerprint[: ids.SHORT_HEX]}", fingerprint


def file_shard(path: Path, root: Path) -> Shard:
    """Return the manifest's entry for a file of a model or an evaluation. Its name is relative to `root`."""
    with path.open("rb") as source:
        digest = hashlib.file_digest(source, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    return Shard(str(path.relative_to(root)), 0, 0, path.stat().st_size, digest)
