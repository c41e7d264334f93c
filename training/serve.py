"""`gristmill serve RUN`: the tuned model of a run answers requests in the form of OpenAI's API, until it is stopped.

`gristmill serve LINE` serves the champion of a line. When another model becomes champion, its server takes the place of
the one before. No request is answered while it starts.

vLLM's own server runs in a child process, which ends with this process, also after `kill -9`. With `--replicas`, Ray
Serve runs several such servers on the machines of a cluster, behind one address.
"""

import argparse
import json
import math
import os
import re
import socket
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gristmill.cluster.contract.errors import JobError, RunError, StoreError
from gristmill.cluster.jobs.run import find
from gristmill.cluster.jobs.state import RUNS, recipe_of
from gristmill.cluster.models.dtypes import GPU_FILES
from gristmill.cluster.models.engine import Engine, Served, engine_need, server
from gristmill.cluster.refresh.registry import Line
from gristmill.cluster.runtime import child
from gristmill.cluster.runtime.interrupt import signal_name
from gristmill.cluster.runtime.replicas import replicated
from gristmill.cluster.runtime.resources import Need, require
from gristmill.cluster.runtime.session import session
from gristmill.cluster.store.store import Store
from gristmill.training.data import facts
from gristmill.training.tuning.model import ADAPTER, MERGED

KEY = "VLLM_API_KEY"
"""The variable in which vLLM's server looks for the key that clients must send."""
LOOK_S = 1.0
"""Seconds between two looks at the servers, and at the alias of a line."""
LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")
OTHER_TASKS = re.compile(r"For\w*(Classification|QuestionAnswering|MaskedLM|Pretraining)$")
"""Matches the class names of models that write no text."""
TAKEN = ("model", "adapter", "endpoint", "actors", "api_key_env", "max_in_flight", "hang_s", "abilities", "price")
"""Settings of the engine that mean nothing here, or are set here."""


@dataclass(frozen=True, slots=True)
class Model:
    """A trained model in the store."""

    name: str
    run: str
    """The run that was asked for; empty if the model itself was."""
    base: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Offer:
    """What a server needs to serve a model."""

    engine: Engine
    served: Served
    key: str
    """Key that clients must send; empty for none."""

    def command(self, need: Need, address: tuple[str, int]) -> tuple[list[str], dict[str, str]]:
        """Return the command line and the whole environment of a server on the machine of the caller."""
        words, variables = server(self.engine, self.served, address, need)
        environment = {**os.environ, **variables}
        environment.pop(KEY, None)
        return words, {**environment, **({KEY: self.key} if self.key else {})}

    def ready(self, host: str, port: int) -> str:
        """Return the sentence that says where which models answer."""
        names = f"{self.served.name} and {self.served.base}" if self.served.base else self.served.name
        secret = ", with the key of the environment" if self.key else ""
        return f"serve: {names} at {_url(host, port)}/v1{secret}; Ctrl-C ends it"


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal arrives: `gristmill serve`.

    Raises:
        JobError: when an argument is wrong, or the run has no model.
        RunError: when the server does not start, or ends by itself.
    """
    if arguments.replicas < 0:
        raise JobError(f"--replicas {arguments.replicas}: must be 1 or more")
    store = Store(arguments.store)
    if not store.exists():
        raise JobError(f"{arguments.store}: absent, must be a store; name it with --store, or run a recipe first")
    line = Line(store, arguments.name)
    model, offer = _offer(store, line, arguments)
    address = arguments.host, free_port(arguments.host, arguments.port)
    if not offer.key and not LOOPBACK.fullmatch(arguments.host):
        where = f"serve: {arguments.host}: every machine that reaches it can use the model"
        _say(f"{where}; set {KEY} to a key that clients send")
    try:
        while True:
            moved = partial(_moved, line, model.name)
            if arguments.replicas:
                _on_cluster(offer, model, arguments, address, moved)
            else:
                _on_this_machine(offer, _log(store, model, address[1]), address, moved)
            model, offer = _offer(store, line, arguments)
            _say(f"serve: {line.name}: {model.name} is the champion now, its server starts")
    except KeyboardInterrupt as error:
        _say(f"serve: {offer.served.name} has ended, by {signal_name(error)}")
    return 0


def _offer(store: Store, line: Line, arguments: argparse.Namespace) -> tuple[Model, Offer]:
    """Return the model that is asked for, or the champion of a line under the line's name, and how it is served."""
    model = trained(store, champion(line) if line.exists() else arguments.name)
    engine, served = settings(model, arguments.engine, adapter=arguments.adapter)
    if line.exists():
        served = replace(served, name=line.name)
    return model, Offer(engine, served, api_key(arguments.api_key_env))


