"""Targets of exports: a file or folder that is local, at a URI or on the hub.

The suffix decides the form and the compression.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
from pyarrow import fs

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.io.forms import ExportForm
from gristmill.cluster.io.hub import SCHEME, HubRepo, repo_of
from gristmill.cluster.store.uri import UriError, expanded, file_system

COMPRESSIONS: Mapping[str, str] = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class Target:
    """The place and the form of an export."""

    name: str
    """The path or URI as the user gave it."""
    form: ExportForm
    folder: bool
    """Whether it is a folder with a card. If not, it is a single file."""
    compression: str | None
    path: str
    """Path on the file system, or the id of the repository."""
    remote: fs.FileSystem | HubRepo | None
    """The file system of a URI, the repository, or None for a local path."""

    def upload(self, made: Path, source: str) -> None:
        """Copy a locally made file or folder to a remote target. The card of a folder is copied after its data.

        Args:
            made: the file or folder.
            source: name of the dataset.

        Raises:
            JobError: if the target cannot be written.
        """
        if isinstance(self.remote, HubRepo):
            self.remote.upload(made, f"Export {source}")
            return
        system = self.remote or fs.LocalFileSystem()
        pieces = sorted(p for p in made.rglob("*") if p.is_file()) if self.folder else [made]
        try:
            for piece in sorted(pieces, key=lambda p: p.parent == made):
                there = f"{self.path}/{piece.relative_to(made).as_posix()}" if self.folder else self.path
                system.create_dir(there.rpartition("/")[0])
                with piece.open("rb") as data, system.open_output_stream(there, compression=None) as out:
                    while block := data.read(1 << 20):
                        out.write(block)
        except (pa.ArrowException, OSError) as error:
            raise JobError(f"{self.name}: cannot be written ({error}); check the URI and the credentials") from error


def target_of(given: str | Path, form: ExportForm | None, *, public: bool = False) -> Target:
    """Return the target of an export.

    Without a form, a suffix decides between Parquet and JSON lines. A name without a suffix, or with a slash at its
    end, is a folder. A repository of the hub is a folder too. The default form of a folder is JSON lines.

    Raises:
        JobError: if the suffix is unknown or does not fit the form, if the URI cannot be reached, or if the folder is
            not empty.
    """
    name = str(given)
    if name.startswith(SCHEME):
        repo = repo_of(name, public=public)
        repo.require_free()
        return Target(name, form or "jsonl", folder=True, compression=None, path=repo.id, remote=repo)
    if public:
        raise JobError(f"{name}: is no repository of the hub, must be one to be public; leave --public out")
    folder, compression, form = _kind(name, form)
    path, remote = str(expanded(name)) if "://" not in name else name, None
    if "://" in name:
        try:
            remote, path = file_system(name.rstrip("/"))
        except UriError as error:
            raise JobError(f"{name}: {error}") from None
    target = Target(name, form, folder, compression, path, remote)
    _require_free(target, remote or fs.LocalFileSystem())
    return target


def _kind(name: str, form: ExportForm | None) -> tuple[bool, str | None, ExportForm]:
    """Return whether a target is a folder, how it is compressed, and its form."""
    name = name.partition("?")[0] if "://" in name else name  # what follows are settings of the file system
    base = PurePosixPath(name.rpartition("/")[2])
    compression = COMPRESSIONS.get(base.suffix.lower())
    suffix = base.with_suffix("").suffix.lower() if compression else base.suffix.lower()
    if not suffix and not compression:
        return True, None, form or "jsonl"
    if suffix not in (*LINES, ".parquet"):
        known = ", ".join((*LINES, ".parquet", *(f".jsonl{packed}" for packed in COMPRESSIONS)))
        raise JobError(f"{name}: the suffix {base.suffix!r} is no form, must be one of {known}; end a folder with /")
    if suffix == ".parquet" and compression:
        raise JobError(f"{name}: Parquet is compressed inside, must be without {base.suffix}")
    if form and (form == "parquet") != (suffix == ".parquet"):
        right = "the suffix .parquet" if form == "parquet" else f"one of the suffixes {', '.join(LINES)}"
        raise JobError(f"{name}: the suffix {suffix} is not of the form {form}, must have {right}")
    return False, compression, form or ("parquet" if suffix == ".parquet" else "jsonl")


def _require_free(target: Target, system: fs.FileSystem) -> None:
    try:
        kind = system.get_file_info(target.path).type
        is_folder = kind == fs.FileType.Directory
        holds = bool(system.get_file_info(fs.FileSelector(target.path))) if is_folder else kind == fs.FileType.File
    except (pa.ArrowException, OSError) as error:
        raise JobError(f"{target.name}: cannot be reached ({error}); check it and the credentials") from error
    if target.folder and holds:
        raise JobError(f"{target.name}: is not empty, must be absent or empty; name another")
    if is_folder and not target.folder:
        raise JobError(f"{target.name}: is a folder, must be a file because of its suffix; end it with /")
