"""The dashboard and the alerts: they use the metrics that are exported, and the alerts fire when they should."""

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from gristmill.cluster.jobs import heartbeat
from gristmill.cluster.runtime.progress import Screen
from gristmill.generation.pipeline.metrics import COUNTERS, DROPPED, GAUGES, PREFIX, TAGS
from gristmill.training.supervision.supervisor import _show
from tests.paths import ROOT

DASHBOARD = json.loads((ROOT / "deploy/grafana.json").read_text(encoding="utf-8"))
RULES_FILE = ROOT / "deploy/prometheus-rules.yml"
RULES: list[dict[str, Any]] = yaml.safe_load(RULES_FILE.read_text(encoding="utf-8"))["groups"][0]["rules"]
EXPORTED = {f"ray_{PREFIX}{name}_total" for name in (*COUNTERS, DROPPED)} | {f"ray_{PREFIX}{name}" for name in GAUGES}
OF_RUN = {f"ray_{heartbeat.PREFIX}{name}" for name in (*heartbeat.OF_RUN, *heartbeat.OF_STAGE, *heartbeat.OF_REASON)}
LABELS = {*TAGS, "reason", "run", "stage"}


def of_training() -> set[str]:
    """The metrics of a training, from a line of its journal."""
    screen = Screen(quiet=True)
    with screen.bar("train: steps", 9) as bar:
        _show(bar, [{"step": 1, "loss": 2.0, "grad_norm": 1.0, "tokens": 900, "seconds": 3.0}])
    assert screen.activity.step.figures["tokens_per_s"] == 300
    return {f"ray_gristmill_train_{name}" for name in screen.activity.step.figures}


def metrics_in(text: str) -> set[str]:
    return set(re.findall(r"ray_gristmill_\w+", text))


def expressions() -> list[str]:
    targets = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return targets + [v["definition"] for v in DASHBOARD["templating"]["list"] if v["type"] == "query"]


def test_the_dashboard_draws_every_metric_and_no_other() -> None:
    of_selection = {"ray_gristmill_select_samples_left"}
    assert metrics_in(" ".join(expressions())) == EXPORTED | OF_RUN | of_training() | of_selection


def test_the_dashboard_asks_for_labels_and_variables_that_exist() -> None:
    variables = {v["name"] for v in DASHBOARD["templating"]["list"]}
    for text in expressions():
        assert set(re.findall(r"\$(\w+)", text)) - {"__rate_interval"} <= variables, text
        by = [name for group in re.findall(r"by \(([^)]*)\)", text) for name in group.split(", ")]
        assert set(by) | set(re.findall(r"(\w+)=~", text)) <= LABELS, text
        assert text.count("(") == text.count(")") and text.count("{") == text.count("}")
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= LABELS
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"


def test_the_panels_lie_beside_each_other() -> None:
    taken: Counter[tuple[int, int]] = Counter()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        taken.update((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"]))
    assert max(taken.values()) == 1
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids) and DASHBOARD["id"] is None


def test_the_alerts_use_metrics_and_labels_that_exist() -> None:
    for rule in RULES:
        assert metrics_in(rule["expr"]) and metrics_in(rule["expr"]) <= EXPORTED | OF_RUN, rule["alert"]
        by = [name for group in re.findall(r"(?:by|on) \(([^)]*)\)", rule["expr"]) for name in group.split(", ")]
        assert set(by) <= LABELS
        said = " ".join(rule["annotations"].values())
        named = set(re.findall(r"\$labels\.(\w+)", said))
        assert named <= LABELS and (named <= set(by) or not by)
        assert rule["labels"]["severity"] in ("warning", "critical") and rule["for"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool of Prometheus is not installed")
def test_the_alerts_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    checked = subprocess.run(["promtool", "check", "rules", RULES_FILE], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    tests = ROOT / "tests/deploy/rules.test.yml"
    for path in (RULES_FILE, tests):
        shutil.copy(path, tmp_path)
    made = subprocess.run(
        ["promtool", "test", "rules", tests.name], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr
    tried = re.findall(r"alertname: (\w+)", tests.read_text(encoding="utf-8"))
    assert set(tried) == {rule["alert"] for rule in RULES}
