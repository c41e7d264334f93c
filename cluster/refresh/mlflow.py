"""A copy of the registry of a line in MLflow: a version for each challenger, and the aliases of the line.

The records of the line stay what counts. The copy is brought up to date after each round and each rollback. If the
server does not answer, this is logged, and the next round tries again.
"""

import logging
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill.cluster.refresh.registry import Line, model_path

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)
ALIASES = ("champion", "previous", "challenger")
TRAINING = "gristmill.training"
"""Tag with the name of the training of a version."""


def missing(uri: str) -> str:
    """Return why no copy can be kept, or the empty string."""
    needs = ["mlflow", *(["sqlalchemy", "alembic"] if uri.startswith("sqlite:") else [])]
    lacking = [name for name in needs if not find_spec(name)]
    install = "mlflow-skinny" if "mlflow" in lacking else ""
    packages = " ".join(filter(None, [install, *(name for name in lacking if name != "mlflow")]))
    return f"needs {' and '.join(lacking)}, must be installed; pip install {packages}" if lacking else ""


def mirror(line: Line) -> bool:
    """Bring the copy up to date if the last round asks for one, and return whether this was possible.

    The model in MLflow has the name of the line.
    """
    rounds = line.rounds()
    uri = str(rounds[-1].settings.get("mlflow", "")) if rounds else ""
    if not uri:
        return True
    if problem := missing(uri):
        log.warning("refresh.mlflow: %s; the registry of MLflow is not up to date", problem)
        return False
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # MLflow's own 7 take minutes without a server
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        _mirror(line, MlflowClient(registry_uri=uri, tracking_uri=uri))
    except (MlflowException, OSError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        log.warning("refresh.mlflow: %s; the registry of MLflow is not up to date, the next round tries again", said[0])
        return False
    return True


def _mirror(line: Line, client: "MlflowClient") -> None:
    if not client.search_registered_models(f"name = '{line.name}'"):
        client.create_registered_model(line.name)
    known: dict[str, Any] = {
        one.tags[TRAINING]: one.version
        for one in client.search_model_versions(f"name = '{line.name}'")
        if TRAINING in one.tags
    }
    for one in line.rounds():
        if one.challenger and one.challenger not in known:
            tags = {TRAINING: one.challenger, "gristmill.round": str(one.number), "gristmill.state": one.state}
            path = Path(model_path(line.store, one.challenger)).as_uri()
            made = client.create_model_version(line.name, path, tags=tags)
            known[one.challenger] = made.version
    for model in known.keys() - {one.challenger for one in line.rounds()}:  # of rounds that were done again
        client.delete_model_version(line.name, str(known.pop(model)))
    now = line.aliases()
    for alias in ALIASES:
        model = getattr(now, alias)
        if model in known:
            client.set_registered_model_alias(line.name, alias, str(known[model]))
        else:
            client.delete_registered_model_alias(line.name, alias)
