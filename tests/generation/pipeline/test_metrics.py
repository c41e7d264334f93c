"""Ray's metrics of a worker."""

import time
import urllib.request
from collections import defaultdict
from typing import Any

import pytest

from gristmill.generation.pipeline import metrics
from gristmill.generation.pipeline.metrics import (
    COUNTERS,
    DROPPED,
    GAUGES,
    MAX_REASONS,
    PREFIX,
    Metrics,
    reason_label,
)

EXPORTED = {f"ray_{PREFIX}{name}_total" for name in (*COUNTERS, DROPPED)} | {f"ray_{PREFIX}{name}" for name in GAUGES}


class Heard:
    """A metric that only remembers."""

    made: dict[str, "Heard"]

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        assert description.endswith(".")
        self.tag_keys = tag_keys
        self.default: dict[str, str] = {}
        self.value: float | None = None
        self.by_tags: defaultdict[tuple[tuple[str, str], ...], float] = defaultdict(float)
        Heard.made[name.removeprefix(PREFIX)] = self

    def set_default_tags(self, tags: dict[str, str]) -> None:
        self.default = tags

    def inc(self, value: float, tags: dict[str, str] | None = None) -> None:
        assert value > 0 and {*self.default, *(tags or {})} == set(self.tag_keys)
        self.by_tags[tuple(sorted((tags or {}).items()))] += value

    def set(self, value: float) -> None:
        self.value = value


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> dict[str, Heard]:
    import ray.util.metrics as of_ray

    Heard.made = {}
    monkeypatch.setattr(of_ray, "Counter", Heard)
    monkeypatch.setattr(of_ray, "Gauge", Heard)
    return Heard.made


def test_counts_grow_by_what_is_new_and_states_are_as_they_are(heard: dict[str, Heard]) -> None:
    worker = Metrics("generate-ab12", "generate-0")
    worker.update({"rows": 10, "kept": 4, "running": 7, "waiting": 2, "busy_s": 3.0})
    worker.update({"rows": 25, "kept": 4, "running": 1, "waiting": 0})
    assert heard["rows"].by_tags[()] == 25 and heard["kept"].by_tags[()] == 4
    assert (heard["running"].value, heard["waiting"].value, heard["window"].value) == (1, 0, None)
    assert heard["rows"].default == {"output": "generate-ab12", "actor": "generate-0"}
    worker.update({"rows": 5})
    assert heard["rows"].by_tags[()] == 30, "a count that fell began again"


def test_drops_are_counted_by_reason_and_their_number_is_bounded(heard: dict[str, Heard]) -> None:
    worker = Metrics("generate-ab12", "generate-0")
    worker.update({"dropped by length: answer too short": 3, "dropped by novelty: 0.81 near abc": 1})
    worker.update({"dropped by length: answer too short": 5, "dropped by novelty: 0.81 near xyz": 1})
    by = heard[DROPPED].by_tags
    assert by[(("reason", "length: answer too short"),)] == 5
    assert by[(("reason", "novelty: 0.81"),)] == 2
    worker.update({f"dropped by kind: reason {n}": 1 for n in range(2 * MAX_REASONS)})
    assert len(by) == MAX_REASONS + 1 and by[(("reason", "other"),)] == MAX_REASONS + 2
    assert sum(by.values()) == 7 + 2 * MAX_REASONS


@pytest.mark.parametrize(
    ("dropped", "label"),
    [
        ("length: answer too short", "length: answer too short"),
        ("self_instruct: error: prompt has 9000 tokens", "self_instruct: error"),
        ("judge: failed: KeyError: 'x'", "judge: failed"),
        ("novelty: instruction near 0a1b", "novelty: instruction"),
        ("language: is zh, not en", "language: is zh, not en"),
    ],
)
def test_a_label_names_no_row(dropped: str, label: str) -> None:
    assert reason_label(dropped) == label


class Reporter:
    """An actor that has metrics, as a worker does."""

    def __init__(self) -> None:
        self._metrics = Metrics("generate-ab12", "generate-0")

    def update(self, stats: dict[str, float]) -> None:
        self._metrics.update(stats)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_ray_exports_every_metric_under_the_names_of_the_dashboard() -> None:
    import ray

    actor: Any = ray.remote(Reporter).options(num_cpus=0.1).remote()
    stats = {**dict.fromkeys(COUNTERS, 2.0), **dict.fromkeys(GAUGES, 0.5), f"{metrics.DROPPED_BY}length: too long": 3.0}
    ray.get(actor.update.remote(stats))
    node = ray.nodes()[0]
    lines: dict[str, str] = {}
    for _ in range(60):
        with urllib.request.urlopen(
            f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        ) as reply:
            said = reply.read().decode()
        ours = [line for line in said.splitlines() if 'output="generate-ab12"' in line]  # not of jobs before this test
        lines = {line.partition("{")[0]: line for line in ours if line.startswith(f"ray_{PREFIX}")}
        if len(lines) >= len(EXPORTED):
            break
        time.sleep(0.5)
    assert set(lines) == EXPORTED
    dropped = lines[f"ray_{PREFIX}dropped_total"]
    assert 'reason="length: too long"' in dropped and dropped.endswith(" 3.0")
