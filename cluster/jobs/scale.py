"""What a recipe takes on a cluster of a given size: time, requests to the store, the driver's memory, and money.

Every number follows from the plan of a job, which has what earlier jobs of the store measured, and from the constants
that the jobs name with their source. What was never measured stays unknown.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gristmill.cluster.jobs.job import Plan

REQUESTS_PER_SHARD = 9
"""Requests to an object store for a shard of `generate`, counted over 79 shards."""


@dataclass(frozen=True)
class Size:
    """The size of a cluster, and what an hour of one of its machines costs."""

    nodes: int
    gpus: int
    """GPUs of each machine."""
    price: float = 0.0


@dataclass(frozen=True)
class Scaled:
    """What one job takes on a cluster. A number is None if it is not known."""

    job: str
    processes: int
    hours: float | None
    bound: str
    """What the time follows from: `engines`, `driver` or, if it is not known, an empty string."""
    driver_gib: float | None
    requests: int | None
    money: float | None


def scale(plan: Plan, size: Size) -> Scaled:
    """Return what the job of a plan takes on a cluster of a size."""
    each = plan.gpus or 1.0
    room = math.floor(size.nodes * math.floor(size.gpus / each)) if each <= size.gpus else 0
    processes = max(0, min(room, plan.shards or room)) if plan.spreads else plan.actors
    engines_s = plan.process_s / processes if plan.process_s and processes else 0.0
    known = bool(plan.driver_s) if not plan.spreads else bool(engines_s)
    seconds = max(engines_s, plan.driver_s)
    hours = seconds / 3600 if known else None
    return Scaled(
        job=plan.job,
        processes=processes,
        hours=hours,
        bound="" if not known else "engines" if engines_s >= plan.driver_s else "driver",
        driver_gib=round(plan.driver_bytes / 2**30, 2) if plan.driver_bytes else None,
        requests=plan.shards * REQUESTS_PER_SHARD if plan.spreads else None,
        money=hours * size.nodes * size.price if hours is not None and size.price else None,
    )


def scale_lines(plans: Sequence[Plan], size: Size) -> Iterator[list[str]]:
    """Yield the cells of each row of the table for people, the header first; `?` is what is not known."""
    yield ["job", "processes", "hours", "bound by", "driver GiB", "requests to the store", "money"]
    for each in (scale(plan, size) for plan in plans):
        numbers = (_cell(each.hours, ".2f"), each.bound or "?", _cell(each.driver_gib, ".2f"))
        yield [each.job, f"{each.processes:,}", *numbers, _cell(each.requests, ","), _cell(each.money, ",.2f")]


def bases(plans: Sequence[Plan], size: Size) -> Iterator[str]:
    """Yield where the numbers of the table come from, and what to do about unknown ones."""
    for plan in plans:
        yield from (f"{plan.job}: {basis}" for basis in plan.bases)
        if plan.spreads and not plan.process_s and plan.state != "done":
            ask = "run a few hundred samples on one such engine in this store first"
            yield f"{plan.job}: the speed of an engine is not known: {ask}, with another target and the same model"
        if plan.spreads and (plan.gpus or 1) > size.gpus:
            yield f"{plan.job}: an engine takes {plan.gpus:g} GPUs, a machine has {size.gpus}; more or larger machines"
    if any(plan.spreads for plan in plans):
        yield f"requests: {REQUESTS_PER_SHARD} a shard of generate, in an object store; none in a folder"


def _cell(value: float | None, form: str) -> str:
    return "?" if value is None else format(value, form)
