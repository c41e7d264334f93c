"""Loss: the log-likelihood of the right answer, per token."""

from collections.abc import Sequence
from typing import Literal

from gristmill.cluster.models.engine import Reply, Request, Score
from gristmill.training.evaluate.scorers.contract import OWN, Item, Judgement, Judgements, Scorer


class Loss(Scorer):
    """Score the right answer by its mean log-probability per token, in nats; higher is better.

    The report has loss and perplexity over the tokens of all answers. The token that ends the turn does not count.
    Models with different tokenizers have different tokens, so their losses are not comparable.
    """

    kind: Literal["loss"] = "loss"

    def requests(self, item: Item) -> list[Request]:
        """Return the one request that scores the answer."""
        return [Score(item.prompt, item.answer, prefix=item.prefix)]

    def score(self, item: Item, replies: Sequence[Reply], shared: Sequence[Reply]) -> Judgements:
        """Return the mean log-probability per token, and the number of `tokens`."""
        del item, shared
        tokens = max(1, replies[0].reply_tokens)
        return {OWN: Judgement((replies[0].logprob or 0.0) / tokens), "tokens": Judgement(float(tokens))}
