"""The copy of a line's registry in MLflow: versions, aliases, and a server that does not answer."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from gristmill.cluster.cli.main import main
from gristmill.cluster.refresh import mlflow
from gristmill.cluster.refresh.registry import Line
from gristmill.cluster.store.store import Store
from tests.cluster.refresh import machine

installed = pytest.mark.skipif(
    not all(map(find_spec, ("mlflow", "sqlalchemy", "alembic"))), reason="MLflow or its database is not installed"
)


def asking(folder: Path, uri: str) -> Path:
    path = folder / f"{machine.LINE}.json"
    raw = json.loads(path.read_text())
    raw["jobs"]["refresh"]["mlflow"] = uri
    path.write_text(json.dumps(raw))
    return path


@installed
def test_mlflow_has_a_version_of_each_challenger_and_the_aliases(line: Path) -> None:
    from mlflow.tracking import MlflowClient

    machine.grade(line, 0.9, 0.9, 1.0, 0.2)
    uri = f"sqlite:///{line / 'mlflow.db'}"
    assert machine.tick(asking(line, uri), 4) == 0
    client = MlflowClient(registry_uri=uri, tracking_uri=uri)

    def named(alias: str) -> str:
        return str(client.get_model_version_by_alias(machine.LINE, alias).tags[mlflow.TRAINING])

    held = Line(Store(str(line / "store")), machine.LINE)
    now = held.aliases()
    assert (named("champion"), named("previous")) == (now.champion, now.previous)
    assert named("challenger") == held.rounds()[3].challenger
    assert len(client.search_model_versions(f"name = '{machine.LINE}'")) == 4
    assert main(["rollback", machine.LINE, "--store", str(line / "store")]) == 0
    assert named("champion") == held.rounds()[0].challenger == held.aliases().champion
    assert "previous" not in client.get_registered_model(machine.LINE).aliases
    assert mlflow.mirror(held) and len(client.search_model_versions(f"name = '{machine.LINE}'")) == 4


@installed
def test_a_registry_that_cannot_be_reached_stops_no_round(line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line / "file").touch()
    assert machine.tick(asking(line, f"sqlite:///{line / 'file' / 'mlflow.db'}"), 4) == 0
    assert Line(Store(str(line / "store")), machine.LINE).rounds()[3].state != "open"
    assert "the registry of MLflow is not up to date" in capsys.readouterr().err


def test_packages_that_are_not_there_are_named(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mlflow, "find_spec", lambda name: None)
    path = made / f"{machine.LINE}.json"
    before = path.read_text()
    try:
        assert main(["refresh", str(asking(made, "sqlite:///x.db"))]) == 2
    finally:
        path.write_text(before)
    said = capsys.readouterr().err
    assert "refresh.mlflow: needs mlflow and sqlalchemy and alembic, must be installed" in said
    assert "pip install mlflow-skinny sqlalchemy alembic" in said
