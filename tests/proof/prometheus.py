"""A real Prometheus scrapes a run: every expression of the dashboard has an answer, and the alerts fire.

    python -m tests.proof.prometheus

starts Ray, a worker with metrics, the heartbeat of a run, and the program `prometheus` (of the Debian package of that
name). The times of the alerts are cut from minutes to seconds. Where the program is not on the path, the reason is
printed and nothing is tried.
"""

import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from gristmill.cluster.jobs.heartbeat import beating
from gristmill.cluster.runtime.activity import waiting
from gristmill.cluster.runtime.session import session
from gristmill.cluster.store.store import Store
from gristmill.generation.pipeline.metrics import COUNTERS, DROPPED_BY, GAUGES, Metrics
from tests.generation.ground import a_run
from tests.paths import ROOT

DISCOVERY = "prom_metrics_service_discovery.json"
SHORT = {r"> 1800\b": "> 12", r"> 3600\b": "> 20", r"> 120\b": "> 12", r"for: \d+m": "for: 1s"}
"""Times of the alerts in seconds, in place of those of the file. Ray exports gauges every few seconds."""


class Reporter:
    """An actor with the metrics of a worker, whose counts grow with each call."""

    def __init__(self) -> None:
        self._metrics, self._calls = Metrics("generate-ab12", "generate-0"), 0

    def update(self) -> None:
        self._calls += 1
        counts = {**dict.fromkeys(COUNTERS, 2.0 * self._calls), f"{DROPPED_BY}length: too long": 1.0 * self._calls}
        self._metrics.update({**counts, **dict.fromkeys(GAUGES, 0.5)})


@contextmanager
def scraping(targets: Path, folder: Path) -> Iterator[str]:
    """Run Prometheus on a list of nodes, and yield its address."""
    rules = (ROOT / "deploy/prometheus-rules.yml").read_text(encoding="utf-8")
    for long, short in SHORT.items():
        rules = re.sub(long, short, rules)
    (folder / "rules.yml").write_text(rules, encoding="utf-8")
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules.yml")],
        "scrape_configs": [{"job_name": "ray", "file_sd_configs": [{"files": [str(targets)]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{probe.getsockname()[1]}"
    words = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("w") as log:
        program = subprocess.Popen(["prometheus", *words, f"--web.listen-address={at}"], stdout=log, stderr=log)
        try:
            yield f"http://{at}"
        finally:
            program.terminate()
            program.wait(30)


def asked(address: str, path: str, **query: str) -> Any:
    """The data of an answer; None while the server starts."""
    try:
        with urllib.request.urlopen(f"{address}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=10) as reply:
            return json.load(reply)["data"]
    except (ConnectionError, urllib.error.URLError) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == 400:  # an expression that is wrong
            raise
        return None


def until(found: Callable[[], Any], what: str, seconds: float = 180) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, what
        time.sleep(0.5)
    return value


def expressions() -> list[str]:
    """The expressions of the dashboard with its variables filled in."""
    dashboard = json.loads((ROOT / "deploy/grafana.json").read_text(encoding="utf-8"))
    texts = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [re.sub(r"\$(output|actor|run)", ".+", text.replace("$__rate_interval", "30s")) for text in texts]


def main() -> None:
    import ray

    folder = Path(tempfile.mkdtemp(prefix="prometheus-"))
    store = Store(str(folder / "store"))
    run = a_run(store)
    with session(None, 1, 0, dashboard=True):
        node = ray._private.worker._global_node
        assert node is not None
        targets = Path(node.get_temp_dir_path()) / DISCOVERY
        until(targets.exists, "Ray writes its list of nodes")
        reporter: Any = ray.remote(Reporter).options(num_cpus=0.1).remote()
        with scraping(targets, folder) as address:

            def firing() -> set[str]:
                ray.get(reporter.update.remote())
                alerts = (asked(address, "alerts") or {"alerts": []})["alerts"]
                return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

            def has_answer(text: str) -> bool:
                return bool((asked(address, "query", query=text) or {}).get("result"))

            with beating(run, "runs/mill-1"):
                run.screen.activity.begin("train")
                left, count = set(expressions()), 0

                def answered() -> bool:
                    nonlocal count
                    count += 1
                    figures = {"loss": 2.0, "grad_norm": 1.0, "tokens_per_s": 300.0}
                    run.screen.activity.advance("train: steps", count, 900, "", figures=figures)
                    ray.get(reporter.update.remote())
                    left.difference_update([text for text in left if has_answer(text)])
                    return all("select_samples_left" in text or "waiting_seconds" in text for text in left)

                until(answered, f"every expression of the dashboard has an answer, not {left}")
                sys.stdout.write(f"{len(expressions()) - len(left)} expressions of the dashboard have an answer" + "\n")
                run.screen.activity.begin("select")
                run.screen.activity.advance("select", 1, 2, "", figures={"samples_left": 9.0})
                until(lambda: "GristmillNoProgress" in firing(), "a run without progress is an alert")
                sys.stdout.write("GristmillNoProgress fires for a run that stands still" + "\n")
                with waiting("room", "8 GPUs of train.workers"):
                    until(lambda: "GristmillWaiting" in firing(), "a run that waits for long is an alert")
                    assert "GristmillNoProgress" not in firing(), "a run that waits need not get further"
                    until(lambda: all(map(has_answer, left)), f"{left} have answers too")
                sys.stdout.write("GristmillWaiting fires in its place while the run waits" + "\n")
            until(lambda: "GristmillDriverHangs" in firing(), "a driver without heartbeats is an alert")
            sys.stdout.write("GristmillDriverHangs fires for a driver without heartbeats" + "\n")
    shutil.rmtree(folder)


if __name__ == "__main__":
    if shutil.which("prometheus") is None:
        sys.stdout.write("Prometheus is left out: `prometheus` is not on the path" + "\n")
    else:
        main()
