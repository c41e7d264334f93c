"""Threads spin on a quiet machine and sleep on a busy one: with the real OpenMP, and times as the kernel would tell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gristmill.cluster.models.engine import Engine
from gristmill.generation.engines.placement import environment

CODE = """
import ctypes, os, sys, time
from pathlib import Path
from gristmill.generation.engines import spinning
spinning.LOOK_S = 0.0
stat, library = Path(sys.argv[1]), ctypes.CDLL(None)
found = []
told = [0, 0, int(4e18)] if sys.argv[2] == "busy" else [0, 0, 0]
stat.write_text("1 0 1")
threads = spinning.Spinning(os.environ, stat)
for waited in (*told, told[-1]):
    stat.write_text(f"1 {waited} 1")
    time.sleep(0.01)
    threads.adapt()
    found.append(library.kmp_get_blocktime())
print(found)
"""


def blocktimes(folder: Path, load: str, **variables: str) -> str:
    env = {**os.environ, **environment(Engine(), 2, 0), **variables}
    command = [sys.executable, "-c", CODE, str(folder / "schedstat"), load]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


needs_openmp = pytest.mark.skipif(
    "libiomp5" not in environment(Engine(), 2, 0).get("LD_PRELOAD", ""),
    reason="Intel's OpenMP is not installed (pip install intel-openmp)",
)


@needs_openmp
def test_threads_sleep_at_once_while_the_engine_waits_for_a_core_and_spin_again_after(tmp_path: Path) -> None:
    assert blocktimes(tmp_path, "quiet") == "[200, 200, 200, 200]"
    assert blocktimes(tmp_path, "busy") == "[200, 200, 0, 200]"


@needs_openmp
def test_who_sets_the_blocktime_keeps_it(tmp_path: Path) -> None:
    assert blocktimes(tmp_path, "busy", KMP_BLOCKTIME="77us") == "[77, 77, 77, 77]"
