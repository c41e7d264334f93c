"""Folders in the temporary directory. Each names the process that made it, so that only orphans are deleted."""

import os
import shutil
import socket
import stat
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MARKER = "gristmill-owner.json"
"""File in each folder that names the process that made the folder."""
LARGEST_MARKER = 4096
"""Most bytes of a marker that are read. A marker has about 250."""


class Owner(BaseModel):
    """The identity of a process among all processes that share a temporary directory.

    These may be in containers or on other hosts.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    folder: str
    """Name of the folder. It is here because a copied or renamed folder is no longer ours."""
    host: str
    boot: str
    """Id of the host's boot. It is here because process ids start again with each boot."""
    pid_namespace: str
    """Namespace of the process id. It is here because ids of other namespaces mean nothing in ours."""
    pid: int = Field(gt=0, lt=2**31)
    started: int
    """Clock ticks from boot to the start of the process. It is here because process ids are used again."""


def make_folder(prefix: str) -> Path:
    """Make an empty folder in the temporary directory, with a marker that names this process.

    If there is no `/proc`, the folder has no marker, and `delete_orphans` never deletes it.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    owner = this_process(folder.name)
    if owner:
        (folder / MARKER).write_text(owner.model_dump_json(), encoding="utf-8")
    return folder


def delete_orphans(prefix: str) -> None:
    """Delete each folder of `make_folder` whose process has certainly ended. Leave all other folders as they are."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        if _is_orphan(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_orphan(folder: Path) -> bool:
    owner = _owner(folder)
    return owner is not None and has_ended(owner, folder.name)


def has_ended(owner: Owner, folder: str) -> bool:
    """Say whether the process that marked a folder, or a lease, of this name has certainly ended."""
    here = this_process(folder)
    if here is None or owner.model_copy(update={"pid": here.pid, "started": here.started}) != here:
        return False  # of another host, boot or namespace, or under another name
    return not _lives(owner)


def _owner(folder: Path) -> Owner | None:
    """Return the process that made a folder, or None if it is not known.

    It is known only if folder and marker belong to this user, and the marker is complete.
    """
    try:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            return None
        with os.fdopen(os.open(folder / MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as marker:
            found = os.fstat(marker.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
                return None
            return Owner.model_validate_json(marker.read(LARGEST_MARKER))
    except (OSError, ValidationError):  # absent, unreadable, incomplete, or not ours: nothing is known
        return None


def this_process(folder: str) -> Owner | None:
    """Return the identity of this process for the marker of a folder or lease, or None if there is no `/proc`."""
    try:
        return Owner(
            folder=folder,
            host=socket.gethostname(),
            boot=Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
            pid_namespace=str(Path("/proc/self/ns/pid").readlink()),
            pid=os.getpid(),
            started=_start_time(os.getpid()),
        )
    except OSError:
        return None


def _start_time(pid: int) -> int:
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return int(text.rpartition(")")[2].split()[19])  # field 22; field 2, in brackets, may hold spaces and brackets


def _lives(owner: Owner) -> bool:
    """Say whether the process may still run. It is True if that is not certain."""
    try:
        return _start_time(owner.pid) == owner.started
    except OSError:
        pass  # ended, or hidden from us: ask the kernel
    try:
        os.kill(owner.pid, 0)  # signal 0 is never sent
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
