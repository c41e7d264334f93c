"""`gristmill serve`: the tuned model answers the client of OpenAI, and no process is left."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from gristmill.cluster.store.store import Manifest, Store, file_shard
from gristmill.training.tuning.model import ADAPTER, MERGED
from tests.fakes import CHATML, parrot_model

pytestmark = pytest.mark.flow
NAME, RUN = "train-0123456789ab", "rivers-01234567"
ASKED, SAYS, KEY, TOKENS = "Name a river.", "The Elbe. 易北河。", "a secret", 32
MAIN = "import sys; from gristmill.cluster.cli.main import main; sys.exit(main())"


def adapted(base: str, folder: Path) -> str:
    """Write an adapter of random numbers, and the model with it merged; return what the merged model answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer, LlamaForCausalLM

    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(0)
    loaded = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(loaded, LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", init_lora_weights=False))
    model.save_pretrained(str(folder / ADAPTER))
    whole: Any = model.merge_and_unload()
    whole.save_pretrained(str(folder / MERGED))
    tokenizer.save_pretrained(str(folder / MERGED))
    turns = [{"role": "user", "content": ASKED}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written = whole.eval().generate(**ids, max_new_tokens=TOKENS, do_sample=False)
    return str(tokenizer.decode(written[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    """A store with a run whose base model knows one answer by heart, and the answer of its tuned model."""
    root = tmp_path_factory.mktemp("serve")
    turns = [{"role": "user", "content": ASKED}]
    base = parrot_model(root / "base", CHATML, {"conversation": turns}, SAYS)
    store = Store(str(root / "runs"))
    folder = store.folder(NAME)
    answer = adapted(base, folder)
    files = [file_shard(path, folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    store.commit(Manifest(NAME, "model", "train", "0" * 32, {}, {"model": base}, tuple(files)), {})
    store.write_json({"name": "rivers", "outputs": {"train": NAME}}, "runs", RUN, "recipe.json")
    return store, answer


@contextmanager
def served(store: Store, *flags: str, **variables: str) -> Iterator[tuple[psutil.Process, str]]:
    """Start the verb as a person does, and give its process and the address that it prints when it is ready."""
    words = [sys.executable, "-c", MAIN, "serve", "rivers", "--store", store.uri, "--port", "0"]
    words += ["--engine", "kv_cache_gib=1", "--engine", "dtype=float32", *flags]
    out = subprocess.PIPE
    with subprocess.Popen(words, stdout=out, stderr=out, text=True, env={**os.environ, **variables}) as started:
        assert started.stdout and started.stderr
        said = ""
        while not (ready := re.search(r"at (http://\S+/v1)", said)):
            line = started.stdout.readline()
            assert line, said + started.stderr.read()
            said += line
        try:
            yield psutil.Process(started.pid), ready[1]
        finally:
            started.kill()


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=30)
    return not alive


def servers_of(process: psutil.Process) -> list[psutil.Process]:
    """Return the running servers of vLLM below a process."""
    found = []
    for one in process.children(recursive=True):
        with suppress(psutil.Error):
            if any("api_server" in word for word in one.cmdline()):
                found.append(one)
    return found


def say(client: Any, model: str) -> tuple[str, str]:
    """Return the likeliest answer of a model, and why it ended."""
    turns = [{"role": "user", "content": ASKED}]
    reply = client.chat.completions.create(model=model, messages=turns, temperature=0, max_tokens=TOKENS).choices[0]
    return reply.message.content, reply.finish_reason


def test_base_and_adapter_answer_under_their_names_and_a_signal_ends_all_processes(made: tuple[Store, str]) -> None:
    import openai

    store, answer = made
    with served(store, "--adapter", VLLM_API_KEY=KEY) as (process, url):
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=url, api_key="wrong").models.list()
        client = openai.OpenAI(base_url=url, api_key=KEY)
        base = store.manifest(NAME).settings["model"]
        assert [model.id for model in client.models.list().data] == [base, NAME]
        assert say(client, base) == (SAYS, "stop")
        assert say(client, NAME)[0] == answer != SAYS
        turns: Any = [{"role": "user", "content": ASKED}]
        asked = client.chat.completions.create(model=base, messages=turns, temperature=0, stream=True)
        choices = [part.choices[0] for part in asked]
        assert "".join(choice.delta.content or "" for choice in choices) == SAYS
        assert len(choices) > 5 and choices[-1].finish_reason == "stop"
        processes = [process, *process.children(recursive=True)]
        assert len(processes) >= 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert gone(processes), "processes are left"


def test_the_merged_model_answers_and_a_kill_leaves_no_process(made: tuple[Store, str]) -> None:
    import openai

    store, answer = made
    with served(store) as (process, url):
        assert say(openai.OpenAI(base_url=url, api_key="none is asked for"), NAME)[0] == answer
        children = process.children(recursive=True)
        process.kill()
        assert gone(children), "processes are left"


@pytest.mark.long
def test_replicas_behind_one_address_answer_while_one_of_them_is_killed_and_started_anew(
    made: tuple[Store, str],
) -> None:
    import openai

    store, answer = made
    with served(store, "--replicas", "2", "--engine", "cpus=1", VLLM_API_KEY=KEY) as (process, url):
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=url, api_key="wrong").models.list()
        client = openai.OpenAI(base_url=url, api_key=KEY, max_retries=5)
        turns: Any = [{"role": "user", "content": ASKED}]
        asked = client.chat.completions.create(
            model=NAME, messages=turns, temperature=0, max_tokens=TOKENS, stream=True
        )
        parts = [part.choices[0].delta.content or "" for part in asked]
        assert "".join(parts) == answer and len(parts) > 5
        servers = servers_of(process)
        assert len(servers) == 2
        servers[0].kill()
        assert all(say(client, NAME)[0] == answer for _ in range(12)), "the other replica answers"
        deadline = time.monotonic() + 120
        while len(running := servers_of(process)) < 2 or servers[0] in running:
            assert time.monotonic() < deadline, "the killed server is started anew"
            time.sleep(1)
        processes = [process, *process.children(recursive=True)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert gone(processes), "processes are left"
