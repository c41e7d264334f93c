"""Logs: which of them people see."""

import subprocess
import sys
from pathlib import Path


def test_our_warnings_and_errors_of_all_are_on_the_terminal_and_everything_is_in_the_file(tmp_path: Path) -> None:
    code = f"""
import logging, pathlib
from gristmill.cluster.runtime import log
log.driver(pathlib.Path({str(tmp_path)!r}))
for name in ("gristmill.cluster.io.ingest", "urllib3"):
    logging.getLogger(name).info("%s", "info of " + name)
    logging.getLogger(name).warning("%s", "warning of " + name)
    logging.getLogger(name).error("%s", "error of " + name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [
        "warning: warning of gristmill.cluster.io.ingest",
        "error: error of gristmill.cluster.io.ingest",
        "error: error of urllib3",
    ]
    assert (tmp_path / "driver.log").read_text().count("of ") == 6
