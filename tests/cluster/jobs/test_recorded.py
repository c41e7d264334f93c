"""The end of a run that failed: what the ledger and the user are told."""

import json
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from gristmill.cluster.cli.main import main
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.jobs import heartbeat
from gristmill.cluster.jobs.heartbeat import Beat
from gristmill.cluster.jobs.run import _recorded
from gristmill.cluster.runtime.activity import Activity
from gristmill.cluster.store.store import Store
from tests.generation.ground import a_run


def test_an_error_of_a_process_is_told_without_its_traceback(store: Store) -> None:
    error = RayTaskError("open", "Traceback: many lines", JobError("lift.seeds: 1 label, must be two or more"))
    run = a_run(store)
    with pytest.raises(JobError) as caught, _recorded(run, ["lift"]):
        raise error.as_instanceof_cause()
    assert str(caught.value) == "lift.seeds: 1 label, must be two or more"
    assert not isinstance(caught.value, RayTaskError)
    assert json.loads(run.ledger.lines[-1])["error"] == str(caught.value)


def test_a_recipe_whose_jobs_use_no_ray_starts_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"review {number}", "label": str(number % 3)} for number in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    balance = '{kind = "balance", by = "label", budget = 9}'
    recipe = f'store = "runs"\n[select]\ninput = "rows.jsonl"\nsteps = [{{kind = "exact"}}, {balance}]\n'
    (tmp_path / "mill.toml").write_text(recipe, encoding="utf-8")
    beats: list[Beat] = []
    jobs: set[str] = set()
    left: list[float] = []
    advance = Activity.advance

    def noted(activity: Activity, *state: Any, **more: Any) -> None:
        left.extend(more.get("figures", {}).values())
        advance(activity, *state, **more)
        jobs.add(activity.step.job)

    monkeypatch.setattr(Activity, "advance", noted)
    monkeypatch.setattr(heartbeat._Heart, "_write", lambda heart, beat: beats.append(beat))
    assert main(["run", str(tmp_path / "mill.toml")]) == 0
    assert beats and "select" in jobs, "the run has a heartbeat, which reads what the job does"
    assert left == [30, 9], "samples after each step, the figure samples_left"
    said = capsys.readouterr()
    assert "balance: 9 left" in said.out + said.err and "starting Ray" not in said.out + said.err
