"""A causal language model as a classifier of held-out rows."""

import json

import numpy as np
import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.sample import Message, Sample, seed, to_table
from gristmill.cluster.store.store import Store
from gristmill.training.data import chat, prepare
from gristmill.training.data.chat import Encoding
from gristmill.training.job import Train
from gristmill.training.loop import validation
from gristmill.training.loop.losses import sample_losses
from gristmill.training.tasks import choices
from gristmill.training.tuning.model import load
from tests.training.conftest import dataset

HOW = Encoding(160, "drop", "split", 0.01)
LABELS = ("bad", "not good at all", "好")


def rows(count: int) -> list[Sample]:
    made = []
    for n in range(count):
        turns = [Message("user", f"What of film {n}?"), Message("assistant", LABELS[n % 3])]
        if n % 4 == 0:
            turns = [Message("user", "Hello"), Message("assistant", "Hello!"), *turns]
        made.append(seed(turns))
    return made


def test_the_label_is_the_likeliest_whole_reply_as_transformers_rates_it(tiny: str) -> None:
    import torch

    samples = rows(10)
    tok, model = chat.tokenizer(tiny), load(tiny, "fp32").eval()
    found = choices.opened(to_table(samples), LABELS, tok, HOW)
    assert found.answers == [row.answer for row in samples] and set(found.choices) == {LABELS}
    bins = prepare.Bins([found.bins])
    assert len(bins) < 30, "nothing is packed"
    summed, _ = sample_losses(model, bins, len(found.numbers), "positions")
    said = []
    for row in samples:
        rated = []
        for label in LABELS:
            turns = [{"role": turn.role, "content": turn.text} for turn in row.messages[:-1]]
            whole = tok.apply_chat_template([*turns, {"role": "assistant", "content": label}], tokenize=False)
            begin = len(tok.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
            end = whole.index("<|im_end|>", begin) + len("<|im_end|>")
            read = tok(whole, add_special_tokens=False, return_offsets_mapping=True, return_tensors="pt")
            with torch.no_grad():
                chances = model(read["input_ids"]).logits[0].double().log_softmax(-1)
            own = [n for n, (a, b) in enumerate(read["offset_mapping"][0].tolist()) if begin < b and a < end]
            rated.append(sum(float(chances[n - 1, read["input_ids"][0, n]]) for n in own))
        said.append(LABELS[int(np.argmax(rated))])
    hits = [label == row.answer for label, row in zip(said, samples, strict=True)]
    assert 0 < sum(hits) < len(hits), "the model gives one answer to all, so nothing is tested"
    assert found.measures(summed)["accuracy"] == pytest.approx(np.mean(hits))


def test_a_row_has_its_own_choices_and_is_left_out_where_it_cannot_be_rated(tiny: str) -> None:
    own = {"choices": json.dumps(["a planet", "a star"])}
    star, neither = ([Message("user", "The sun is"), Message("assistant", text)] for text in ("a star", "a cake"))
    long = [Message("user", "very " * 200), Message("assistant", "bad")]
    samples = [*rows(2), seed(star, tags=own), seed(neither, tags=own), seed(long)]
    found = choices.opened(to_table(samples), LABELS, chat.tokenizer(tiny), HOW)
    assert found.answers == ["bad", "not good at all", "a star"]
    assert found.choices == [LABELS, LABELS, ("a planet", "a star")]
    told = validation.Labels(found, prepare.Bins([found.bins]), len(samples)).said
    assert told == "; 3 of 5 held-out rows end with a label and can be rated"
    losses = np.ones(8)
    losses[[2, 4, 7]] = 0.5  # 好, not good at all, a star
    assert found.measures(losses[found.numbers])["accuracy"] == pytest.approx(2 / 3)
    with pytest.raises(JobError, match=r"none of 1 held-out rows ends with one of its choices"):
        choices.opened(to_table(samples[-1:]), LABELS, chat.tokenizer(tiny), HOW)


def test_labels_are_all_answers_of_the_rows_and_free_text_is_refused(store: Store) -> None:
    name = dataset(store, rows(9))
    assert choices.names_of(store, [name]) == tuple(sorted(LABELS))
    other = [seed([Message("user", "What of it?"), Message("assistant", "fine")])]
    more = dataset(store, other, "select-000000000005")
    inputs = {"samples": name, "test": "absent", "validation": more}
    assert validation.names(store, inputs, Train(metric="accuracy")) == tuple(sorted((*LABELS, "fine")))
    assert validation.names(store, inputs, Train()) == ()
    free = [seed([Message("user", f"{n}?"), Message("assistant", f"it is {n}")]) for n in range(201)]
    with pytest.raises(JobError, match="have more than 200 different answers, must be labels"):
        choices.names_of(store, [dataset(store, free, "select-000000000002")])
    with pytest.raises(JobError, match="have 1 different answers, must have at least 2"):
        choices.names_of(store, [dataset(store, free[:1], "select-000000000003")])
