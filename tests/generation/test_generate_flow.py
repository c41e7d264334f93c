"""The generate job on real vLLM actors, small."""

import json
import os
import re
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.contract.sample import Message
from gristmill.cluster.models import engine as engines
from gristmill.cluster.models import names as models
from gristmill.cluster.models.encoder import open_embedding
from gristmill.cluster.models.engine import Choose, Engine, Reply, Request, Score, Write
from gristmill.cluster.runtime.resources import Need
from gristmill.cluster.store.store import Store
from gristmill.generation.engines.vllm import VllmEngine
from gristmill.generation.job import Generate
from gristmill.generation.methods.self_instruct.method import SelfInstruct
from tests.generation.ground import WORK, with_seeds
from tests.generation.test_generate_ray import with_logs
from tests.invariants import check_dataset

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("ray_session")]

TINY = Engine(kv_cache_gib=1, max_num_seqs=32)


def small(target: int) -> Generate:
    method = SelfInstruct(languages=("en",), num_human=4, max_tokens=48, max_answer_tokens=96)
    loose = [{"kind": "length"}, {"kind": "language"}, {"kind": "judge", "min_score": 1.5}]
    settings = {"target": target, "shard_size": 16, "engine": TINY, "methods": [method], "filters": loose}
    return Generate.model_validate(settings)


class DyingEngine(VllmEngine):
    """vLLM in a process that is killed once, when it has answered 40 requests and has others in hand."""

    marker = Path()
    answered = 0

    async def ask(self, request: Request) -> Reply:
        reply = await super().ask(request)
        self.answered += 1
        if self.answered == 40 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return reply


def dies_once(settings: Engine, marker: Path) -> DyingEngine:
    engine = DyingEngine(settings)
    engine.marker = marker
    return engine


def test_a_killed_vllm_actor_is_replaced_and_exactly_what_was_asked_for_is_made(tmp_path: Path) -> None:
    store, marker = with_seeds(Store(str(tmp_path / "store"))), tmp_path / "killed"
    run, opens = with_logs(store, tmp_path / "logs"), partial(dies_once, marker=marker)
    figures = small(24).make_on(run, WORK, opens, open_embedding)
    assert marker.exists(), "no engine died"
    rows = check_dataset(store, WORK.output, "seeds")
    kept = [row for row in rows if row.dropped is None]
    assert figures.kept == len(kept) == 24
    assert all(1 <= row.scores["judge"] <= 5 for row in kept)
    assert figures.tokens_per_s is not None and figures.tokens_per_s > 0
    assert figures.prefix_cache_hit_rate > 0.2


PERSON = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)
FRANCE = (Message("user", "What is the capital of France?"),)
REQUESTS: dict[str, Request] = {
    "plain": Write(FRANCE, max_tokens=24, seed=1),
    "forced": Choose(FRANCE, ("1", "2", "3", "4", "5"), 1, prefix="Grade: "),
    "labels": Choose(
        (Message("user", "Is it praise or blame? 'I love this film.'"),),
        (" praise", " blame", " praiseworthy", " nothing of the kind"),
        1,
        prefix="It is",
    ),
    "long": Write((Message("user", "word " * 3000),), max_tokens=8, seed=1),
    "json": Write((Message("user", "Give a person as JSON."),), max_tokens=96, seed=1, json_schema=PERSON),
    "no schema": Write(FRANCE, max_tokens=8, seed=1, json_schema='{"type": "nonsense"}'),
    "regex": Write((Message("user", "How many?"),), max_tokens=8, seed=1, regex="[0-9]{1,3} apples"),
    "user": Write((), max_tokens=60, seed=1, temperature=1.0, role="user"),
    "right": Score(FRANCE, "The capital of France is Paris."),
    "wrong": Score(FRANCE, "Bees make honey from nectar."),
    "alone": Score((), "The capital of France is Paris."),
    "likely": Write(FRANCE, max_tokens=24, seed=1, logprobs=True),
}


def of_many_words() -> Choose:
    """A request with 200 choices, each a token of its own."""
    from transformers import AutoTokenizer

    known = AutoTokenizer.from_pretrained(models.local(TINY.model)).get_vocab()
    words = sorted((token for token in known if re.fullmatch("\u0120[a-z]{4,}", token)), key=lambda token: known[token])
    choices = (" Paris", *(f" {word[1:]}" for word in words[:199]))
    return Choose(FRANCE, choices, 1, prefix="The capital of France is")


