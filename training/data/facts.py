"""Checks of a model's files before training: enough positions, and an embedding row for every token.

Without these checks both faults are found late. A token without a row gives an index error inside the model. Positions
beyond the model's limit give no error at all.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gristmill.cluster.models import names as models

POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length")
"""Names of the number of positions in model configs. A model with none of them has no limit."""
BUILTIN = {models.SMOLLM2: {"max_position_embeddings": 8192, "vocab_size": 49152}}
"""The limits of builtin models. Their folders, which would have these values, are made only at their first use."""


def problems(model: str, max_length: int) -> list[str]:
    """Return the problems of a model's files, or of `max_length` tokens, as `key: what is, what must be`.

    A model on a hub is not looked up here. `problems_of` checks it after its tokenizer is loaded.
    """
    folder = Path(model).expanduser()
    config = BUILTIN.get(model) or _json(folder / "config.json")
    return problems_of(model, config, num_tokens(_json(folder / "tokenizer.json")), max_length)


def problems_of(model: str, config: Mapping[str, Any], tokens: int, max_length: int) -> list[str]:
    """Return the reasons why a model's config does not fit its tokenizer or the samples.

    Args:
        model: the model's name, for the messages.
        config: the model's config.
        tokens: number of tokens of its tokenizer.
        max_length: largest number of tokens in a sample.
    """
    found = []
    positions = num_positions(config)
    if positions and max_length > positions:
        found.append(f"max_length: {max_length} tokens, must be at most {positions}, the positions that {model} has")
    rows = num_rows(config)
    if rows and tokens > rows:
        found.append(
            f"model: {model}: its tokenizer has {tokens} tokens, must have at most {rows}, the rows of its embedding; "
            "call resize_token_embeddings of transformers on the model, or take the tokenizer that belongs to it"
        )
    return found


def num_positions(config: Mapping[str, Any]) -> int | None:
    """Return the number of positions of a model, or None if its config states none."""
    inner = models.text_config(config)
    return next((inner[name] for name in POSITIONS if isinstance(inner.get(name), int) and inner[name] > 0), None)


def num_rows(config: Mapping[str, Any]) -> int | None:
    """Return the number of rows of a model's embedding, or None if its config states none."""
    inner = models.text_config(config)
    rows = inner.get("vocab_size", config.get("vocab_size"))
    return rows if isinstance(rows, int) else None


def num_tokens(tokenizer: Mapping[str, Any]) -> int:
    """Return the highest token id of a `tokenizer.json` plus one, or 0 if it has no tokens."""
    model, added = tokenizer.get("model"), tokenizer.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    ids += range(len(vocabulary)) if isinstance(vocabulary, list) else []
    ids += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    return max((one for one in ids if isinstance(one, int)), default=-1) + 1


def _json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or an empty one if it cannot be read; loading the model gives the error."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
