"""Label check: ask the model for the label of a text, after labelled texts, and remove the model's own bias."""

from asyncio import gather
from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, fsum, log
from typing import NamedTuple

from gristmill.cluster.contract import ids
from gristmill.cluster.models.choices import BLANK, LEAST
from gristmill.cluster.models.engine import Reply
from gristmill.cluster.text.scripts import is_chinese
from gristmill.cluster.text.template import Prompt, Template
from gristmill.cluster.text.words import tokens
from gristmill.generation.contracts import Ask
from gristmill.generation.prompting.choices import choose

NUM_RANDOM = 20
"""Number of texts of random words with which the bias is measured."""
MAX_TOKENS = 16
"""Largest number of tokens of a label."""


class Case(NamedTuple):
    """A text and its label, or a text with some of its words and the label of these words."""

    language: str
    text: str
    words: str
    label: str


@dataclass(frozen=True)
class LabelCheck:
    """The common parts of all questions in one language."""

    language: str
    template: Template
    """The template of a question. It has `{text}`, `{words}` if words have the label, and `{labels}` with meanings."""
    choices: tuple[str, ...]
    explained: str = ""
    """The labels and their meanings."""
    shown: tuple[Case, ...] = ()
    """Labelled texts with which a question begins."""

    def question(self, text: str, words: str) -> Prompt:
        """Return the prompt that asks for the label of a text, or of words in it."""
        shots = "".join(self.template.shot(case.label, text=case.text, words=case.words) for case in self.shown)
        prompt = self.template.begin("", shots, text=text, words=words, labels=self.explained)
        return Prompt(**prompt, choices=self.choices)

    async def prior(self, ask: Ask) -> dict[str, float]:
        """Return the model's bias: its mean probabilities for 20 texts of random words from the shown texts.

        The mean is geometric. The result is empty unless the shown texts have exactly the choices as labels.

        Source: Fei et al. 2023, arXiv:2305.19740, section 4 (domain-context calibration; 20 texts as in the paper).
        Departures: the mean is that of logarithms, because the probabilities of a biased model are near 0 and 1.
        """
        if {case.label for case in self.shown} != set(self.choices):
            return {}
        asked = (self.question(*self._random(place)) for place in range(NUM_RANDOM))
        replies = await gather(*(choose(ask, prompt, max_tokens=MAX_TOKENS) for prompt in asked))
        said = [reply.choices for reply in replies if reply.choices]
        context = {name: exp(fsum(log(max(c[name], LEAST)) for c in said) / len(said)) for name in self.choices if said}
        return {name: mean / fsum(context.values()) for name, mean in context.items()}

    def _random(self, place: int) -> tuple[str, str]:
        """Return a text of random words, as long as the mean shown text, and the words to ask about, if any.

        The words to ask about come from the shown texts in turn, so each label is as frequent as in these texts.
        """
        rng = ids.stream("label check", self.language, place)
        words = [word for case in self.shown for word in tokens(case.text)]
        between = "" if is_chinese("".join(words)) else " "
        chosen = rng.choices(words, k=max(1, len(words) // len(self.shown)))
        asked = self.shown[place % len(self.shown)].words
        return between.join([*chosen[: len(chosen) // 2], *filter(None, [asked]), *chosen[len(chosen) // 2 :]]), asked

    async def chances(self, text: str, words: str, ask: Ask, prior: Mapping[str, float] | None) -> Reply:
        """Return the reply with probabilities that are divided by the prior.

        If the prior is empty, they are divided by the probabilities for an empty text. If it is None, they are
        unchanged.
        """
        nothing = BLANK.get(self.language, BLANK["en"])
        blank = [self.question(nothing, words and nothing)] if prior is not None else []
        return await choose(ask, self.question(text, words), max_tokens=MAX_TOKENS, blank=blank, prior=prior)
