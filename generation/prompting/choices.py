"""Choices: the model says one of a few words, and how likely each is; its own bias is taken out where that is asked."""

from asyncio import gather
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Unpack

from gristmill.cluster.models.engine import Reply
from gristmill.generation.contracts import Ask, Sampling
from gristmill.generation.prompting.template import Prompt

BLANK = {"en": "N/A", "zh": "无"}
"""The text without content, by language."""
LEAST = 1e-4
"""Smallest chance that is divided by, so that a choice that is never made of the empty text does not win always."""


async def choose(
    ask: Ask,
    prompt: Prompt,
    *,
    max_tokens: int,
    blank: Sequence[Prompt] = (),
    prior: Mapping[str, float] | None = None,
    least: float = LEAST,
    **sampling: Unpack[Sampling],
) -> Reply:
    """Return the reply to a prompt with choices, which has the probability of each, and the likeliest as its text.

    The probabilities are divided by the `prior`, or by the mean of those of `blank`: the same prompt of texts without
    content, each asked once on a worker. The reply has no choices when the engine refused it.
    """

    def settings(one: Prompt) -> Sampling:
        return {"temperature": 0.0, "prefix": one["prefix"], "choices": one["choices"], **sampling}

    reply = await ask(prompt["messages"], max_tokens=max_tokens, **settings(prompt))
    if not reply.choices:
        return reply
    if not prior and blank:
        asking = (ask.shared(one["messages"], max_tokens=max_tokens, **settings(one)) for one in blank)
        said = [other.choices for other in await gather(*asking) if other.choices]
        prior = {name: sum(chances[name] for chances in said) / len(said) for name in reply.choices if said}
    if not prior:
        return reply
    chances = calibrated(reply.choices, prior, least)
    return replace(reply, text=max(chances, key=lambda name: chances[name]), choices=chances)


def calibrated(chances: Mapping[str, float], prior: Mapping[str, float], least: float = LEAST) -> dict[str, float]:
    """Return chances divided by those of texts without content, summing to 1; without any such, as they are.

    Source: Zhao et al. 2021, Calibrate Before Use, arXiv:2102.09690, section 5 (W = diag(p_cf)^-1, b = 0). Departures:
    one empty text instead of three where a step has no more; chances below `least` count as that.
    """
    if not chances or set(chances) != set(prior):
        return dict(chances)
    weights = {choice: chance / max(prior[choice], least) for choice, chance in chances.items()}
    total = sum(weights.values())
    return {choice: weight / total for choice, weight in weights.items()} if total else dict(chances)


def expected(chances: Mapping[str, float]) -> float:
    """Return the mean of grades under their probabilities."""
    return sum(int(grade) * chance for grade, chance in chances.items())
