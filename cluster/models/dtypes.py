"""The floating-point type that a machine computes in: what `dtype = "auto"` and `precision = "auto"` become.

A CPU without AVX-512 or AMX has no instruction for bfloat16. There a product of two bfloat16 matrices is emulated: with
AVX2 the product of 48 x 576 x 49152 takes 287 ms, and 58 ms in float32. So a CPU is asked: by its flags, and by a short
timed product of the model's own shape. A GPU computes in what it has natively.

A dataset keeps the type that it began with, also when it is continued on another machine (`DTYPES` in its folder).
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from gristmill.cluster.contract import ids
from gristmill.cluster.models import names as models
from gristmill.cluster.store.store import Store

DType = Literal["bfloat16", "float16", "float32"]
DTYPES = "dtypes.json"
"""File of a dataset that is being made: the type of each model, by the name of the setting."""
CACHE = "dtypes"
"""Folder of the cache: what products took, a file for each kind of CPU, version of torch and shape."""
FLAGS = frozenset({"avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16", "sve", "asimd"})
"""Flags of a CPU that matter here, as Linux names them (`bf16`, `sve` and `asimd` are Arm's)."""
NATIVE = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Flags that mean instructions for bfloat16."""
LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
"""Variables that hide instructions from the libraries."""
GPU_FILES = (Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))
"""Without one of these files there is no GPU, and no need to load torch, which takes 2 s or more."""
ROWS = 64
"""Rows of the timed product: about a batch of requests that each wait for their next token."""
MOST_PRODUCTS = 1 << 26
"""Multiplications of the timed product at most: 3 ms in float32 on one core with AVX2."""
TIMES = 3
"""Products of each type, in turn, of which the fastest counts: other work on the machine slows single ones."""
TIE = 1.1
"""bfloat16 may take this many times as long and is still chosen, for it needs half of the memory."""


@dataclass(frozen=True, slots=True)
class DTypeChoice:
    """The type that a model computes in, and why."""

    dtype: DType
    reason: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Of the timed product, by type; empty where none was timed."""


def choose(model: str) -> DTypeChoice:
    """Return the type in which this process computes a model fastest: on the GPU that it sees, else on its CPU.

    The first time on a machine it takes some 3 s, of which the products take 50 ms; then the cache answers.
    """
    if any(path.exists() for path in GPU_FILES) and (native := _gpu()) is not None:
        return native
    shape = models.widest_layer(model)
    flags = cpu_flags()
    seconds = _cached(shape, flags)
    return choose_by_time(seconds, flags)


def choose_by_time(seconds: Mapping[str, float], flags: frozenset[str]) -> DTypeChoice:
    """Return the type for a CPU on which a product took so many seconds in `bfloat16` and in `float32`."""
    ratio = seconds["bfloat16"] / seconds["float32"]
    if ratio > TIE:
        has = "computes bfloat16 slower" if flags & NATIVE else "has no bfloat16"
        return DTypeChoice("float32", f"this CPU {has} (a product takes {ratio:.1f} times as long)", seconds)
    has = "has bfloat16" if flags & NATIVE else "emulates bfloat16 well"
    return DTypeChoice("bfloat16", f"this CPU {has} (a product takes {ratio:.2f} of the time in float32)", seconds)


def suit_slowest(choices: list[DTypeChoice]) -> DTypeChoice:
    """Return the type that suits the slowest of several machines which wait for each other at every step."""
    if all(choice.seconds for choice in choices):
        worst = {name: max(choice.seconds[name] for choice in choices) for name in ("bfloat16", "float32")}
        wanted: DType = "float32" if worst["bfloat16"] > TIE * worst["float32"] else "bfloat16"
    else:
        wanted = "bfloat16" if all(choice.dtype == "bfloat16" for choice in choices) else "float32"
    return next(
        (choice for choice in choices if choice.dtype == wanted), DTypeChoice(wanted, "it suits the slowest worker")
    )


def keep(
    store: Store, folder: str, settings: Mapping[str, DType | Literal["auto"]], choose_one: Callable[[str], DTypeChoice]
) -> dict[str, DTypeChoice]:
    """Return the type of each model of a dataset: as the recipe sets it, as the dataset began, or as the machine says.

    Args:
        store: of the dataset.
        folder: of the dataset; the types are written to it, before anything is computed.
        settings: the type, or `"auto"`, by the name of the setting.
        choose_one: says for the name of a setting what the machine that will run it takes.
    """
    before = read(store, folder)
    found: dict[str, DTypeChoice] = {}
    for name, dtype in settings.items():
        if dtype != "auto":
            found[name] = DTypeChoice(dtype, "as the recipe says")
            continue
        now = choose_one(name)
        began = before.get(name, now.dtype)
        why = now.reason if began == now.dtype else f"as the dataset began; here {now.dtype} is faster: {now.reason}"
        found[name] = DTypeChoice(began, why, now.seconds)
    write(store, folder, found)
    return found


def write(store: Store, folder: str, choices: Mapping[str, DTypeChoice]) -> None:
    """Write the types of a dataset that is being made."""
    if choices:
        store.write_json({name: asdict(choice) for name, choice in choices.items()}, folder, DTYPES)


def read(store: Store, folder: str) -> dict[str, DType]:
    """Return the types of a dataset that is being made, by the name of the setting."""
    if not store.exists(folder, DTYPES):
        return {}
    return {name: value["dtype"] for name, value in store.read_json(folder, DTYPES).items()}


def cpu_flags() -> frozenset[str]:
    """Return those `FLAGS` that this machine's CPU has; none where Linux does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    named = next((line.partition(":")[2] for line in lines if line.lower().startswith(("flags", "features"))), "")
    return FLAGS & frozenset(named.split())


def _gpu() -> DTypeChoice | None:
    """Return what the GPU that this process sees has natively, or None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    name, major = torch.cuda.get_device_name(), torch.cuda.get_device_capability()[0]
    if major >= 8:
        return DTypeChoice("bfloat16", f"{name} has it natively")
    return DTypeChoice("float16", f"{name} has no bfloat16")


def _cached(shape: tuple[int, int], flags: frozenset[str]) -> dict[str, float]:
    """Return the seconds of the timed product from the cache, or measure them and write them there."""
    limits = {name: os.environ.get(name, "") for name in LIMITS}
    path = (
        models.cache_folder()
        / CACHE
        / f"{ids.digest(_cpu_name(), sorted(flags), limits, version('torch'), shape)}.json"
    )
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return {name: float(found[name]) for name in ("bfloat16", "float32")}
        except (ValueError, KeyError, TypeError):
            path.unlink(missing_ok=True)  # ours, and damaged: it is measured again
    seconds = product_seconds(shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(seconds), encoding="utf-8")
    temporary.replace(path)
    return seconds


def product_seconds(shape: tuple[int, int]) -> dict[str, float]:
    """Return the least seconds of a layer of (inputs, outputs), on `ROWS` rows, in bfloat16 and in float32.

    One thread computes: on a busy machine two threads wait for each other, for longer than the product takes.
    """
    import torch

    inputs, outputs = shape
    outputs = max(1, min(outputs, MOST_PRODUCTS // (ROWS * inputs)))
    best: dict[str, float] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        pairs = {
            name: (torch.ones(ROWS, inputs, dtype=kind), torch.ones(outputs, inputs, dtype=kind))
            for name, kind in (("bfloat16", torch.bfloat16), ("float32", torch.float32))
        }
        for turn in range(TIMES + 1):
            for name, (rows, weights) in pairs.items():
                begin = time.perf_counter()
                torch.nn.functional.linear(rows, weights)
                spent = time.perf_counter() - begin
                if turn:  # the first one prepares the library
                    best[name] = min(spent, best.get(name, spent))
    torch.set_num_threads(threads)
    return best


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
