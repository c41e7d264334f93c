"""Resources of all engines, reserved together and returned at the end, and the environment of engine processes."""

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gristmill.cluster.contract.errors import BusyError
from gristmill.cluster.models.engine import Engine, engine_need
from gristmill.cluster.runtime.resources import Need, require, spawn
from gristmill.generation.contracts import MAIN
from gristmill.generation.engines.vllm_internals import bundled_libraries

log = logging.getLogger(__name__)
SAY_S = 5.0
"""Seconds after which the terminal says that resources are waited for."""
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
        import ray
        from ray.util import placement_group

        actors = sum(engine.actors for engine in self._engines.values())
        self._each = {name: engine_need(_section(name), engine, actors) for name, engine in self._engines.items()}
        needs = [self._each[name] for name, engine in self._engines.items() for _ in range(engine.actors)]
        require("generate.engine", needs)
        for name, engine in self._engines.items():
            bundles = [self._each[name].bundle()]
            self._groups[name] = [placement_group(bundles, strategy="STRICT_PACK") for _ in range(engine.actors)]
        waits = [group.ready() for groups in self._groups.values() for group in groups]
        what = f"{sum(each.cpus for each in needs):g} cores and {sum(each.gpus for each in needs):g} GPUs"
        _, missing = ray.wait(waits, num_returns=len(waits), timeout=min(SAY_S, self._wait_s))
        if missing and self._wait_s > SAY_S:
            log.warning("generate.engine: waiting for %s, which are in use, at most %.0f s", what, self._wait_s)
            _, missing = ray.wait(waits, num_returns=len(waits), timeout=self._wait_s - SAY_S)
        if missing:
            free = ray.available_resources()
            self.remove()
            raise BusyError(
                f"generate.engine: needs {len(waits)} places of {what} in all, of which the cluster gave "
                f"{len(waits) - len(missing)} within {self._wait_s:.0f} s (free now: {free.get('CPU', 0):g} cores, "
                f"{free.get('GPU', 0):g} GPUs); run again when others are done, set cluster.wait_s, or ask for fewer "
                "actors"
            )

    def need(self, name: str, place: int) -> Need:
        """Return the needs of one engine actor, with its reserved place."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        return replace(self._each[name], strategy=PlacementGroupSchedulingStrategy(self._groups[name][place]))

    def remove(self) -> None:
        """Return all resources to the cluster."""
        from ray.util import remove_placement_group

        for groups in self._groups.values():
            for group in groups:
                remove_placement_group(group)
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
