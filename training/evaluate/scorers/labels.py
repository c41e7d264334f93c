"""Labels: a causal model as a classifier, by the likelihood of each label and by what it writes."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from gristmill.cluster.contract.ids import request_seed
from gristmill.cluster.models.choices import BLANK, calibrated
from gristmill.cluster.models.engine import Choose, Reply, Request
from gristmill.cluster.text.finals import final_answer
from gristmill.cluster.text.scripts import is_chinese
from gristmill.training.evaluate.scorers.contract import OWN, Item, Judgement, Judgements, Scorer, written
from gristmill.training.evaluate.scorers.normal import squad

EMPTY = ("[MASK]", "")
"""Texts without content, in addition to `N/A` or `无`."""
DIGITS = 6
"""Decimals of a chance."""


class Labels(Scorer):
    """Score 1 where the model gives an item its label, else 0.

    It is asked in two ways. By likelihood: how likely each label is as the reply, divided by how likely it is for texts
    without content; this is the suite's value, and `raw` is the same without the division. By writing: the label that
    its reply has last (`written`). The report has accuracy, precision, recall, F1 and the confusion of each way, and
    ROC-AUC. The text of an item must be all that differs from a text without content, so put an instruction into
    `prompt`, not into the items.

    Source: Zhao et al. 2021, Calibrate Before Use, arXiv:2102.09690, section 5 (three texts without content).
    Departures: the likelihood of a label is that of its tokens among the labels' tokens alone.
    """

    kind: Literal["labels"] = "labels"
    example: ClassVar[Mapping[str, Any]] = {"input": "test.jsonl", "labels": ["positive", "negative"]}
    labels: tuple[str, ...] = Field(default=(), max_length=200)
    """All labels; by default those that the items have."""
    calibrate: bool = True
    """Whether likelihoods are divided by those for texts without content."""
    max_tokens: int = Field(default=16, gt=0)
    """Most tokens of a written label."""

    def fitted(self, items: Sequence[Item]) -> Self:
        """Return the scorer with all labels of the items."""
        return self if self.labels else self.model_copy(update={"labels": tuple(sorted({i.answer for i in items}))})

    def refuse(self, item: Item) -> str:
        """Refuse an item whose label is none of those of the settings."""
        return "" if not self.labels or item.answer in self.labels else "answer is none of the labels"

    def shared(self) -> list[Request]:
        """Return the requests for texts without content."""
        blank = BLANK["zh" if is_chinese("".join(self.labels) + self.prompt) else "en"]
        prompts = [self.rendered(text) for text in (blank, *EMPTY)] if self.calibrate else []
        return [self._choose(prompt["messages"], prompt["prefix"], 0) for prompt in prompts]

    def requests(self, item: Item) -> list[Request]:
        """Return the request to choose among the labels, and the request to write one."""
        chosen = self._choose(item.prompt, item.prefix, request_seed(item.id, 0))
        return [chosen, written(item, self.max_tokens)]

    def score(self, item: Item, replies: Sequence[Reply], shared: Sequence[Reply]) -> Judgements:
        """Return 1 or 0 for each way of asking; the replies hold the labels' probabilities, or the written text."""
        chosen, said = replies
        prior = {label: sum(reply.choices[label] for reply in shared) / len(shared) for label in self.labels if shared}
        found = {OWN: calibrated(chosen.choices, prior), "raw": dict(chosen.choices)}
        scores = {name: _score(chances, item.answer) for name, chances in found.items()}
        right = label_in(said.text, self.labels) == item.answer
        return {**scores, "written": Judgement(float(right), said.text.strip())}

    def _choose(self, prompt: Any, prefix: str, seed: int) -> Request:  # noqa: ANN401 - turns
        return Choose(prompt, self.labels, seed, prefix=prefix)


def label_in(text: str, labels: Sequence[str]) -> str | None:
    """Return the label that equals a reply except for case and punctuation, else the last label in it, or None."""
    whole = next((label for label in labels if squad(label) == squad(text)), None)
    return whole or final_answer(text, labels)


def likeliest(chances: Mapping[str, float]) -> str:
    """Return the likeliest label, of equal ones the first in the alphabet."""
    return min(chances, key=lambda label: (-chances[label], label))


def _score(chances: Mapping[str, float], label: str) -> Judgement:
    table = {name: round(chance, DIGITS) for name, chance in chances.items()}
    return Judgement(float(likeliest(table) == label), json.dumps(table, ensure_ascii=False))
