"""The actor that scores how well a model predicts samples, and the comparison of two models by these scores."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gristmill.cluster.contract.errors import RunError
from gristmill.cluster.models import dtypes, products
from gristmill.cluster.runtime.log import to_file
from gristmill.training.data import chat, packing
from gristmill.training.data import prepare as data
from gristmill.training.data.answers import Talk
from gristmill.training.evaluate import statistics
from gristmill.training.loop import blocks, losses, separation
from gristmill.training.tuning.model import PRECISIONS, Precision, load


@dataclass(frozen=True, slots=True)
class Scores:
    """How well one model predicts each sample."""

    summed: NDArray[np.float64]
    """[samples] summed loss of the trained tokens, in nats."""
    tokens: NDArray[np.int64]
    """[samples] number of trained tokens, all positive."""
    seconds: float
    apart: str = ""
    """How packed samples were kept apart, in words."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """Measures of the answers, if the model has the head of a task."""

    @property
    def mean(self) -> float:
        """Mean loss of a trained token, in nats."""
        return float(self.summed.sum() / self.tokens.sum())


class Scorer:
    """An actor that scores the same samples with one model after the other."""

    def __init__(
        self, logs: str | None, cpus: float, precision: Precision | Literal["auto"], how: chat.Encoding
    ) -> None:
        """Open the log. `cpus` is the number of threads. `how` has the encoding that training used."""
        to_file(logs, "evaluate")
        self._cpus, self._how = cpus, how
        self._precision = None if precision == "auto" else precision
        self._bins: data.Bins | None = None
        self._rows = np.empty(0, np.int64)

    def open(self, model: str, samples: list[Talk]) -> dict[str, Any]:
        """Tokenise and pack the samples, and choose the precision.

        Args:
            model: folder of the tuned model. Its tokenizer has the chat template of the training.
            samples: the conversations.

        Returns:
            `places`, the indices of the samples that can be scored; `drops`, the number of the others by reason;
            `precision` and `why` it was chosen; and `seconds`.
        """
        import torch

        began = time.monotonic()
        why = "as the recipe says"
        if self._precision is None:
            choice = dtypes.choose(model)
            self._precision, why = PRECISIONS[choice.dtype], choice.reason
        torch.set_num_threads(max(1, int(self._cpus)))
        blocks.install()
        products.use_avx512()
        encoded = chat.encode(chat.tokenizer(model), samples, self._how)
        places, self._rows = np.unique(encoded.places, return_inverse=True)  # a row may have become several samples
        self._bins = data.Bins([packing.bins_table(encoded, packing.fit(encoded.lengths, self._how.max_length))])
        return {
            "places": places,
            "drops": dict(encoded.drops),
            "precision": self._precision,
            "why": why,
            "seconds": round(time.monotonic() - began, 1),
        }

    def losses(self, model: str) -> Scores:
        """Score the opened samples with the model in a folder."""
        import torch

        if self._bins is None or self._precision is None:
            raise RunError("evaluate: the scorer holds no samples, must be opened first")
        began = time.monotonic()
        loaded = load(model, self._precision).eval().to("cuda" if torch.cuda.is_available() else "cpu")
        apart = separation.choose(loaded, self._precision, length=self._how.max_length, rows=1, device=loaded.device)
        summed, tokens = losses.sample_losses(loaded, self._bins, len(self._rows), apart.way)
        loss, counted = np.bincount(self._rows, summed), np.bincount(self._rows, tokens).astype(np.int64)
        return Scores(loss.astype(np.float64), counted, round(time.monotonic() - began, 1), apart.reason)


def compare(
    before: Scores,
    after: Scores,
    families: NDArray[np.int64],
    *,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Return losses, perplexities and their difference with its 95 % interval.

    Args:
        before: scores of the base model.
        after: scores of the tuned model on the same samples.
        families: [samples] family of each sample, numbered from 0. Samples of one family depend on each other.
        draws: number of bootstrap draws.
        seed: seed of the draws; the result depends only on it and the other arguments.
    """
    tokens = before.tokens.astype(np.float64)
    change, sizes = (statistics.by_family(x, families) for x in (after.summed - before.summed, tokens))
    found = statistics.interval(change, sizes, draws=draws, seed=seed)
    better, worse = int((change < 0).sum()), int((change > 0).sum())
    return {
        "rows": len(tokens),
        "tokens": int(tokens.sum()),
        "loss_before": before.mean,
        "loss_after": after.mean,
        "perplexity_before": math.exp(before.mean),
        "perplexity_after": math.exp(after.mean),
        "difference": after.mean - before.mean,
        "ci_low": found.low,
        "ci_high": found.high,
        "interval": found.kind,
        "families": found.families,
        "families_better": better,
        "families_worse": worse,
        "sign_p": statistics.mcnemar(better, worse),
        "detectable": None if found.error is None else statistics.detectable(found.error),
        "bootstrap": draws,
    }
