"""Cases after public bug reports about training: rows that a template cannot take, or takes in another way."""

import itertools
import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.io.ingest import Source, ingest
from gristmill.cluster.jobs.recipe import load
from gristmill.cluster.store.store import Store
from gristmill.training.data import answers, chat, tokens
from gristmill.training.data import prepare as data
from gristmill.training.evaluate.actor import Scorer
from gristmill.training.job import Train
from tests.training.data import template_families as families
from tests.training.data import template_rows
from tests.training.data.template_families import FAMILIES

HERE = Path(__file__).parent


def of_case(number: int, name: str) -> Path:
    [folder] = HERE.glob(f"{number}-*")
    return folder / name


def prepared(store: Store, source: Path, model: str, **settings: Any) -> tuple[data.PackedCounts, list[str]]:
    """What was packed of a file, and what is trained on in each sample, decoded."""
    dataset = ingest(store, Source(path=(str(source),)))
    job = Train(model=model, validation=0.01, **settings)
    made = data.prepare(store, "train-x", {"samples": dataset}, model, job)
    tok, read = chat.tokenizer(model, job.template), []
    for prefix in (data.PACKED, data.HELDOUT):
        bins = data.Bins.open(store, "train-x", prefix)
        for place in range(len(bins)):
            ids, labels = bins.column("input_ids", place), bins.column("labels", place)
            starts = [*(bins.column("position_ids", place) == 0).nonzero()[0].tolist(), len(ids)]
            for begin, end in itertools.pairwise(starts):
                read.append(tok.decode(ids[begin:end][labels[begin:end] != -100]))
    return made, read


def test_60_a_conversation_that_the_assistant_begins_is_trained_on(store: Store, tiny: str) -> None:
    made, read = prepared(store, of_case(60, "in.jsonl"), tiny, max_length=256)
    assert (made.samples + made.holdout, made.drops) == (9, {})
    assert "Welcome to the desk. What can I do?<|im_end|>Behind the kiosk.<|im_end|>" in read


def test_61_a_label_after_a_header_that_ends_in_a_space_is_trained_on(store: Store, tmp_path: Path) -> None:
    tok = template_rows.tokenizer(FAMILIES[-1])
    tok.save_pretrained(str(tmp_path / "model"))
    template = str(of_case(61, "chat_template.jinja"))
    assert " good" in tok.decode(tok.encode("ASSISTANT: good")[-1]), "the label merges with the header here"
    made, read = prepared(store, of_case(61, "in.jsonl"), str(tmp_path / "model"), template=template)
    assert made.samples + made.holdout == 8
    assert sorted(text.strip() for text in read) == ["bad<|im_end|>"] * 4 + ["good<|im_end|>"] * 4


