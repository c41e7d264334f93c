"""Checkpoints of a training run: every rank writes its part, and rank 0 commits after a barrier.

    <output>/checkpoints/step-00000020/zero/…   DeepSpeed's files; each rank writes its own
                                       COMMITTED  {"step", "world", "precision"}; written last; a folder without this
                                                  file is not a checkpoint and is deleted

Ray Train's own checkpoint registry is not used. Its controller learns of a new checkpoint only at its next poll, every
2 s. So a killed run could lose the newest checkpoint.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gristmill.training import zero
from gristmill.training.tuning.model import Precision

FOLDER = "checkpoints"
BEST = "best"
"""Folder of the checkpoint with the lowest held-out loss."""
COMMITTED = "COMMITTED"
TAG = "zero"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One committed checkpoint."""

    path: Path
    step: int
    """Number of finished optimizer steps."""
    world: int
    """Number of workers that wrote the checkpoint. At ZeRO stage 3, only the same number of workers can load it."""
    precision: Precision
    """Precision in which training computed. With `precision = "auto"`, training continues in it."""


def newest(folder: Path) -> Checkpoint | None:
    """Return the newest committed checkpoint of a folder, or None."""
    found = committed(folder)
    return found[-1] if found else None


def committed(folder: Path) -> list[Checkpoint]:
    """Return the committed checkpoints of a folder, oldest first."""
    found = []
    for marker in folder.glob(f"step-*/{COMMITTED}"):
        said = json.loads(marker.read_text(encoding="utf-8"))
        found.append(Checkpoint(marker.parent, said["step"], said["world"], said["precision"]))
    return sorted(found, key=lambda c: c.step)


def sweep(folder: Path, keep: int) -> None:
    """Delete uncommitted checkpoints, and all committed ones except the newest `keep`.

    The marker file is deleted first. So a run that is killed in between leaves an uncommitted folder, not a damaged
    checkpoint that looks complete.
    """
    old = {c.path for c in committed(folder)[: -keep or None]}
    for path in folder.glob("step-*"):
        if path in old or not (path / COMMITTED).exists():
            (path / COMMITTED).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)


def forget(folder: Path, step: int) -> None:
    """Delete the committed checkpoints of steps after `step`.

    Every rank must call this; rank 0 deletes the files.
    """
    import torch.distributed as dist

    for later in [one for one in committed(folder) if one.step > step] if dist.get_rank() == 0 else []:
        (later.path / COMMITTED).unlink()
        shutil.rmtree(later.path, ignore_errors=True)
    dist.barrier()


def save(
    engine: Any,  # noqa: ANN401
    folder: Path,
    step: int,
    *,
    precision: Precision,
    keep: int,
    only_trainable: bool,
) -> None:
    """Write and commit a checkpoint; every rank must call this at the same step.

    Args:
        engine: the DeepSpeed engine.
        folder: a folder that all ranks share.
        step: number of finished optimizer steps.
        precision: precision of the computation.
        keep: number of newest checkpoints to keep, including this one.
        only_trainable: whether to leave out frozen weights, which a later run loads from the base model.
    """
    import torch.distributed as dist

    path = folder / f"step-{step:08d}"
    if dist.get_rank() == 0:
        shutil.rmtree(path, ignore_errors=True)
    dist.barrier()
    zero.save(engine, str(path), TAG, only_trainable=only_trainable)
    dist.barrier()
    if dist.get_rank() == 0:
        commit(path, step, dist.get_world_size(), precision)
        sweep(folder, keep)


def commit(path: Path, step: int, world: int, precision: Precision) -> None:
    """Write the marker file that makes a checkpoint count as complete."""
    temporary = path / f".{COMMITTED}"
    with temporary.open("w", encoding="utf-8") as out:
        json.dump({"step": step, "world": world, "precision": precision}, out)
        out.flush()
        os.fsync(out.fileno())
    temporary.rename(path / COMMITTED)


def load(engine: Any, found: Checkpoint, *, only_trainable: bool) -> None:  # noqa: ANN401
    """Load a checkpoint into an engine; every rank must call this.

    Another number of workers may have written it, but not at stage 3.
    """
    import torch.distributed as dist

    anew = (
        found.world != dist.get_world_size() and engine.zero_optimization_stage() > 0
    )  # at stage 0 each has all of it
    zero.load(engine, str(found.path), TAG, anew=anew, strict=not only_trainable)
