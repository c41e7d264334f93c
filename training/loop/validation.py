"""Validation: the measures of a task on the held-out rows, while a model is trained.

A model with a head answers each held-out row as it will in an evaluation. A causal language model is a classifier of
the rows (`gristmill.training.tasks.choices`). Each worker computes a share, and all workers get the same measures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gristmill.cluster.contract.sample import Sample, from_table
from gristmill.cluster.store.store import Store
from gristmill.training.data import chat
from gristmill.training.data import prepare as data
from gristmill.training.data.packing import IGNORED
from gristmill.training.loop import losses, separation
from gristmill.training.loop.stopping import LOSS
from gristmill.training.settings import TrainSettings
from gristmill.training.tasks import batches, choices, prepare, reader
from gristmill.training.tasks.choices import Choices
from gristmill.training.tasks.contracts import Answered, Window
from gristmill.training.tasks.heads import Head


@dataclass(frozen=True, slots=True)
class Share:
    """The part of the work that is this worker's, and how it computes."""

    rank: int
    world: int
    at_once: int
    """Largest number of windows in a batch, or of tokens that have logits in memory at once."""
    way: separation.Way = "alone"


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of a model with a head to the held-out rows."""

    head: Head
    samples: list[Sample]
    windows: list[list[Window]]
    said: str = ""

    def measures(self, model: Any, share: Share) -> dict[str, float]:  # noqa: ANN401 - an engine
        """Return the measures of the task; every worker must call this."""
        return self.head.task.measures(self.samples, self._answered(model, share), self.head.names)

    def fitted(self, model: Any, share: Share) -> Head:  # noqa: ANN401 - an engine
        """Return the head with the settings that the held-out rows decide; every worker must call this."""
        if not self.head.task.open(self.samples):
            return self.head
        return replace(self.head, task=self.head.task.fitted(self.samples, self._answered(model, share)))

    def _answered(self, model: Any, share: Share) -> list[Answered]:  # noqa: ANN401
        import torch.distributed as dist

        parts = [range(rank, len(self.samples), share.world) for rank in range(share.world)]
        counts = [sum(len(self.windows[n]) for n in part) for part in parts]
        mine = parts[share.rank]
        windows = [window for n in mine for window in self.windows[n]]
        # a partitioned model needs every worker in each batch
        windows += [self.windows[0][0]] * (max(counts) - counts[share.rank])
        every = batches.logits(model, self.head.task, windows, share.at_once)
        own = batches.answers(self.head, [self.samples[n] for n in mine], [self.windows[n] for n in mine], every)
        gathered: list[list[Answered]] = [own] * share.world
        dist.all_gather_object(gathered, own)
        said = {n: one for part, some in zip(parts, gathered, strict=True) for n, one in zip(part, some, strict=True)}
        return [said[n] for n in range(len(self.samples))]


@dataclass(frozen=True, slots=True)
class Labels:
    """The choices of a causal language model among the labels of the held-out rows."""

    found: Choices
    bins: data.Bins
    rows: int
    """Number of held-out rows."""

    @property
    def said(self) -> str:
        """How many held-out rows are rated, in words; empty if all are."""
        rated = len(self.found.answers)
        return "" if rated == self.rows else f"; {rated} of {self.rows} held-out rows end with a label and can be rated"

    def measures(self, model: Any, share: Share) -> dict[str, float]:  # noqa: ANN401
        """Return the measures of the chosen labels; every worker must call this."""
        import torch
        import torch.distributed as dist

        summed, device = np.zeros(len(self.found.numbers)), separation.inner(model).device
        for start in range(0, len(self.bins), share.world):
            each = [np.array([min(start + rank, len(self.bins) - 1)]) for rank in range(share.world)]
            rounds = max(separation.num_batches(self.bins.rows(one)) for one in each) if share.way == "alone" else 0
            (place,) = each[share.rank]
            samples = self.bins.column("samples", int(place))
            for arrays in separation.batches(self.bins.rows(each[share.rank]), share.way, rounds):
                with torch.no_grad():
                    batch = losses.tensors(arrays, device)
                    values, at = losses.token_losses(model, batch, share.way, losses.How(share.at_once))
                kept = at.cpu().numpy()
                trained = arrays["labels"][:, kept] != IGNORED
                if start + share.rank < len(self.bins):
                    owner = samples[arrays["sample"][:, kept][trained]]
                    np.add.at(summed, owner, values.double().cpu().numpy()[trained])
        total = torch.from_numpy(summed).to(device)
        dist.all_reduce(total)
        return self.found.measures(total.cpu().numpy())


def names(store: Store, inputs: Mapping[str, str], job: TrainSettings) -> tuple[str, ...]:
    """Return the labels that a causal language model chooses among; none if the metric is the loss.

    Args:
        store: the store.
        inputs: datasets by their role in the training.
        job: the settings.

    Raises:
        JobError: when the answers of the rows are no labels.
    """
    if not job.task.causal or job.metric == LOSS:
        return ()
    return choices.names_of(
        store, [inputs[role] for role in ("samples", data.VALIDATION, data.SEEDS) if role in inputs]
    )


def opened(
    store: Store, output: str, base: str, job: TrainSettings, head: Head | None, labels: Sequence[str]
) -> Answers | Labels | None:
    """Return what is measured besides the loss; None for a causal language model whose metric is the loss."""
    if head is None and job.metric == LOSS:
        return None
    table = store.read_shard(output, store.shard(output, data.HOLDOUT))
    if head is None:
        tok = chat.tokenizer(base, job.template, job.template_args)
        found = choices.opened(table, labels, tok, job.encoding)
        return Labels(found, data.Bins([found.bins]), table.num_rows)
    samples = from_table(table)
    read = prepare.encode(job.task, reader.tokenizer(base), samples, head.names, job)
    used = [samples[place] for place in read.places.tolist()]
    return Answers(head, used, [[one.window for one in some] for some in read.windows])
