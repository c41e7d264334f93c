"""The generate job on real vLLM actors, small."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from cluster import engine as engines
from cluster.engine import Engine, Request
from cluster.sample import Message
from cluster.store import Store
from generation.job import Generate
from generation.methods.self_instruct import SelfInstruct
from tests.generation.test_generate import WORK, with_seeds
from tests.generation.test_generate_ray import with_logs
from tests.invariants import check_dataset

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("ray_session")]

TINY = Engine(kv_cache_gib=1, max_num_seqs=32)


def small(target: int) -> Generate:
    method = SelfInstruct(languages=("en",), num_human=4, max_tokens=48, max_answer_tokens=96)
    loose = [{"kind": "length"}, {"kind": "language"}, {"kind": "novelty"}, {"kind": "judge", "min_score": 1.5}]
    settings = {"target": target, "shard_size": 16, "engine": TINY, "methods": [method], "filters": loose}
    return Generate.model_validate(settings)


def test_vllm_makes_exactly_what_was_asked_for(tmp_path: Path) -> None:
    store = with_seeds(Store(str(tmp_path / "store")))
    figures = small(16).make(with_logs(store, tmp_path / "logs"), WORK)
    rows = check_dataset(store, WORK.output, "seeds")
    assert figures["kept"] == 16
    assert figures["reply_tokens_per_s"] > 0
    assert figures["prefix_cache_hit_rate"] > 0.2
    assert all(1 <= row.scores["judge"] <= 5 for row in rows if row.dropped is None)


def kill_the_engine_once(store: Store, killed: list[int]) -> None:
    """Kill the engine actor's process as soon as it has committed a shard."""
    from ray.util.state import list_actors

    while not store.committed(WORK.output, "raw-"):
        time.sleep(0.2)
    alive = list_actors(filters=[("class_name", "=", "Worker"), ("state", "=", "ALIVE")])
    killed.append(int(alive[-1]["pid"]))
    os.kill(killed[0], signal.SIGKILL)


def test_a_killed_vllm_actor_is_replaced_and_every_invariant_holds(tmp_path: Path) -> None:
    store, killed = with_seeds(Store(str(tmp_path / "store"))), list[int]()
    threading.Thread(target=kill_the_engine_once, args=(store, killed), daemon=True).start()
    figures = small(24).make(with_logs(store, tmp_path / "logs"), WORK)
    assert killed
    assert figures["kept"] == 24
    check_dataset(store, WORK.output, "seeds")


def test_an_engine_actor_answers_refuses_and_chooses(tmp_path: Path) -> None:
    import ray

    actor = engines.start(TINY, str(tmp_path), "asked", cpus=2, gpus=0)
    question = (Message("user", "What is the capital of France?"),)
    plain = Request(question, max_tokens=24, seed=1)
    forced = Request(question, max_tokens=1, seed=1, prefix="Grade: ", choices=("1", "2", "3", "4", "5"))
    long = Request((Message("user", "word " * 3000),), max_tokens=8, seed=1)
    try:
        replies = engines.ask_all(actor, [plain, forced, long, plain])
        assert ray.get(actor.ready.remote())["max_num_seqs"] == 32
        with pytest.raises(ray.exceptions.RayTaskError, match="must be one token of its own"):
            engines.ask_all(actor, [Request(question, max_tokens=1, seed=1, choices=("unquestionably", "no"))])
        again = engines.ask_all(actor, [plain])
    finally:
        ray.kill(actor)
    assert "Paris" in replies[0].text
    assert replies[1].text in forced.choices
    assert sum(replies[1].choices.values()) == pytest.approx(1)
    assert set(replies[1].choices) == set(forced.choices)
    assert replies[2].finish.startswith("error: prompt has")
    assert again[0].text == replies[0].text
