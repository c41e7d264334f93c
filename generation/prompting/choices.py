"""Choices: the model chooses one of a few words, with the probability of each. The model's own bias can be removed."""

from asyncio import gather
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Unpack

from gristmill.cluster.models.choices import LEAST, calibrated
from gristmill.cluster.models.engine import Reply
from gristmill.cluster.text.template import Prompt
from gristmill.generation.contracts import Ask, Sampling


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
    """Return the reply to a prompt with choices: the probability of each, and the likeliest as the text.

    The probabilities are divided by the `prior` or, without it, by the mean probabilities for the prompts of `blank`.
    These are the same prompt with texts without content, and each worker asks them once. If the engine refuses the
    request, the reply has no choices.
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


def expected(chances: Mapping[str, float]) -> float:
    """Return the mean of grades under their probabilities."""
    return sum(int(grade) * chance for grade, chance in chances.items())
