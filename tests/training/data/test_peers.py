"""Ids, masks and losses of 1,000 conversations are those of TRL, of Hugging Face, and of tokens joined by hand."""

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gristmill.cluster.contract.sample import Message
from gristmill.training.data import chat, packing
from gristmill.training.data.answers import Talk
from gristmill.training.data.prepare import Bins
from gristmill.training.loop.losses import sample_losses
from gristmill.training.tuning.model import load
from tests.training.data.test_chat import MARKED

COUNT = 1_000
CONTROL = ("<|im_start|>", "<|im_end|>")
PIECES = (
    "What follows seven?", "It is eight.", "请把它加一", "得到八。", "🙂", "👩‍👩‍👧", "é", "e\u0301", "  two  spaces",
    "\n\n", "\t", "def f(x):\n    return x", "<think>", "assistant", "مرحبا", "привет", "{% raw %}", "<|im_end",
    "> |", "0.5 %", "「是」",
)  # fmt: skip


def text(rng: Random, control: float) -> str:
    """A text of some pieces that ends in a letter; with the given chance it has the characters of a control token."""
    parts = [rng.choice(PIECES) for _ in range(rng.randint(1, 6))]
    if rng.random() < control:
        parts.insert(rng.randint(0, len(parts)), rng.choice(CONTROL))
    return rng.choice(("", " ")).join([*parts, rng.choice(("a", "是", "🙂"))])


def conversation(rng: Random, control: float) -> list[Message]:
    turns = [Message("system", text(rng, control))] if rng.random() < 0.3 else []
    for _ in range(rng.randint(1, 4)):
        turns += [Message("user", text(rng, control)), Message("assistant", text(rng, control))]
    return turns


def by_hand(tok: Any, turns: list[Message]) -> tuple[list[int], list[bool]]:
    """Return the ids and the mask of a ChatML conversation, put together of its parts."""
    begin, end = tok.convert_tokens_to_ids(list(CONTROL))
    ids, trained = [], []

    def add(some: list[int], *, said: bool) -> None:
        ids.extend(some)
        trained.extend([said] * len(some))

    def plain(words: str) -> list[int]:
        return [int(one) for one in tok.encode(words, add_special_tokens=False, split_special_tokens=True)]

    for turn in turns if turns[0].role == "system" else [Message("system", "You help."), *turns]:
        said = turn.role == "assistant"
        add([begin, *plain(turn.role + "\n")], said=False)
        add([*plain(turn.text), end], said=said)
        add(plain("\n"), said=False)
    return ids, trained


@pytest.fixture(scope="module")
def talks() -> list[list[Message]]:
    """800 conversations without control tokens in their texts, then 200 of which most have some."""
    rng = Random(0)
    return [conversation(rng, 0.0 if n < 800 else 0.4) for n in range(COUNT)]


@pytest.fixture(scope="module")
def encoded(tiny: str, talks: list[list[Message]]) -> chat.EncodedChats:
    return chat.encode(chat.tokenizer(tiny), [Talk(turns) for turns in talks], chat.Encoding(1024))


def pieces(encoded: chat.EncodedChats) -> list[tuple[NDArray[np.int32], NDArray[np.bool_]]]:
    ends = np.cumsum(encoded.lengths)[:-1]
    return list(zip(np.split(encoded.ids, ends), np.split(encoded.trained, ends), strict=True))


def test_ids_and_masks_are_those_put_together_by_hand(
    tiny: str, talks: list[list[Message]], encoded: chat.EncodedChats
) -> None:
    tok = chat.tokenizer(tiny)
    assert encoded.places.tolist() == list(range(COUNT)) and not encoded.drops
    assert sum(any(c in turn.text for turn in turns for c in CONTROL) for turns in talks) > 100
    for turns, (ids, trained) in zip(talks, pieces(encoded), strict=True):
        wanted, mask = by_hand(tok, turns)
        assert (ids.tolist(), trained.tolist()) == (wanted, mask), turns


@pytest.mark.flow
def test_masks_and_losses_are_those_of_trl_and_of_hugging_face(
    tiny: str, talks: list[list[Message]], encoded: chat.EncodedChats, tmp_path: Path
) -> None:
    """A text with a control token is another text for TRL, which reads it as that token."""
    import torch
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    plain = [[{"role": t.role, "content": t.text} for t in turns] for turns in talks[:800]]
    tok = chat.tokenizer(tiny)
    tok.chat_template = MARKED
    args = SFTConfig(
        output_dir=str(tmp_path), assistant_only_loss=True, max_length=1024, packing=False, use_cpu=True, bf16=False,
        per_device_train_batch_size=1, report_to=[], gradient_checkpointing=False, dataset_num_proc=None,
    )  # fmt: skip
    model = load(tiny, "fp32").eval()
    trainer: Any = SFTTrainer(
        model=load(tiny, "fp32").eval(), args=args, processing_class=tok,
        train_dataset=Dataset.from_list([{"messages": turns} for turns in plain]),
    )  # fmt: skip
    theirs: Any = trainer.train_dataset
    bins = packing.fit(encoded.lengths, 1024)
    summed, tokens = sample_losses(model, Bins([packing.bins_table(encoded, bins)]), COUNT, "positions")
    for n, (ids, trained) in enumerate(pieces(encoded)):
        labels = torch.from_numpy(np.where(trained, ids, packing.IGNORED).astype(np.int64))[None]
        given = {"input_ids": torch.from_numpy(ids.astype(np.int64))[None], "labels": labels}
        with torch.no_grad():
            loss = float(model(**given, use_cache=False).loss)
        assert summed[n] / tokens[n] == pytest.approx(loss, abs=1e-5)
        assert tokens[n] == int(trained[1:].sum())
        if n >= 800:
            continue
        row = theirs[n]
        assert row["input_ids"] == ids.tolist()
        assert [label != packing.IGNORED for label in row["labels"]] == trained.tolist()
        with torch.no_grad():
            other = float(trainer.compute_loss(trainer.model, dict(given)))
        assert summed[n] / tokens[n] == pytest.approx(other, abs=1e-5)
