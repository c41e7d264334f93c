"""Asks the model which label a text has, after labelled texts, and takes the model's own bias out."""

from asyncio import gather
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import exp, fsum, log
from typing import NamedTuple, TypedDict

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.sample import Message
from gristmill.cluster.models.engine import Reply
from gristmill.cluster.text.scripts import is_chinese
from gristmill.cluster.text.words import tokens
from gristmill.generation.contracts import Ask
from gristmill.generation.prompting.choices import BLANK, LEAST, calibrated
from gristmill.generation.prompting.template import fill, prompt_for

NUM_RANDOM = 20
"""Texts of random words that the bias is measured by."""

LAYOUT = {
    "en": ("Text: {text}\n", "Words: {words}\n", "Label: "),
    "zh": ("文本：{text}\n", "词语：{words}\n", "标签："),
}
"""How the model's turn goes on from one text to the next: the text, the words in question, the label."""


class Case(NamedTuple):
    """A text, perhaps with words of it that are in question, and its label."""

    language: str
    text: str
    words: str
    label: str


class Question(TypedDict):
    """The arguments of one call."""

    messages: list[Message]
    max_tokens: int
    temperature: float
    prefix: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class LabelCheck:
    """What all questions in one language share."""

    language: str
    prompt: str
    """What the user asks."""
    choices: tuple[str, ...]
    shown: tuple[Case, ...] = ()
    """Texts with their labels to begin with."""

    def question(self, text: str, words: str) -> Question:
        """Return the call that asks for the label of a text, or of words in it."""
        before = "".join(f"{self._case(case.text, case.words)}{case.label}\n\n" for case in self.shown)
        return {
            "messages": [Message("user", self.prompt)],
            "max_tokens": 16,
            "temperature": 0.0,
            "prefix": before + self._case(text, words),
            "choices": self.choices,
        }

    def _case(self, text: str, words: str) -> str:
        first, middle, last = LAYOUT.get(self.language, LAYOUT["en"])
        return fill(first, text=text) + (fill(middle, words=words) if words else "") + last

    async def prior(self, ask: Ask) -> dict[str, float]:
        """Return the model's bias: the geometric mean of its chances of 20 texts of random words out of those shown.

        Empty unless all choices are among the labels of the shown texts.

        Source: Fei et al. 2023, arXiv:2305.19740, section 4 (domain-context calibration; their 20 texts).
        Departures: the mean is taken of logarithms, because the chances of a biased model lie near 0 and 1.
        """
        if {case.label for case in self.shown} != set(self.choices):
            return {}
        replies = await gather(*(ask(**self.question(*self._random(place))) for place in range(NUM_RANDOM)))
        said = [reply.choices for reply in replies if reply.choices]
        context = {name: exp(fsum(log(max(c[name], LEAST)) for c in said) / len(said)) for name in self.choices if said}
        return {name: mean / fsum(context.values()) for name, mean in context.items()}

    def _random(self, place: int) -> tuple[str, str]:
        """Return a text of random words, as long as those shown are on average, with words in question where they are.

        Words in question are those of the shown texts in turn, as many of each label as there are.
        """
        rng = ids.stream("label check", self.language, place)
        words = [word for case in self.shown for word in tokens(case.text)]
        between = "" if is_chinese("".join(words)) else " "
        chosen = rng.choices(words, k=max(1, len(words) // len(self.shown)))
        asked = self.shown[place % len(self.shown)].words
        return between.join([*chosen[: len(chosen) // 2], *filter(None, [asked]), *chosen[len(chosen) // 2 :]]), asked

    async def chances(self, text: str, words: str, ask: Ask, prior: Mapping[str, float] | None) -> Reply:
        """Return the reply, its choices divided by the prior, or by those of an empty text where that is empty.

        Without a prior the choices are left as they are.
        """
        reply = await ask(**self.question(text, words))
        if prior is None or not reply.choices:
            return reply
        blank = prompt_for(BLANK, self.language)
        prior = prior or (await ask.shared(**self.question(blank, words and blank))).choices
        chances = calibrated(reply.choices, prior)
        return replace(reply, text=max(chances, key=lambda name: chances[name]), choices=chances)
