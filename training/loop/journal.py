"""The journal of a training run: the result of each step, and the batches that are left out.

    {"start": step, "workers": n, "precision": …, "why": …, "seconds": s, "separation": …, "apart": …}
                                                       each start of the workers: seconds of loading; "separation" is
                                                       the way to keep packed samples apart, "apart" says it in words
    {"step": n, "loss": nats, "lr": …, "grad_norm": …, "tokens": …, "trained_tokens": …, "seconds": …}
                                                       each step; with "holdout_loss" and, where the task has some,
                                                       {"measures": {name: value}} if they were measured; with
                                                       "skipped" if gradients of fp16 overflowed and no weight changed
    {"left_out": batch, "at": step, "why": …, "back": step}
                                                       a batch that gave numbers that are not finite, and the step of
                                                       the checkpoint that training went back to
    {"end": step, "holdout_loss": nats, "kept": step}  the last step, and the step from which the model's weights are;
                                                       with "measures" if the task has some, and with
                                                       "merged_difference" if there is an adapter

Batches that are left out stay in the journal when a run continues, because later steps depend on them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"


class Journal:
    """The file `metrics.jsonl`, which rank 0 writes. A run that continues cuts it back to its checkpoint."""

    def __init__(self, path: Path) -> None:
        """Take the path of the file; an existing file is continued."""
        self._path = path

    def rewind(self, step: int) -> None:
        """Delete the lines of the steps after `step`, and the line of the end."""
        kept = [m for m in read_journal(self._path) if m.get("step", 0) <= step and "end" not in m]
        temporary = self._path.with_name(f".{METRICS}")
        temporary.write_text("".join(json.dumps(m) + "\n" for m in kept), encoding="utf-8")
        temporary.replace(self._path)

    def add(self, **facts: Any) -> None:  # noqa: ANN401 - any JSON value
        """Append one line."""
        with self._path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(facts) + "\n")


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a journal; a line that is still being written is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def events(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the lines of starts and left-out batches, which are printed."""
    return [line for line in lines if "start" in line or "left_out" in line]


def left_out(lines: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """Return the batches that are left out."""
    return tuple(int(line["left_out"]) for line in lines if "left_out" in line)