def champion(line: Line) -> str:
    """Return the trained model that is the champion of a line.

    Raises:
        JobError: if the base model is the champion.
    """
    found = line.aliases().champion
    if not found:
        raise JobError(f"{line.name}: its champion is the base model, must be a model of a round; serve that by vLLM")
    return found


def _moved(line: Line, served: str) -> bool:
    """Say whether a line has another champion than the model that is served."""
    return line.exists() and line.aliases().champion != served


def _on_this_machine(offer: Offer, log: Path, address: tuple[str, int], moved: Callable[[], bool]) -> None:
    """Run one server, without Ray, until another model must be served.

    Raises:
        RunError: if the server ends by itself.
    """
    host, port = address
    engine = offer.engine
    if engine.gpus is None and any(path.exists() for path in GPU_FILES):  # no session of Ray says so
        engine = engine.model_copy(update={"gpus": _parallel(engine)})
    _say(f"serve: {offer.served.name} starts; log: {log}")
    with child.serving(*offer.command(engine_need("--engine gpus", engine, 1), (host, port)), log) as process:
        child.await_health(process, f"{_url(host, port)}/health", log)
        _say(offer.ready(host, port))
        while (code := process.poll()) is None:
            if moved():
                return
            time.sleep(LOOK_S)
        raise RunError(f"serve: the server ended by itself (exit code {code}); see {log}\n{child.last_lines(log)}")


def _on_cluster(
    offer: Offer, model: Model, arguments: argparse.Namespace, address: tuple[str, int], moved: Callable[[], bool]
) -> None:
    """Run replicas of a server on a cluster until another model must be served, and say when they are not well."""
    (host, port), count, name = address, arguments.replicas, f"gristmill-{model.name}"
    with session(arguments.address, None, None, dashboard=True):
        need = engine_need("--engine gpus", offer.engine, count)
        require("--replicas", [need] * count)
        _say(f"serve: {count} replicas of {offer.served.name} start, each with {need.cpus:g} CPU and {need.gpus:g} GPU")
        command = partial(offer.command, need)
        with replicated(command, name, str(model.folder), need, count, (host, port)) as trouble:
            _say(offer.ready(host, port))
            said = ""
            while not moved():
                found = trouble()
                if found != said:
                    _say(f"serve: {found}" if found else f"serve: all {count} replicas answer again")
                said = found
                time.sleep(LOOK_S)


def trained(store: Store, name: str) -> Model:
    """Return the model that a run has trained, or the trained model of this name.

    Raises:
        JobError: when there is no such run or model, or the run trains none.
        StoreError: when the model is not complete, or a file of it is absent or has another size.
    """
    kind, full = find(store, name)
    output = full
    if kind == "run":
        outputs = recipe_of(store, full).outputs
        if "train" not in outputs:
            raise JobError(f"{full}: trains no model, must have a section [train]; `gristmill show` lists the runs")
        output = str(outputs["train"])
        if not store.complete(output):
            raise JobError(f"{full}: its train job has not ended, must have; run its recipe again")
    manifest = store.manifest(output)
    if manifest.kind != "model":
        raise JobError(f"{output}: holds {manifest.kind}, must be a trained model or a run with one")
    folder = store.folder(output)
    for shard in manifest.shards:
        path = folder / shard.name
        if not path.is_file() or path.stat().st_size != shard.bytes:
            what = "has another size than" if path.is_file() else "is absent, but in"
            raise StoreError(f"{path}: {what} the manifest; move the folder {folder} away and run again")
    return Model(output, full if kind == "run" else "", str(manifest.settings["model"]), folder)


