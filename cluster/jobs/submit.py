"""`gristmill submit`: send a recipe and the files that it reads to a running cluster, and follow it there."""

import argparse
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gristmill.cluster.contract.errors import TRY_AGAIN, JobError, RunError
from gristmill.cluster.contract.own import Own
from gristmill.cluster.contract.secrets import public_text, public_uri
from gristmill.cluster.contract.settings import Settings
from gristmill.cluster.jobs.recipe import Recipe, load

LARGEST = 100 * 2**20
"""Largest number of bytes that are sent; Ray's dashboard takes no larger requests."""
AGENT_S = 60.0
"""Seconds in which the part of a cluster that starts jobs must answer. It starts some seconds after the dashboard."""
LOOK_S = 1.0
"""Seconds between two looks at a job that has no new output."""
TOKEN = "set RAY_AUTH_MODE to token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the token of the cluster"


def run(arguments: argparse.Namespace) -> int:
    """Submit a recipe: `gristmill submit`. Return 0, or with `--follow` the exit code of the run.

    A signal while it follows ends the following alone, with code 75: the run goes on.

    Raises:
        JobError: when the recipe, a file or an argument is wrong, or the cluster does not answer.
        RunError: when the cluster does not take the job.
    """
    recipe = load(arguments.recipe, arguments.set, look=False)
    problem = store_problem(recipe.store)
    if problem:
        raise JobError(f"{recipe.path}: {problem}")
    shown = next((line for line in arguments.set if public_text(line) != line), "")
    if shown:
        must = "must not: Ray shows the command to everyone; write them into the recipe, or send variables by --env"
        raise JobError(f"--set {shown.partition('=')[0]}: holds credentials, {must}")
    variables = {name: os.environ.get(name, "") for name in arguments.env}
    absent = [name for name, value in variables.items() if not value]
    if absent:
        raise JobError(f"--env {absent[0]}: the variable is not set, must hold what the cluster gets")
    client = connect(arguments.address)
    with tempfile.TemporaryDirectory(prefix="gristmill-submit-") as folder:
        sent = pack(recipe, Path(folder))
        words = ["gristmill", "run", recipe.path.name, *(w for line in arguments.set for w in ("--set", line))]
        job = _start(client, shlex.join(words), {"working_dir": folder, "env_vars": variables})
    try:
        _say(f"submit: {job} has {', '.join(map(str, sent))}, and writes to {public_uri(recipe.store)}")
        if arguments.follow:
            return follow(client, job)
    except KeyboardInterrupt:
        _say(f"submit: {job} goes on; `ray job logs {job} --follow` shows it, `ray job stop {job}` ends it")
        return TRY_AGAIN
    _say(f"submit: `ray job logs {job} --follow` shows what it does, `ray job stop {job}` ends it")
    return 0


def store_problem(store: str) -> str:
    """Return why a store cannot be that of a submitted recipe; empty if it can."""
    if "://" in store or Path(store).is_absolute():
        return ""
    return (
        f"store: {store} is relative, must be a URI or an absolute path that the machines of the cluster share; "
        "set it with --set store=/shared/runs"
    )


def files_of(recipe: Recipe) -> list[Path]:
    """Return the recipe's file and all files in its folder that its settings name, relative to that folder.

    Absolute paths outside the folder, and URIs, are those of the cluster.

    Raises:
        JobError: when a relative path leaves the folder of the recipe, or matches nothing.
    """
    base = recipe.path.resolve().parent
    found = {recipe.path.resolve()}
    for text in _strings(list(recipe.jobs.values())):
        if not text.startswith(f"{base}{os.sep}"):  # relative paths of a recipe are absolute once it is loaded
            continue
        given = text.removeprefix(f"{base}{os.sep}")
        matches = [Path(text)] if Path(text).exists() else sorted(base.glob(given))
        files = [f for match in matches for f in ([match] if match.is_file() else sorted(match.rglob("*")))]
        files = [file for file in files if file.is_file()]
        if not files:
            raise JobError(f"{recipe.path}: {given}: absent, must be a file in the folder of the recipe")
        outside = next((file for file in files if not Path(os.path.normpath(file)).is_relative_to(base)), None)
        if outside is not None:
            raise JobError(
                f"{recipe.path}: {given}: is outside the folder of the recipe, must be in it to be sent; move it, or "
                "name it by a URI or an absolute path that the machines of the cluster share"
            )
        found |= {Path(os.path.normpath(file)) for file in files}
    return sorted(file.relative_to(base) for file in found)


def _strings(value: object) -> Iterator[str]:
    """Yield every text in settings, and the files of the user's own steps."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Settings):
        if isinstance(value, Own):
            yield value.own_source.path
        yield from value.further_files()
        yield from _strings([getattr(value, name) for name in type(value).model_fields])
    elif isinstance(value, Mapping):
        yield from _strings(list(value.values()))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


def pack(recipe: Recipe, folder: Path) -> list[Path]:
    """Copy the files of a recipe into a folder, and return their relative paths.

    Raises:
        JobError: when they are too large to be sent.
    """
    base, files = recipe.path.resolve().parent, files_of(recipe)
    size = sum((base / file).stat().st_size for file in files)
    if size > LARGEST:
        raise JobError(
            f"{recipe.path}: its files have {size / 2**20:,.0f} MiB, must have at most {LARGEST >> 20}; put the large "
            "ones where the cluster reads them, and name them by a URI or an absolute path"
        )
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(base / file, folder / file)
    return files


def connect(address: str | None) -> Any:  # noqa: ANN401 - Ray's client has no type
    """Return a client of the cluster at an address.

    Raises:
        JobError: when no address is known, nothing answers there, or a token is asked for.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    at = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or ""
    if not at.startswith(("http://", "https://")):
        raise JobError(
            f"--address: {at or 'absent'}, must be that of the cluster's dashboard, such as http://HEAD:8265"
        )
    try:
        return JobSubmissionClient(at)
    except AuthenticationError as error:
        raise JobError(f"--address: {at} asks for a token; {TOKEN}") from error
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        said = (str(error).strip().splitlines() or ["it does not answer"])[0]
        raise JobError(f"--address: {at}: {said}") from error


def _start(client: Any, entrypoint: str, environment: dict[str, Any]) -> str:  # noqa: ANN401
    """Start a job and return its id."""
    deadline = time.monotonic() + AGENT_S
    while True:
        try:
            return str(client.submit_job(entrypoint=entrypoint, runtime_env=environment))
        except RuntimeError as error:
            if "agent" not in str(error) or time.monotonic() > deadline:
                said = (str(error).strip().splitlines() or [""])[0]
                raise RunError(f"submit: the cluster does not take the job: {said}") from error
            time.sleep(LOOK_S)


def follow(client: Any, job: str) -> int:  # noqa: ANN401
    """Print the output of a job until it ends, and return its exit code."""
    shown = 0
    while True:
        ended = client.get_job_status(job).is_terminal()  # before the output is read, so that none is missed
        said = client.get_job_logs(job)
        sys.stdout.write(said[shown:])
        sys.stdout.flush()
        shown = len(said)
        if ended:
            break
        time.sleep(LOOK_S)
    found = client.get_job_info(job)
    code = found.driver_exit_code
    if code is None:  # the job did not get as far as its command, or was stopped
        _say(f"submit: {job}: {(found.message or found.status).strip().splitlines()[0]}")
        return 1
    return int(code)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
