"""Labels: a causal model as a classifier, by the likelihood of each label and by the label that it writes."""

import json
from collections.abc import Mapping, Sequence
from heapq import nsmallest
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from gristmill.cluster.contract import ids
from gristmill.cluster.models.choices import BLANK, calibrated
from gristmill.cluster.models.engine import Choose, Reply, Request
from gristmill.cluster.text.finals import final_answer
from gristmill.cluster.text.scripts import is_chinese
from gristmill.training.evaluate.scorers.contract import OWN, Item, Judgement, Judgements, Scorer, written
from gristmill.training.evaluate.scorers.normal import squad

EMPTY = ("[MASK]", "")
"""Texts without content, in addition to `N/A` or `无`."""
FEWEST, MOST = 8, 64
"""Numbers of items of which the mean is taken for the calibration. With fewer, there is none."""
DIGITS = 6
"""Number of decimals of a stored probability."""


class Labels(Scorer):
    """Score 1 if the model gives an item its right label, else 0.

    The model is asked in two ways. By likelihood: the likelihood of each label as the reply is divided by its mean
    likelihood over the suite's own items, which takes out a model's liking for a label. This is the suite's value;
    `raw` is the same without the division. By writing: the last label in the reply (`written`). The report has
    accuracy, precision, recall and F1 of each way, and the confusion matrix and ROC-AUC by likelihood.

    Source: `items`: Zhou et al. 2024, Batch Calibration, arXiv:2309.17249, section 3. `blank`: Zhao et al. 2021,
    Calibrate Before Use, arXiv:2102.09690, section 5 (three texts without content). Departures: the likelihood of a
    label is computed among the tokens of the labels only; the mean is that of up to 64 items.
    """

    kind: Literal["labels"] = "labels"
    example: ClassVar[Mapping[str, Any]] = {"input": "test.jsonl", "labels": ["positive", "negative"]}
    labels: tuple[str, ...] = Field(default=(), max_length=200)
    """All labels. The default is all labels that the items have."""
    calibrate: Literal["items", "blank", "none"] = "items"
    """What the likelihoods are divided by. `items`: their mean over up to 64 items of the suite, if it has 8 or more;
    right answers are not read. `blank`: their mean for three texts without content instead of the item's text; then an
    instruction must be in `prompt`, not in the items. `none`: nothing. This is better if most items have one label."""
    max_tokens: int = Field(default=16, gt=0)
    """Largest number of tokens in a written label."""

    def fitted(self, items: Sequence[Item]) -> Self:
        """Return the scorer with all labels of the items."""
        return self if self.labels else self.model_copy(update={"labels": tuple(sorted({i.answer for i in items}))})

    def refuse(self, item: Item) -> str:
        """Refuse an item with a label that is not in the setting `labels`."""
        return "" if not self.labels or item.answer in self.labels else "answer is none of the labels"

    def shared(self, items: Sequence[Item]) -> list[Request]:
        """Return the requests that the calibration needs: for some of the items, or for texts without content."""
        if self.calibrate == "items":
            some = nsmallest(MOST, items, key=lambda item: ids.digest("prior", item.id))
            return [self._choose(item.prompt, item.prefix, 0) for item in some if len(some) >= FEWEST]
        blank = BLANK["zh" if is_chinese("".join(self.labels) + self.prompt) else "en"]
        prompts = [self.rendered(text) for text in (blank, *EMPTY)] if self.calibrate == "blank" else []
        return [self._choose(prompt["messages"], prompt["prefix"], 0) for prompt in prompts]

    def requests(self, item: Item) -> list[Request]:
        """Return the request to choose among the labels, and the request to write one."""
        chosen = self._choose(item.prompt, item.prefix, ids.request_seed(item.id, 0))
        return [chosen, written(item, self.max_tokens)]

    def score(self, item: Item, replies: Sequence[Reply], shared: Sequence[Reply]) -> Judgements:
        """Return 1 or 0 for each way of asking. Its reply has the labels' probabilities, or the written text."""
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
    """Return the likeliest label; of equally likely labels, the first in the alphabet."""
    return min(chances, key=lambda label: (-chances[label], label))


def _score(chances: Mapping[str, float], label: str) -> Judgement:
    table = {name: round(chance, DIGITS) for name, chance in chances.items()}
    return Judgement(float(likeliest(table) == label), json.dumps(table, ensure_ascii=False))
