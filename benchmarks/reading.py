"""The shares of bad samples before and after the guards, from the verdicts of a reader in `reading.json`.

    python benchmarks/reading.py

`docs/reading.md` has the rule by which samples were read. The file has, for each method, the ids of the samples that
were read, the fault of each bad one, and the guard that drops each dropped one.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from math import sqrt
from pathlib import Path
from typing import Any

KNOWN = Path(__file__).parent / "reading.json"
Z = 1.96
"""Of a 95 % interval."""


def wilson(bad: int, size: int) -> tuple[float, float]:
    """Return the interval of a share by Wilson 1927."""
    share = bad / size
    centre, spread = share + Z**2 / (2 * size), Z * sqrt(share * (1 - share) / size + Z**2 / (4 * size**2))
    return (centre - spread) / (1 + Z**2 / size), (centre + spread) / (1 + Z**2 / size)


def said(bad: int, size: int) -> str:
    """Return a share with its interval in words."""
    low, high = wilson(bad, size)
    return f"{bad} of {size}, {bad / size:.0%} ({low:.0%} to {high:.0%})"


def lines(methods: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the rows of a table in Markdown."""
    yield "| method | bad before | bad after | good ones dropped | faults before | faults after |"
    yield "|---|---|---|---|---|---|"
    for name, found in methods.items():
        faults, dropped, size = found["faults"], found["dropped"], len(found["ids"])
        left = {row: fault for row, fault in faults.items() if row not in dropped}
        good = sum(row not in faults for row in dropped)
        before, after = (
            ", ".join(f"{fault} {count}" for fault, count in Counter(some.values()).most_common())
            for some in (faults, left)
        )
        lost = f"{good} of {size - len(faults)}"
        shares = said(len(faults), size), said(len(left), size - len(dropped))
        yield f"| {name} | {shares[0]} | {shares[1]} | {lost} | {before} | {after} |"


if __name__ == "__main__":
    sys.stdout.write("\n".join(lines(json.loads(KNOWN.read_text())["methods"])) + "\n")