def tokens_during(actor: Any, request: Request) -> list[int]:
    """Return the tokens that an actor has counted before a request, again and again until it ends, and then."""
    import ray

    counts, asked = [ray.get(actor.stats.remote())["reply_tokens"]], actor.ask.remote(request)
    while not ray.wait([asked], timeout=0.05)[0]:
        counts.append(ray.get(actor.stats.remote())["reply_tokens"])
    return [*counts, ray.get(actor.stats.remote())["reply_tokens"]]


def test_an_engine_actor_answers_in_every_way_and_refuses_what_it_must(tmp_path: Path) -> None:
    import ray

    actor = engines.start(TINY, str(tmp_path), "asked", Need(2))
    try:
        replies = dict(zip(REQUESTS, engines.ask_all(actor, list(REQUESTS.values())), strict=True))
        assert ray.get(actor.ready.remote())["max_num_seqs"] == 32
        again, many = engines.ask_all(actor, [REQUESTS["plain"], of_many_words()])
        counts = tokens_during(actor, Write(FRANCE, max_tokens=48, seed=1, stop_loops=False))
    finally:
        ray.kill(actor)
    assert counts == sorted(counts) and counts[0] < counts[-2] <= counts[-1], "tokens count as they are made"
    assert "Paris" in replies["plain"].text and replies["plain"].text == again.text
    for name in ("forced", "labels"):
        asked = REQUESTS[name]
        assert isinstance(asked, Choose) and replies[name].text in asked.choices
        assert set(replies[name].choices) == set(asked.choices)
        assert sum(replies[name].choices.values()) == pytest.approx(1)
    assert replies["labels"].text == " praise"
    assert many.text == " Paris"
    assert many.reply_tokens == 2, "vLLM tells 128 probabilities at once"
    assert len(many.choices) == 200 and sum(many.choices.values()) == pytest.approx(1)
    assert replies["long"].finish.startswith("error: prompt has")
    assert replies["no schema"].finish.startswith("error: ")
    assert json.loads(replies["json"].text).keys() == {"name", "age"}
    assert re.fullmatch("[0-9]{1,3} apples", replies["regex"].text)
    assert replies["user"].finish == "stop" and replies["user"].text.strip()
    right, wrong, alone = (replies[name].logprob for name in ("right", "wrong", "alone"))
    assert right is not None and wrong is not None and alone is not None
    assert 0 > right > alone > wrong
    assert replies["right"].reply_tokens == 7
    assert replies["likely"].logprob is not None and replies["likely"].logprob < 0


def adapted(folder: Path) -> tuple[Any, Any]:
    """Write a LoRA adapter with random weights; return the model with it, and its tokenizer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = models.local(models.SMOLLM2)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    wanted = LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    tuned = get_peft_model(model, wanted)
    tuned.save_pretrained(str(folder))
    return tuned, AutoTokenizer.from_pretrained(base)


def log_probability(model: Any, tokenizer: Any, said: list[int]) -> float:
    """Return what transformers makes of the tokens of an answer about France."""
    import torch

    messages = [{"role": m.role, "content": m.text} for m in FRANCE]
    before = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer.encode(before, add_special_tokens=False)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *said]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return float(logits.gather(1, torch.tensor(said)[:, None]).sum())


def test_an_adapter_serves_without_a_merge_as_transformers_would(tmp_path: Path) -> None:
    import ray

    tuned, tokenizer = adapted(tmp_path / "adapter")
    settings = TINY.model_copy(update={"adapter": str(tmp_path / "adapter"), "dtype": "float32"})
    greedy = Write(FRANCE, max_tokens=8, seed=1, temperature=0.0, min_p=0.0, logprobs=True)
    actor = engines.start(settings, str(tmp_path / "logs"), "adapted", Need(2))
    try:
        reply, scored, again = engines.ask_all(actor, [greedy, REQUESTS["right"], greedy])
    finally:
        ray.kill(actor)
    said = tokenizer.encode(reply.text, add_special_tokens=False)
    said += [tokenizer.eos_token_id] * (reply.finish == "stop")
    assert len(said) == reply.reply_tokens, "the text must give the tokens back, or other tokens would be compared"
    with_it = log_probability(tuned, tokenizer, said)
    without = log_probability(tuned.unload(), tokenizer, said)
    assert reply.logprob == pytest.approx(with_it, abs=0.01)
    assert abs(with_it - without) > 1, "the adapter changes too little for the comparison to mean anything"
    assert reply.text == again.text
    assert scored.finish.startswith("error: texts cannot be scored with an adapter")
