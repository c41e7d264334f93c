"""Only folders of our own whose process has provably ended are deleted."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.runtime.temporary import MARKER, delete_orphans, make_folder

MAKE = """
import sys, tempfile
from gristmill.cluster.runtime.temporary import make_folder
tempfile.tempdir = sys.argv[1]
print(make_folder("gristmill-"), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary directory of this process."""
    room = tmp_path / "tmp"
    room.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    return room


def start(room: Path) -> "tuple[subprocess.Popen[str], Path]":
    """Start a process that makes a folder and lives until its standard input closes."""
    pipe = subprocess.PIPE
    maker = subprocess.Popen([sys.executable, "-c", MAKE, str(room)], stdin=pipe, stdout=pipe, text=True)
    assert maker.stdout is not None
    return maker, Path(maker.stdout.readline().strip())


def orphan(room: Path) -> Path:
    """A folder with something in it, whose process has ended."""
    maker, folder = start(room)
    with maker:
        maker.communicate()
    (folder / "session").mkdir()
    (folder / "session" / "log").write_text("words")
    return folder


def edit(folder: Path, facts: dict[str, Any]) -> None:
    marker = json.loads((folder / MARKER).read_text())
    (folder / MARKER).write_text(json.dumps(marker | facts))


def test_folders_without_a_marker_stay_whatever_they_are_called(room: Path) -> None:
    names = {"gristmill-2024-datasets", "gristmill-99999-backup", "gristmill-4194304-", "gristmill-x"}
    for name in names:
        (room / name).mkdir()
        (room / name / "data.parquet").touch()
    (room / "gristmill-77777-file").touch()
    delete_orphans("gristmill-")
    assert {path.name for path in room.iterdir()} == {*names, "gristmill-77777-file"}
    assert all((room / name / "data.parquet").exists() for name in names)


def test_the_folder_of_a_process_that_ended_goes(room: Path) -> None:
    folder = orphan(room)
    other = make_folder("another-")
    delete_orphans("gristmill-")
    assert not folder.exists()
    assert other.exists()


def test_the_folders_of_processes_that_live_stay(room: Path) -> None:
    maker, folder = start(room)
    with maker:
        own = make_folder("gristmill-")
        delete_orphans("gristmill-")
        assert folder.exists()
        assert own.exists()
        maker.communicate()


def test_a_process_with_the_same_id_that_started_later_is_another(room: Path) -> None:
    folder = make_folder("gristmill-")
    marker = json.loads((folder / MARKER).read_text())
    edit(folder, {"started": marker["started"] - 1})
    delete_orphans("gristmill-")
    assert not folder.exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("host", "elsewhere"),
        ("boot", "9f6c8a0e-0000-4000-8000-000000000000"),
        ("pid_namespace", "pid:[1]"),
        ("folder", "gristmill-1-renamed"),
        ("pid", -1),
        ("pid", "1"),
        ("pid", 2**80),
        ("started", None),
        ("unknown", 1),
    ],
)
def test_a_folder_that_says_nothing_certain_of_this_host_stays(room: Path, field: str, value: Any) -> None:
    folder = orphan(room)
    edit(folder, {field: value})
    delete_orphans("gristmill-")
    assert (folder / "session" / "log").exists()


def absent(folder: Path) -> None:
    (folder / MARKER).unlink()


def torn(folder: Path) -> None:
    text = (folder / MARKER).read_text()
    (folder / MARKER).write_text(text[: len(text) // 2])


def empty(folder: Path) -> None:
    (folder / MARKER).write_text("")


def no_object(folder: Path) -> None:
    (folder / MARKER).write_text("[]")


def binary(folder: Path) -> None:
    (folder / MARKER).write_bytes(b"\xff\x00")


def lacking(folder: Path) -> None:
    marker = json.loads((folder / MARKER).read_text())
    del marker["pid_namespace"]
    (folder / MARKER).write_text(json.dumps(marker))


def linked(folder: Path) -> None:
    (folder / MARKER).rename(folder / "marker")
    (folder / MARKER).symlink_to(folder / "marker")


def a_folder(folder: Path) -> None:
    (folder / MARKER).unlink()
    (folder / MARKER).mkdir()


@pytest.mark.parametrize("spoil", [absent, torn, empty, no_object, binary, lacking, linked, a_folder])
def test_a_folder_whose_marker_is_not_whole_stays(room: Path, spoil: Callable[[Path], None]) -> None:
    folder = orphan(room)
    spoil(folder)
    delete_orphans("gristmill-")
    assert (folder / "session" / "log").exists()


def test_a_folder_that_was_renamed_stays(room: Path) -> None:
    folder = orphan(room)
    kept = folder.rename(room / "gristmill-2024-kept")
    delete_orphans("gristmill-")
    assert (kept / "session" / "log").exists()


def test_a_link_to_a_folder_stays_and_so_does_the_folder(room: Path, tmp_path: Path) -> None:
    folder = orphan(room)
    target = folder.rename(tmp_path / folder.name)
    folder.symlink_to(target)
    delete_orphans("gristmill-")
    assert folder.is_symlink()
    assert (target / "session" / "log").exists()
