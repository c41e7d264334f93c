"""Choice: whether the right one of a few answers is the likeliest."""

import json
import string
from collections.abc import Sequence
from typing import Literal

from gristmill.cluster.models.engine import Reply, Request, Score
from gristmill.training.evaluate.scorers.contract import CHOICES, OWN, Item, Judgement, Judgements, Scorer

LETTERS = string.ascii_uppercase
UNDIVIDED = "undivided"
"""Name of the value for which likelihoods are not divided by the length of the choice."""


class Choice(Scorer):
    """Score 1 if the right one of the choices is the likeliest reply, else 0.

    The choices of an item are in its tag `choices` (a JSON list). Without this tag they are those of the suite.

    Source: Brown et al. 2020, Language Models are Few-Shot Learners, arXiv:2005.14165, section 2.4 (likelihood of each
    completion per token); by characters: `acc_norm` of lm-evaluation-harness, which divides by bytes.
    """

    kind: Literal["choice"] = "choice"
    choices: tuple[str, ...] = ()
    """The choices of items without the tag `choices`."""
    per: Literal["text", "token", "character"] = "character"
    """What the log-likelihood of a choice is divided by. `text`: nothing, which favours short choices. `token` and
    `character`: their number in the choice. The report also has the result without a division (`undivided`)."""

    letters: bool = False
    """Whether the choices are listed after the question with letters, and the letter is the reply, as MMLU does it. By
    default the text of each choice is the reply, and the question stands alone."""

    def refuse(self, item: Item) -> str:
        """Refuse an item without two different choices, or with an answer that is none of its choices."""
        choices = self._choices(item)
        if len({*choices}) < 2 or len({*choices}) < len(choices) or not all(choices):
            return "fewer than two different choices"
        if self.letters and len(choices) > len(LETTERS):
            return f"more than {len(LETTERS)} choices"
        return "" if item.answer in choices else "answer is none of the choices"

    def requests(self, item: Item) -> list[Request]:
        """Return a request for each choice."""
        choices = self._choices(item)
        if not self.letters:
            return [Score(item.prompt, choice, prefix=item.prefix) for choice in choices]
        listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
        *before, asked = item.prompt
        prompt = (*before, asked._replace(content=f"{asked.text}\n{listed}"))
        space = " " if item.prefix and not item.prefix[-1].isspace() else ""
        return [
            Score(prompt, f"{space}{letter}", prefix=item.prefix) for letter, _ in zip(LETTERS, choices, strict=False)
        ]

    def score(self, item: Item, replies: Sequence[Reply], shared: Sequence[Reply]) -> Judgements:
        """Return 1 or 0 by the setting `per`, and `undivided`; their replies have the choices' log-likelihoods."""
        del shared
        choices = self._choices(item)
        whole = [reply.logprob or 0.0 for reply in replies]
        sizes = {
            "text": [1.0] * len(choices),
            "token": [float(max(1, reply.reply_tokens)) for reply in replies],
            "character": [1.0 if self.letters else float(len(choice)) for choice in choices],
        }
        found = {}
        for name, per in ((OWN, self.per), (UNDIVIDED, "text")):
            rated = [logprob / size for logprob, size in zip(whole, sizes[per], strict=True)]
            table = {choice: round(value, 4) for choice, value in zip(choices, rated, strict=True)}
            right = choices[rated.index(max(rated))] == item.answer
            found[name] = Judgement(float(right), json.dumps(table, ensure_ascii=False))
        return found

    def _choices(self, item: Item) -> tuple[str, ...]:
        return item.listed(CHOICES) or self.choices
