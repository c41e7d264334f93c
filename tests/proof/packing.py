"""Every architecture that can be made tiny: packed samples have the losses that they have alone, to 1e-4 nats a token.

python -m tests.proof.packing

Each model has random weights. The way that is chosen is measured through the losses of training, and compared with the
losses of each sample given to the model alone. `leaks` counts those that differ; `without` counts those that would
differ if `position_ids` were all that a model got. `benchmarks/packing.json` holds the figures.
"""

import json
import sys
import time
from collections import Counter
from typing import Any

from gristmill.training.loop import separation
from tests.paths import ROOT
from tests.training.loop.architectures import NAMES, tiny
from tests.training.loop.test_separation import difference

EXACT = 1e-4
OUT = ROOT / "benchmarks" / "packing.json"


def measured(name: str) -> dict[str, Any]:
    """Return how one architecture keeps samples apart, and how far its losses are from those alone."""
    model = tiny(name)
    found = separation.choose(model, "fp32", length=96, rows=1, device="cpu")
    in_bf16 = separation.choose(tiny(name, "bfloat16"), "bf16", length=96, rows=1, device="cpu")
    return {
        "way": found.way,
        "way in bf16": in_bf16.way,
        "difference": float(f"{difference(model, found.way):.2g}"),
        "difference by positions": float(f"{difference(model, 'positions'):.2g}"),
    }


def main() -> int:
    """Measure all, write the figures, and return the number of leaks."""
    import torch
    from transformers import logging

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    began, table = time.process_time(), {}
    for name in NAMES:
        table[name] = measured(name)
        print(f"{name:20s} {table[name]}", flush=True)  # noqa: T201
    wrong = [name for name, row in table.items() if not row["difference"] < EXACT or row["way"] != row["way in bf16"]]
    without = sum(not row["difference by positions"] < EXACT for row in table.values())
    total = {
        "architectures": len(table),
        "leaks": len(wrong),
        "without": without,
        "ways": dict(Counter(row["way"] for row in table.values())),
        "cpu_seconds": round(time.process_time() - began, 1),
    }
    print(json.dumps(total), wrong)  # noqa: T201
    OUT.write_text(json.dumps({**total, "by architecture": table}, indent=1) + "\n", encoding="utf-8")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
