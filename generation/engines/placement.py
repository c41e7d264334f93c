"""Resources of all engines, reserved together and returned at the end, and the environment of engine processes."""

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from gristmill.cluster.models.engine import Engine, engine_need
from gristmill.cluster.runtime.resources import Need, release, reserve, spawn
from gristmill.generation.contracts import MAIN
from gristmill.generation.engines.vllm_internals import bundled_libraries

LIBRARY_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")


class Placement:
    """Resources for each engine actor, reserved together before any of them starts."""

    def __init__(self, engines: Mapping[str, Engine], wait_s: float) -> None:
        """Take the engines by name, and the seconds to wait for resources that are in use.

        An engine at an endpoint needs resources only if it is the generating engine: its worker needs them.
        """
        self._wait_s = wait_s
        self._engines = {name: engine for name, engine in engines.items() if name == MAIN or not engine.endpoint}
        self._groups: dict[str, list[Any]] = {}
        self._each: dict[str, Need] = {}

    def reserve(self) -> None:
        """Reserve all resources.

        Raises:
            JobError: when the cluster has too few resources.
            BusyError: when they are still in use after the wait.
        """
        actors = sum(engine.actors for engine in self._engines.values())
        self._each = {name: engine_need(_section(name), engine, actors) for name, engine in self._engines.items()}
        needs = [self._each[name] for name, engine in self._engines.items() for _ in range(engine.actors)]
        groups = iter(reserve("generate.engine", needs, self._wait_s))
        self._groups = {name: list(islice(groups, engine.actors)) for name, engine in self._engines.items()}

    def need(self, name: str, place: int) -> Need:
        """Return the needs of one engine actor, with its reserved place."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        return replace(self._each[name], strategy=PlacementGroupSchedulingStrategy(self._groups[name][place]))

    def remove(self) -> None:
        """Return all resources to the cluster."""
        for groups in self._groups.values():
            release(groups)
        self._groups = {}


def _section(name: str) -> str:
    """Return the name of the recipe's section with the settings of an engine."""
    return "generate.engine" if name == MAIN else f"generate.engines.{name}"


def host(kind: type, engine: Engine, need: Need, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - a handle of Ray's
    """Start an actor of the class `kind` with `args` in the engine's environment, and return its handle at once."""
    env = {"env_vars": environment(engine, need.cpus, need.gpus)}
    return spawn(kind, need, *args, max_concurrency=1000, runtime_env=env, **options)


def environment(engine: Engine, cpus: float, gpus: float) -> dict[str, str]:
    """Return the variables that an engine process needs in its environment before it starts."""
    values = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if gpus:
        return values
    cores = max(1, int(cpus))
    values |= {"VLLM_CPU_KVCACHE_SPACE": str(engine.kv_cache_gib), "OMP_NUM_THREADS": str(cores)}
    values["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # which cores are free is unknown, and other work moves
    preload = [*_preloads(), *filter(None, [os.environ.get("LD_PRELOAD")])]
    if preload:
        values["LD_PRELOAD"] = ":".join(dict.fromkeys(preload))
    return values


def _preloads() -> list[str]:
    """Return the paths of an allocator and an OpenMP library, where installed.

    They make vLLM about 10 % faster on CPUs.
    """
    places = {
        "libtcmalloc_minimal.so*": [*bundled_libraries(), *LIBRARY_FOLDERS],
        "libiomp5.so": [f"{sys.prefix}/lib", *LIBRARY_FOLDERS],
    }
    found = (sorted(p for folder in folders for p in Path(folder).glob(name)) for name, folders in places.items())
    return [str(paths[0]) for paths in found if paths]
