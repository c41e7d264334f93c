"""A trained model stops where its answers ended in training, in every family."""

import json
from pathlib import Path
from typing import Any

import pytest

from gristmill.training.data import chat
from gristmill.training.data.answers import Talk
from gristmill.training.data.chat import Encoding
from gristmill.training.tuning.model import load, write_model
from tests.training.data import template_rows
from tests.training.data.template_families import FAMILIES, Family

STOP = {family.name: family.said("")[family.said("").rfind("<") :] for family in FAMILIES}


@pytest.fixture(scope="module")
def model(tiny: str) -> Any:
    return load(tiny, "fp32")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_stop_token_is_in_the_export_and_renders_nothing_anew(family: Family, model: Any, tmp_path: Path) -> None:
    tok = template_rows.tokenizer(family)
    talks = [Talk(turns) for turns, tools in template_rows.conversations(family, 12) if not tools]
    encoded = chat.encode(tok, talks, Encoding(10_000))
    model.generation_config.eos_token_id = 7
    asked = [{"role": "user", "content": "a?"}]
    before = tok.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    write_model(model, tok, encoded.stops, tmp_path)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    stop = tok.convert_tokens_to_ids(STOP[family.name])
    assert written["eos_token_id"] == [stop, 7]
    back = chat.tokenizer(str(tmp_path))
    assert back.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) == before
    again = chat.encode(back, talks, Encoding(10_000))
    assert again.ids.tolist() == encoded.ids.tolist()
    if family.name != "phi-3":  # whose template ends conversations with the old one
        assert back.eos_token == STOP[family.name]


def test_a_model_that_stopped_elsewhere_generates_no_further_than_its_template(tiny: str, tmp_path: Path) -> None:
    """Generation of transformers reads the file: whatever token comes, if it is a stop, nothing comes after it."""
    import torch

    model, tok = load(tiny, "fp32"), chat.tokenizer(tiny)
    ids = torch.tensor([tok.encode("a b c")])
    free = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None)[0, ids.shape[1] :].tolist()
    write_model(model, tok, [free[2]], tmp_path)
    stopped = load(str(tmp_path), "fp32").generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :].tolist()
    assert stopped == free[: free.index(free[2]) + 1]
