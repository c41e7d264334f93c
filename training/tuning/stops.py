"""The stop token of a trained model: the token that ended answers in training also ends them at inference.

A base model often stops at another token than the one that ends turns in a chat template. Inference engines read the
stop tokens from `generation_config.json`, and some from the tokenizer. Both must have the stop token of the template.
Otherwise the model goes on after each answer.
"""

import logging
from collections.abc import Sequence
from typing import Any

from gristmill.cluster.contract.sample import Message
from gristmill.cluster.models.template import ChatTemplate

log = logging.getLogger(__name__)

_ASKED = Message("user", "Hi")
_TALKS = ([_ASKED], [_ASKED, Message("assistant", "Yes.")])


def stop_at(model: Any, tok: Any, stops: Sequence[int]) -> None:  # noqa: ANN401
    """Let a model, and its tokenizer if possible, stop at the tokens that ended its answers in training.

    The generation config keeps the tokens at which the model stopped before. A template may use the tokenizer's end
    token for something else than the end of an answer (Phi-3 ends conversations with it). Then the tokenizer keeps its
    end token.

    Args:
        model: a model of transformers; its generation config is changed.
        tok: its tokenizer with the chat template; its end token is changed.
        stops: ids of the tokens that ended answers, the most frequent first.
    """
    if not stops:
        return
    known = model.generation_config.eos_token_id
    before = [] if known is None else [known] if isinstance(known, int) else list(known)
    both = list(dict.fromkeys([*stops, *before]))
    model.generation_config.eos_token_id = both if len(both) > 1 else both[0]
    name, old = tok.convert_ids_to_tokens(stops[0]), tok.eos_token
    if name == old:
        return
    rendered = _renderings(tok)
    tok.eos_token = name
    if _renderings(tok) != rendered:
        tok.eos_token = old
        log.info("the tokenizer keeps %s as its end token, because the chat template writes it elsewhere", old)


def _renderings(tok: Any) -> list[str]:  # noqa: ANN401
    template = ChatTemplate(tok)
    return [
        template.render(talk, tokenize=False, add_generation_prompt=asked) for talk in _TALKS for asked in (False, True)
    ]
