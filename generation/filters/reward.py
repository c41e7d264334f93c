"""Reward: a reward model or any classifier head gives the sample a number."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from gristmill.cluster.contract.sample import Sample
from gristmill.generation.contracts import Ask, Snapshot, Verdict
from gristmill.generation.prompting.classifier import Head, HeadFilter


class Reward(HeadFilter[Head]):
    """Score each sample with a sequence classifier, and drop samples below a bound, if one is set.

    If the model has one output, the score `reward` is this output, on the model's own scale. If it has more, the score
    is the probability of `label`. The model runs in the worker. Rows wait for each other to share a forward pass.

    Source: Ouyang et al. 2022, InstructGPT, arXiv:2203.02155, section 3.4 (one scalar of the whole conversation); Xu et
    al. 2024, Magpie, arXiv:2406.08464, section 2.2 (a reward model as filter). Departures: scores are rounded to four
    decimals, because padding moves the last bits; a text that is too long loses its end.
    """

    kind: Literal["reward"] = "reward"
    example: ClassVar[Mapping[str, Any]] = {"model": "models/reward"}
    name: str = ""
    """Name of the score, for recipes with several filters of this kind; `reward` by default."""
    min_score: float | None = None
    """Samples with a lower score are dropped. By default no sample is dropped."""

    def title(self) -> str:
        """Return the kind and the name of the score."""
        return f"{self.kind} {self.name}".strip()

    async def prepare(self, snapshot: Snapshot, before: Head | None, ask: Ask) -> Head:
        """Return the loaded model."""
        del snapshot, ask
        return before or await self.opened()

    async def judge(self, sample: Sample, ask: Ask[Head]) -> Verdict:
        """Return the score."""
        if not sample.answer:
            return Verdict(dropped=f"{self.kind}: no answer")
        number = await ask.prepared.read(sample.messages)
        low = self.min_score is not None and number < self.min_score
        return Verdict({self.name or self.kind: number}, f"{self.kind}: below threshold" if low else None)
