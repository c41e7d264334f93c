"""The floating-point type that a machine computes in if a recipe says `dtype = "auto"` or `precision = "auto"`.

A CPU without AVX-512 or AMX has no instruction for bfloat16 and emulates it: with AVX2 the product of 48 x 576 x 49152
takes 287 ms in bfloat16, and 58 ms in float32. So for a CPU, a short timed product of the model's own shape decides.
For a GPU, the types that it computes natively decide.

A dataset keeps the type that it began with, even if another machine continues it. The file `DTYPES` in its folder has
this type.
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
"""File in the folder of an unfinished dataset with the type of each model, by the name of the model's setting."""
CACHE = "dtypes"
"""Folder with the cache of timings. It has one file for each kind of CPU, version of torch and shape."""
FLAGS = frozenset({"avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16", "sve", "asimd"})
"""The CPU flags that matter, under Linux's names. `bf16`, `sve` and `asimd` are flags of Arm CPUs."""
NATIVE = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Flags of CPUs that have instructions for bfloat16."""
LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
"""Environment variables that keep the libraries from using some instructions."""
GPU_FILES = (Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))
"""If none of these files exists, there is no GPU. Then torch, which takes 2 s or more to import, is not needed."""
ROWS = 64
"""Rows of the timed product, about as many as a batch of requests has with one token each."""
MOST_PRODUCTS = 1 << 26
"""Most multiplications of the timed product. So many take 3 ms in float32 on one core with AVX2."""
TIMES = 3
"""Number of products that are timed for each type. The fastest counts, because other work on the machine may slow some
of them."""
TIE = 1.1
"""bfloat16 is chosen if it takes up to this many times as long as float32, because it needs half of the memory."""


@dataclass(frozen=True, slots=True)
class DTypeChoice:
    """The type that a model computes in, and the reason for it."""

    dtype: DType
    reason: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds of the timed product, by type. It is empty if nothing was timed."""


def choose(model: str) -> DTypeChoice:
    """Return the type in which this process computes a model fastest, on its GPU if it sees one, else on its CPU.

    Without a GPU the first call on a machine takes about 3 s, 50 ms of it for the products. Later calls read the cache.
    """
    if any(path.exists() for path in GPU_FILES) and (native := _gpu()) is not None:
        return native
    shape = models.widest_layer(model)
    flags = cpu_flags()
    seconds = _cached(shape, flags)
    return choose_by_time(seconds, flags)


def choose_by_time(seconds: Mapping[str, float], flags: frozenset[str]) -> DTypeChoice:
    """Return the type for a CPU from the seconds of the same product in `bfloat16` and in `float32`."""
    ratio = seconds["bfloat16"] / seconds["float32"]
    if ratio > TIE:
        has = "computes bfloat16 slower" if flags & NATIVE else "has no bfloat16"
        return DTypeChoice("float32", f"this CPU {has} (a product takes {ratio:.1f} times as long)", seconds)
    has = "has bfloat16" if flags & NATIVE else "emulates bfloat16 well"
    return DTypeChoice("bfloat16", f"this CPU {has} (a product takes {ratio:.2f} of the time in float32)", seconds)


def suit_slowest(choices: list[DTypeChoice]) -> DTypeChoice:
    """Return one type for several machines that wait for each other at every step: the best for the slowest machine."""
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
    """Return the type of each model of a dataset, by the name of its setting, and write the types to the dataset.

    The recipe decides the type, else the type that the dataset began with, else the machine.

    Args:
        store: the dataset's store.
        folder: the dataset's folder. The types are written there before anything is computed.
        settings: the type in the recipe, or `"auto"`, by the name of the setting.
        choose_one: returns the type for the name of a setting. It asks the machine that will run the setting's model.
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
    """Write the types of an unfinished dataset into its folder."""
    if choices:
        store.write_json({name: asdict(choice) for name, choice in choices.items()}, folder, DTYPES)


def read(store: Store, folder: str) -> dict[str, DType]:
    """Return the types of an unfinished dataset, by the name of the setting."""
    if not store.exists(folder, DTYPES):
        return {}
    return {name: value["dtype"] for name, value in store.read_json(folder, DTYPES).items()}


def cpu_flags() -> frozenset[str]:
    """Return the `FLAGS` that this machine's CPU has. The set is empty if the system has no `/proc/cpuinfo`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    named = next((line.partition(":")[2] for line in lines if line.lower().startswith(("flags", "features"))), "")
    return FLAGS & frozenset(named.split())


def _gpu() -> DTypeChoice | None:
    """Return the type that this process' GPU computes natively, or None without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    name, major = torch.cuda.get_device_name(), torch.cuda.get_device_capability()[0]
    if major >= 8:
        return DTypeChoice("bfloat16", f"{name} has it natively")
    return DTypeChoice("float16", f"{name} has no bfloat16")


def _cached(shape: tuple[int, int], flags: frozenset[str]) -> dict[str, float]:
    """Return the seconds of the timed product from the cache. If it has none, measure them and write them there."""
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
            path.unlink(missing_ok=True)  # the file is ours and damaged, so it is measured again
    seconds = product_seconds(shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(seconds), encoding="utf-8")
    temporary.replace(path)
    return seconds


def product_seconds(shape: tuple[int, int]) -> dict[str, float]:
    """Measure a layer of shape (inputs, outputs) on `ROWS` rows; return the least seconds in bfloat16 and in float32.

    One thread computes. On a busy machine, two threads would wait for each other longer than the product takes.
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
