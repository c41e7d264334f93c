"""Leading blocks shared by many texts: found where they are, left alone where copies or short openers only look so."""

import random

import numpy as np
import pyarrow as pa
import pytest

from gristmill.selection.duplicates import shared

WORDS = [f"w{n}" for n in range(5000)]


def content(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def tails(values: list[str]) -> list[str]:
    array = pa.array(values, pa.large_string())
    blocks = shared.find([(np.arange(len(values)), array)], len(values))
    begin = shared.starts(array, blocks)
    own: list[str] = shared.own_texts(array, begin).to_pylist()
    assert own == [v.encode()[b:].decode() for v, b in zip(values, begin, strict=True)]
    return own


@pytest.mark.parametrize("length", [16, 61, 240, 243, 247])
def test_a_shared_prompt_is_set_apart_to_the_word(length: int) -> None:
    rng = random.Random(length)
    prompt, others = content(rng, length), [content(rng, 40) for _ in range(300)]
    mine = [content(rng, rng.randrange(1, 16)) for _ in range(700)]
    assert tails([f"{prompt}\n\n{m}" for m in mine] + others) == mine + others


def test_a_chinese_prompt_is_set_apart_too() -> None:
    rng = random.Random(0)
    signs = [chr(0x4E00 + n) for n in range(3000)]
    prompt = "你是一个乐于助人的助手，请认真、准确、简洁地回答下面的问题，不要编造事实，也不要重复题目。"
    mine = ["".join(rng.choices(signs, k=rng.randrange(4, 30))) for _ in range(400)]
    assert tails([prompt + m for m in mine]) == mine


def test_blocks_behind_a_block_are_found() -> None:
    rng = random.Random(0)
    prompt, tasks = content(rng, 100), [content(rng, 20), content(rng, 30), ""]
    mine = [content(rng, 12) for _ in range(900)]
    assert tails([f"{prompt} {tasks[n % 3]} {m}" for n, m in enumerate(mine)]) == mine


def test_a_text_that_stands_there_a_thousand_times_is_no_block() -> None:
    rng = random.Random(0)
    hot = content(rng, 60)
    texts = [hot] * 1000 + [content(rng, 60) for _ in range(1000)]
    assert tails(texts) == texts


def test_nothing_is_stripped_to_nothing_and_a_short_block_stays() -> None:
    rng = random.Random(0)
    prompt = content(rng, 40)
    mine = [content(rng, 5) for _ in range(300)]
    texts = [f"{prompt} {m}" for m in mine] + [prompt, f"{prompt}  \n"]
    assert tails(texts) == [*mine, prompt, f"{prompt}  \n"]
    opener = "Write a short poem of four lines about the following: "
    texts = [opener + content(rng, 30) for _ in range(300)]
    assert tails(texts) == texts


def test_few_texts_with_one_beginning_share_no_block() -> None:
    rng = random.Random(0)
    texts = [f"{content(random.Random(1), 40)} {content(rng, 5)}" for _ in range(19)]
    texts += [content(rng, 45) for _ in range(500)]
    assert tails(texts) == texts


def test_batches_in_any_order_give_the_same_blocks() -> None:
    rng = random.Random(0)
    prompt = content(rng, 50)
    texts = pa.array([f"{prompt} {content(rng, 9)}" for _ in range(500)], pa.large_string())
    rows = np.arange(500)
    whole = shared.find([(rows, texts)], 500)
    parts = [(rows[n : n + 100], texts.slice(n, 100)) for n in (300, 0, 400, 100, 200)]
    again = shared.find(parts, 500)
    assert whole.hashes.tolist() == again.hashes.tolist()
    assert len(whole.hashes) == 1


def test_without_texts_there_are_no_blocks() -> None:
    assert tails([]) == []
    assert tails([""]) == [""]
