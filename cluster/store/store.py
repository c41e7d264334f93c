"""Datasets and models on disk or in an object store: immutable folders whose manifest is written last.

    <store>/<job>-<fingerprint>/shard-00000.arrow     Arrow IPC file, written to a temporary name, flushed, renamed
                                shard-00000.json      its commit: rows, kept, bytes, digest; written after the shard
                                figures.json          what the job measured; not part of the data
                                manifest.json         written last: it exists exactly when the folder is complete

A shard is committed as soon as its commit file exists. A killed job continues after its committed shards.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs, ipc
from pydantic import TypeAdapter, ValidationError

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import StoreError
from gristmill.cluster.contract.schema import ITEMS, SAMPLES, SCHEMA_VERSION, check, vectors
from gristmill.cluster.contract.secrets import public_uri
from gristmill.cluster.store.uri import UriError, file_system, folder_path

T = TypeVar("T")
MANIFEST = "manifest.json"
FIGURES = "figures.json"
SHOWN = 300
"""Most characters of a path or of another system's message in an error."""
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

    def __init__(self, uri: str) -> None:
        """Open a store. A local folder is created at the first write.

        Raises:
            StoreError: if the URI is of no known file system, or cannot be reached.
        """
        self._given = uri
        self.uri = public_uri(uri)
        """The path or URI without credentials."""
        if "://" in uri:
            try:
                self.fs, self.root = file_system(uri)
            except UriError as error:
                raise StoreError(f"{uri}: {error}") from None
            self.local: Path | None = Path(self.root) if isinstance(self.fs, fs.LocalFileSystem) else None
        else:
            try:
                self.local = folder_path(uri)
            except UriError as error:
                raise StoreError(f"{uri[:SHOWN]}: {str(error)[:SHOWN]}") from error
            self.fs, self.root = fs.LocalFileSystem(), str(self.local)

    def is_file(self) -> bool:
        """Say whether the path of the store is a file."""
        with _in_words(self.root):
            return bool(self.fs.get_file_info(self.root).type == fs.FileType.File)

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        """Pickle the store as its URI."""
        return Store, (str(self.local) if self.local else self._given,)

    def at(self, *names: str) -> str:
        """Return the path of a file or folder of the store on its file system.

        Raises:
            StoreError: if the names lead out of the store, as those in an altered manifest or ledger may.
        """
        for name in names:
            if not isinstance(name, str) or name.startswith("/") or "\0" in name or ".." in name.split("/"):
                raise StoreError(f"{self.uri}: {str(name)[:SHOWN]!r} leads out of the store, must be a name in it")
        return "/".join([self.root.rstrip("/"), *names])

    def folder(self, name: str) -> Path:
        """Return the local path of a folder of the store, and make the folder if it is absent.

        Raises:
            StoreError: if the store is not on a local or mounted file system.
        """
        if self.local is None:
            raise StoreError(f"{self.uri}: {name} needs a local or shared folder, the store is an object store")
        path = Path(self.at(name))
        with _in_words(str(path)):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def exists(self, *names: str) -> bool:
        """Say whether a file or folder is in the store."""
        path = self.at(*names)
        with _in_words(path):
            return bool(self.fs.get_file_info(path).type != fs.FileType.NotFound)

    def write_bytes(self, data: bytes, *names: str) -> None:
        """Write a file completely or not at all: under a temporary name, flushed to disk, then renamed."""
        path, temporary = self.at(*names), self.at(*names[:-1], f".{names[-1]}.{os.getpid()}.tmp")
        with _in_words(path):
            self.fs.create_dir(path.rsplit("/", 1)[0], recursive=True)
            if self.local is None:
                with self.fs.open_output_stream(path) as out:  # an object appears whole when the stream closes
                    out.write(data)
                return
            with Path(temporary).open("wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            Path(temporary).replace(path)

    def write_json(self, value: object, *names: str) -> None:
        """Write a JSON file completely or not at all."""
        self.write_bytes((json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode(), *names)

    def read_bytes(self, *names: str) -> bytes:
        """Read a file.

        Raises:
            StoreError: if it is absent or cannot be read.
        """
        path = self.at(*names)
        with _in_words(path), self.fs.open_input_file(path) as source:
            return bytes(source.read())

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
        data = self.read_bytes(*names)
        asked: Any = kind
        try:
            found: T = _adapter(asked).validate_json(data, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            said = f"{place}: {first['msg']}" if place else first["msg"]
            where, advice = self.at(*names), "must be as it was written; move the folder away and run again"
            raise StoreError(f"{where}: was altered ({said[:SHOWN]}), {advice}") from error
        return found

    def names(self, *names: str) -> list[str]:
        """Return the sorted names of files and folders in a folder. Names that begin with a dot are left out."""
        path = self.at(*names)
        with _in_words(path):
            found = self.fs.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return sorted(info.base_name for info in found if not info.base_name.startswith("."))

    def delete(self, *names: str) -> None:
        """Delete a file if it exists."""
        if self.exists(*names):
            with _in_words(self.at(*names)):
                self.fs.delete_file(self.at(*names))

    # -- shards -------------------------------------------------------------------------------------------------

    def commit_shard(self, name: str, shard: str, table: pa.Table, *, compress: bool = True) -> Shard:
        """Write a table as one shard, and commit it. The same table always gives the same bytes.

        Args:
            name: the dataset's folder.
            shard: the shard's name without suffix, such as `shard-00003`.
            table: rows of one of the schemas in `contract.schema`. A row whose `dropped` is null is kept.
            compress: whether to compress with zstd. Vectors are not compressed, so that they can be memory-mapped.
        """
        check(table, _contract(table), f"{name}/{shard}")
        sink = pa.BufferOutputStream()
        options = ipc.IpcWriteOptions(compression="zstd" if compress else None)
        with ipc.new_file(sink, table.schema, options=options) as writer:
            writer.write_table(table.combine_chunks())
        data = sink.getvalue()
        kept = pc.sum(pc.is_null(table["dropped"])).as_py() or 0 if "dropped" in table.column_names else table.num_rows
        entry = Shard(f"{shard}.arrow", table.num_rows, int(kept), data.size, _digest(data))
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
        path = self.at(name, shard.name)
        if not self.exists(name, shard.name):
            raise StoreError(f"{where}: absent, the manifest lists it; {advice}")
        with _in_words(path):
            data = pa.memory_map(path).read_buffer() if self.local else pa.py_buffer(self.read_bytes(name, shard.name))
        if data.size != shard.bytes:
            raise StoreError(f"{where}: {data.size} bytes, the manifest says {shard.bytes}; {advice}")
        if _digest(data) != shard.digest:
            raise StoreError(f"{where}: content does not match its digest, it was altered; {advice}")
        try:
            table = ipc.open_file(data).read_all()
            table.validate(full=True)  # without this, damaged offsets would let Arrow read beyond its memory
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            said = str(error).splitlines()[0]
            raise StoreError(f"{where}: no table ({said}), although its digest is right; {advice}") from error
        check(table, (schema_of or _contract)(table), where)
        return table.select(list(columns)) if columns else table

    # -- whole folders ------------------------------------------------------------------------------------------

    def complete(self, name: str) -> bool:
        """Say whether a folder is complete, which means that it has its manifest."""
        return self.exists(name, MANIFEST)

    def commit(self, manifest: Manifest, figures: Mapping[str, Any] | None = None) -> None:
        """Complete a folder: write its figures, write its manifest, and then delete the commit files of its shards."""
        self.write_json(dict(figures or {}), manifest.name, FIGURES)
        self.write_json(asdict(manifest), manifest.name, MANIFEST)
        for shard in manifest.shards:
            if shard.name.endswith(".arrow"):  # a model's own config.json is no commit file
                self.delete(manifest.name, Path(shard.name).stem + ".json")

    def manifest(self, name: str) -> Manifest:
        """Return the manifest of a complete folder.

        Raises:
            StoreError: if the folder is absent, incomplete or of another schema version.
        """
        if not self.complete(name):
            state = "incomplete (it has no manifest)" if self.exists(name) else "absent"
            raise StoreError(f"{self.at(name)}: {state}, must be complete; run the job that makes it")
        version = self.read_as(_Versioned, name, MANIFEST).schema_version
        if version != SCHEMA_VERSION:
            raise StoreError(f"{name}: schema version {version}, must be {SCHEMA_VERSION}; make it again")
        manifest = self.read_as(Manifest, name, MANIFEST)
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
        tables = list(self.scan(name, columns))
        if not tables:
            raise StoreError(f"{self.at(name)}: has no shard, must have one; move the folder away and run again")
        return pa.concat_tables(tables)

    def entries(self) -> tuple[list[Manifest], list[str]]:
        """Return the manifests of all complete folders, sorted by name, and the problems of damaged manifests."""
        whole, damaged = [], []
        for name in filter(self.complete, self.names()):
            try:
                whole.append(self.manifest(name))
            except StoreError as error:
                damaged.append(str(error))
        return whole, damaged


@contextmanager
def _in_words(path: str) -> Iterator[None]:
    """Turn the errors of a file system into a `StoreError` of one line."""
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(f"{path[:SHOWN]}: absent, must exist; make it with the job that writes it") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise StoreError(
            f"{path[:SHOWN]}: cannot be used ({said[:SHOWN]}); check the store, its disk and its rights"
        ) from error


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - a type, which the cache takes for a value
    return TypeAdapter(kind)


def place(job: str, identity: Mapping[str, Any], inputs: Mapping[str, str]) -> tuple[str, str]:
    """Return (folder name, fingerprint) of the output that a job with this identity makes from these inputs.

    `inputs` has the name of each input folder by its role.
    """
    fingerprint = ids.digest(job, SCHEMA_VERSION, dict(identity), dict(inputs))
    return f"{job}-{fingerprint[: ids.SHORT_HEX]}", fingerprint


def _contract(table: pa.Table) -> pa.Schema:
    """Return the schema that a table must have.

    It is VECTORS for a table with the column `vector`, ITEMS for one with `prompt_digest`, and SAMPLES for any other.
    """
    if "vector" not in table.column_names:
        return ITEMS if "prompt_digest" in table.column_names else SAMPLES
    kind = table.schema.field("vector").type
    return vectors(kind.list_size, kind.value_type) if pa.types.is_fixed_size_list(kind) else SAMPLES


def _digest(data: pa.Buffer) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def file_shard(path: Path, root: Path) -> Shard:
    """Return the manifest's entry for a file of a model or an evaluation. Its name is relative to `root`."""
    with path.open("rb") as source:
        digest = hashlib.file_digest(source, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    return Shard(str(path.relative_to(root)), 0, 0, path.stat().st_size, digest)