def settings(model: Model, given: Sequence[str], *, adapter: bool) -> tuple[Engine, Served]:
    """Return the engine's settings and the names of a trained model.

    Args:
        model: the trained model.
        given: settings of the engine, as `key=value`.
        adapter: whether to serve the base model and the adapter, not the merged model.

    Raises:
        JobError: when a setting is wrong, the model writes no text, or there is no adapter that the server can load.
    """
    merged, own = model.folder / MERGED, model.folder / ADAPTER
    config = _json(merged / "config.json")
    kinds = config.get("architectures") or []
    if any(OTHER_TASKS.search(kind) for kind in kinds):
        raise JobError(f"{model.name}: {kinds[0]} writes no text, must be a causal language model to be served so")
    fields = _fields(given)
    positions = facts.num_positions(config)
    if positions:
        fields.setdefault("max_model_len", min(positions, Engine().max_model_len))
    template = _template(merged)
    if adapter:
        said = _json(own / "adapter_config.json")
        if not said:
            raise JobError(f"{model.name}: has no adapter, its tuning makes none; leave --adapter out")
        if said.get("use_dora"):
            raise JobError(f"{model.name}: a DoRA adapter, which vLLM cannot load beside a model; leave --adapter out")
        fields |= {"model": model.base, "adapter": str(own)}
        served = Served(model.name, model.base.removeprefix("builtin:"), str(merged), template)
    else:
        fields["model"] = str(merged)
        served = Served(model.name, template=template)
    try:
        return Engine.model_validate(fields), served
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise JobError(f"--engine {where}: {first['input']!r}, {first['msg'].lower()}") from error


def _fields(given: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in given:
        name, equals, text = line.partition("=")
        first, *inner = name.strip().split(".")
        if not equals or first not in Engine.model_fields or first in TAKEN:
            known = ", ".join(field for field in Engine.model_fields if field not in TAKEN)
            raise JobError(f"--engine {line}: must read KEY=VALUE with a key of {known}")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        place = found
        *tables, last = [first, *inner]
        for part in tables:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise JobError(f"--engine {line}: {part} is a value, must be a table")
        place[last] = value
    return found


def free_port(host: str, port: int) -> int:
    """Return the port to listen on, which is a free one if it is 0.

    Raises:
        JobError: when the address is not of this machine, or the port is in use.
    """
    if not 0 <= port <= 65535:
        raise JobError(f"--port {port}: must be between 0 and 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise JobError(
            f"--host {host} --port {port}: {error.strerror or error}, must be an address of this machine and a free "
            "port; --port 0 takes a free one"
        ) from error


def api_key(name: str) -> str:
    """Return the key that clients must send, from the environment variable `name`; empty for no key.

    Raises:
        JobError: when the variable is named but not set.
    """
    key = os.environ.get(name or KEY, "")
    if name and not key:
        raise JobError(f"--api-key-env {name}: the variable is not set, must hold the key")
    return key


def _url(host: str, port: int) -> str:
    """Return the address for a client on this machine."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{reached}:{port}"


def _parallel(engine: Engine) -> float:
    """Return the number of GPUs that the parallel sizes of an engine need."""
    sizes = (int(engine.args.get(f"{name}_parallel_size", 1)) for name in ("tensor", "pipeline", "data"))
    return float(math.prod(sizes))


def _log(store: Store, model: Model, port: int) -> Path:
    """Return the path of the server's log: in the logs of the run, or in the temporary folder for a model by name."""
    folder = store.folder(f"{RUNS}/{model.run}/logs") if model.run else Path(tempfile.gettempdir())
    return folder / (f"serve-{port}.log" if model.run else f"{model.name}-serve-{port}.log")


def _template(folder: Path) -> str:
    """Return the chat template of a model that transformers has saved; empty if it has none."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = _json(folder / "tokenizer_config.json").get("chat_template")
    return found if isinstance(found, str) else ""


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