def test_63_a_huge_row_is_dropped_and_counted(store: Store, tiny: str, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Repeat."}, {"role": "assistant", "content": "word " * 60_000}]
    lines = [*of_case(60, "in.jsonl").read_text().splitlines()[:8], json.dumps({"messages": turns})]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    made, _ = prepared(store, tmp_path / "in.jsonl", tiny, max_length=256)
    assert (made.samples + made.holdout, made.drops) == (8, {"too long": 1})


def test_64_evaluation_encodes_as_training_did(store: Store, tiny: str, tmp_path: Path) -> None:
    rng = Random(0)
    story = [" ".join("".join(rng.choices("abcdefgh", k=rng.randint(2, 9))) for _ in range(80)) for _ in range(6)]
    rows = [
        {"messages": [{"role": "user", "content": f"Story {n}?"}, {"role": "assistant", "content": text}]}
        for n, text in enumerate(story)
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made, _ = prepared(store, tmp_path / "in.jsonl", tiny, max_length=128, too_long="truncate")
    assert (made.samples + made.holdout, made.drops) == (6, {})
    job = Train(model=tiny, max_length=128, too_long="truncate")
    held = store.read_shard("train-x", store.committed("train-x", data.HOLDOUT)[data.HOLDOUT])
    opened = Scorer(None, 1, "fp32", job.encoding).open(tiny, tokens.conversations(held))
    assert (len(opened["places"]), opened["drops"]) == (made.holdout, {})


def test_78_answers_whose_thoughts_go_once_turns_follow_are_each_trained_on(store: Store, tiny: str) -> None:
    template = str(of_case(78, "chat_template.jinja"))
    made, read = prepared(store, of_case(78, "in.jsonl"), tiny, template=template)
    assert (made.samples + made.holdout, made.drops, made.notes) == (3, {}, {answers.SPLIT: 1})
    empty = "<think>\n\n</think>\n\n"
    answered = ("Garda.", "The Baltic.", "The North Sea.", "The North Sea.")
    assert sorted(read) == [f"{empty}{answer}<|im_end|>" for answer in answered]


def test_80_a_system_turn_that_is_refused_goes_into_the_question(store: Store, tiny: str) -> None:
    template = str(of_case(80, "chat_template.jinja"))
    made, read = prepared(store, of_case(80, "in.jsonl"), tiny, template=template)
    assert (made.samples + made.holdout, made.drops, made.notes) == (3, {}, {answers.FOLDED: 1})
    assert "The North Sea.<|im_end|>The Baltic.<|im_end|>" in read


def test_82_control_tokens_in_texts_are_text(store: Store, tiny: str) -> None:
    made, read = prepared(store, of_case(82, "in.jsonl"), tiny)
    assert (made.samples + made.holdout, made.drops) == (3, {})
    assert "The text <|im_end|> ends a turn.<|im_end|>" in read


@pytest.mark.parametrize(
    ("model", "max_length", "positions"), [("builtin:smollm2-135m-instruct", 100_000, 8192), ("tiny", 1025, 1024)]
)
def test_94_a_length_beyond_the_positions_of_the_model_is_refused_in_the_plan(
    model: str, max_length: int, positions: int, tiny: str, tmp_path: Path
) -> None:
    (tmp_path / "recipe.toml").write_text(
        f'[train]\ninput = "{of_case(60, "in.jsonl")}"\nmodel = "{tiny if model == "tiny" else model}"\n'
        f"max_length = {max_length}\n"
    )
    with pytest.raises(JobError, match=f"train.max_length: {max_length} tokens, must be at most {positions}"):
        load(tmp_path / "recipe.toml")


def test_94_a_tokenizer_with_more_tokens_than_the_embedding_has_rows_is_refused(tiny: str, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "model")
    tok = chat.tokenizer(tiny)
    assert Train(model=str(tmp_path / "model")).check(tmp_path) == []
    tok.add_tokens(["<new>"])
    tok.save_pretrained(str(tmp_path / "model"))
    [problem] = Train(model=str(tmp_path / "model")).check(tmp_path)
    assert "its tokenizer has 259 tokens, must have at most 258, the rows of its embedding" in problem


def test_template_settings_that_cannot_be_are_named(tiny: str, tmp_path: Path) -> None:
    found = Train(model=tiny, template="absent.jinja", template_args={"messages": 1, "a b": 2, "fine": 3}).check(
        tmp_path
    )
    assert len(found) == 3
    assert any("absent.jinja cannot be read" in line for line in found)
    (tmp_path / "latin.jinja").write_bytes("{{ 'é' }}".encode("latin-1"))
    assert "cannot be read as UTF-8" in Train(model=tiny, template=str(tmp_path / "latin.jinja")).check(tmp_path)[0]
    assert sum(line.startswith("template_args.") for line in found) == 2


def test_the_text_of_the_template_is_part_of_the_fingerprint_and_its_place_is_not(tiny: str, tmp_path: Path) -> None:
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).write_text(text)
    first, second, other = (Train(model=tiny, template=str(tmp_path / name)).fingerprint() for name in "abc")
    assert first == second != other


@pytest.mark.parametrize("args", [{"enable_thinking": False}, {"enable_thinking": False, "words": ["a", "ü"]}])
def test_values_of_a_template_become_its_defaults(tiny: str, tmp_path: Path, args: dict[str, Any]) -> None:
    (tmp_path / "t.jinja").write_text(families.QWEN3)
    tok = chat.tokenizer(tiny, str(tmp_path / "t.jinja"), args)
    asked = [{"role": "user", "content": "Hi"}]
    text = tok.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert text.endswith("assistant\n<think>\n\n</think>\n\n")
    thinking = tok.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    assert thinking.endswith("assistant\n")
    encoded = chat.encode(tok, [answers.Talk(template_rows.conversations(FAMILIES[0], 1)[0][0])], chat.Encoding(4096))
    assert "<think>" not in tok.decode(encoded.ids[encoded.trained])
