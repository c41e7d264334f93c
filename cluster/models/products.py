"""Products of float32 matrices on AMD's CPUs with AVX-512, which PyTorch leaves to a library that does not use it.

PyTorch's builds for x86 compute these products with Intel's MKL, which uses AVX2 on AMD's CPUs. On one core of an EPYC
with AVX-512, a product of 512 x 576 x 1536 ran at 107 GFLOP/s with MKL, and at 240 GFLOP/s with oneDNN, which PyTorch
has too. With the precision "bf16" for products in float32, PyTorch asks oneDNN and lets it round to bfloat16. oneDNN
rounds only where this is faster, on CPUs with AMX. Elsewhere it computes in float32; this is tried before it is used.
"""

import logging
from pathlib import Path
from typing import Any

from gristmill.cluster.models.dtypes import cpu_flags

log = logging.getLogger(__name__)
EXACT = 1e-4
"""Largest error of a product in float32, as a share of the root mean square of its numbers. The errors here are up to
5e-6; those of bfloat16 are 1e-2."""
SHAPES = ((512, 576, 1536), (33, 1536, 64), (280, 64, 4096))
"""Rows, inner size and columns of the products that are tried."""


def use_avx512() -> bool:
    """Let oneDNN compute the float32 products of this process, if this CPU is faster with it; return whether it does.

    The results stay those of float32, but for the order of sums. On the same machine, the answer is always the same.
    """
    if not _faster(_vendor(), cpu_flags()):
        return False
    import torch

    library: Any = torch.backends.mkldnn  # without a type for its settings
    before = library.matmul.fp32_precision
    library.matmul.fp32_precision = "bf16"
    worst = max(_error(shape) for shape in SHAPES)
    if worst > EXACT:
        log.warning("oneDNN computes float32 with an error of %.1g, must be below %.1g; MKL stays", worst, EXACT)
        library.matmul.fp32_precision = before
        return False
    return True


def _faster(vendor: str, flags: frozenset[str]) -> bool:
    """Return whether oneDNN computes float32 faster than MKL does, and in float32."""
    return vendor == "AuthenticAMD" and "avx512f" in flags and "amx_bf16" not in flags


def _vendor() -> str:
    """Return the maker of this machine's CPU under Linux's name; empty if the system has no `/proc/cpuinfo`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


def _error(shape: tuple[int, int, int]) -> float:
    """Return the largest error of three products that a layer computes, relative to their root mean square."""
    import torch

    rows, inner, columns = shape
    drawn = torch.Generator().manual_seed(0)
    given, weight, gradient = (
        torch.randn(size, generator=drawn) for size in ((rows, inner), (columns, inner), (rows, columns))
    )
    pairs = ((given, weight.T), (gradient, weight), (gradient.T, given))
    errors = []
    for one, other in pairs:
        exact = one.double() @ other.double()
        errors.append(float(((one @ other).double() - exact).abs().max() / exact.square().mean().sqrt()))
    return max(errors)
