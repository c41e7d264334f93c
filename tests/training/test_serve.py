"""What `gristmill serve` refuses before anything starts, and with what it starts the server."""

import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.cli.main import main
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.models.engine import engine_need, server
from gristmill.cluster.refresh.registry import Aliases, Line
from gristmill.cluster.store.store import Manifest, Store, file_shard
from gristmill.training import serve

NAME = "train-0123456789ab"


def put(store: Store, **config: Any) -> Path:
    """Write what decides how a model is served, without its weights."""
    folder = store.folder(NAME)
    merged = folder / "merged"
    merged.mkdir(exist_ok=True)
    facts = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 1024, **config}
    (merged / "config.json").write_text(json.dumps(facts))
    (merged / "chat_template.jinja").write_text("{{ '<tool_call>' }}")
    files = [file_shard(path, folder) for path in sorted(merged.rglob("*")) if path.is_file()]
    base = "builtin:smollm2-135m-instruct"
    store.commit(Manifest(NAME, "model", "train", "0" * 32, {}, {"model": base}, tuple(files)), {})
    for run, outputs in (("rivers-01", {"train": NAME}), ("lakes-01", {}), ("seas-01", {"train": "train-00"})):
        store.write_json({"name": run, "outputs": outputs}, "runs", run, "recipe.json")
    return folder


def refusal(store: Store, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    code = main(["serve", *words, "--store", store.uri])
    said = capsys.readouterr()
    assert code in (1, 2) and said.out == "" and "Traceback" not in said.err
    (line,) = said.err.splitlines()
    return line


def test_what_cannot_be_served_is_one_clear_line(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    folder = put(store)
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        for words, must in (
            (("lakes",), "trains no model, must have a section [train]"),
            (("seas",), "its train job has not ended"),
            (("ponds",), "nothing begins with 'ponds'"),
            (("rivers", "--port", str(port)), "Address already in use, must be an address of this machine and a free"),
            (("rivers", "--port", "70000"), "--port 70000: must be between 0 and 65535"),
            (("rivers", "--host", "nowhere.invalid"), "must be an address of this machine"),
            (("rivers", "--adapter"), "has no adapter"),
            (("rivers", "--api-key-env", "NO_SUCH_KEY"), "NO_SUCH_KEY: the variable is not set"),
            (("rivers", "--engine", "colour=red"), "must read KEY=VALUE with a key of cpus,"),
            (("rivers", "--engine", "model=other"), "must read KEY=VALUE with a key of cpus,"),
            (("rivers", "--engine", "max_model_len=0"), "--engine max_model_len: 0, input should be greater than 0"),
        ):
            assert must in refusal(store, capsys, *words)
    (folder / "adapter").mkdir()
    (folder / "adapter/adapter_config.json").write_text('{"r": 8, "use_dora": true}')
    assert "a DoRA adapter, which vLLM cannot load" in refusal(store, capsys, "rivers", "--adapter")
    (folder / "merged/config.json").write_text("{}")
    assert "config.json: has another size than the manifest" in refusal(store, capsys, "rivers")
    (folder / "merged/config.json").unlink()
    assert "config.json: is absent, but in the manifest" in refusal(store, capsys, "rivers")
    put(store, architectures=["LlamaForSequenceClassification"])
    assert "LlamaForSequenceClassification writes no text" in refusal(store, capsys, "rivers")


def test_the_server_gets_the_engine_settings_and_the_parsers_of_the_template(store: Store) -> None:
    folder = put(store)
    (folder / "adapter").mkdir()
    (folder / "adapter/adapter_config.json").write_text('{"r": 20}')
    model = serve.trained(store, "rivers")
    given = [
        "args.gpu_memory_utilization=0.5",
        "max_num_seqs=7",
        "gpus=0",
        "chat_template_kwargs.enable_thinking=false",
    ]
    engine, names = serve.settings(model, given, adapter=False)
    assert engine.max_model_len == 1024, "the model has no more positions"
    words, variables = server(engine, names, ("127.0.0.1", 8123), engine_need("x", engine, 1))
    line = " ".join(words)
    for part in (
        f"--model {folder}/merged --served-model-name {NAME} --host 127.0.0.1 --port 8123",
        "--max-model-len 1024 --max-num-seqs 7",
        "--no-enable-chunked-prefill",
        "--generation-config auto",
        "--gpu-memory-utilization 0.5",
        "--tool-call-parser hermes --enable-auto-tool-choice",
        '--default-chat-template-kwargs {"enable_thinking": false}',
    ):
        assert part in line, line
    assert variables["VLLM_CPU_KVCACHE_SPACE"] == "2" and "API_KEY" not in line
    engine, names = serve.settings(model, [], adapter=True)
    assert (engine.model, engine.adapter) == ("builtin:smollm2-135m-instruct", str(folder / "adapter"))
    assert (names.name, names.base, names.tokenizer) == (NAME, "smollm2-135m-instruct", str(folder / "merged"))


def test_a_key_is_asked_for_when_its_variable_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.setenv("OTHER", "secret")
    assert serve.api_key("") == ""
    assert serve.api_key("OTHER") == "secret"
    monkeypatch.setenv("VLLM_API_KEY", "usual")
    assert serve.api_key("") == "usual"


SERVER = """
import http.server, sys
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Health).serve_forever()
"""


def test_a_line_is_served_by_its_name_and_its_next_champion_takes_over(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(store)
    line, second = Line(store, "mill"), "train-ba9876543210"
    shutil.copytree(folder, store.folder(second), dirs_exist_ok=True)
    store.write_json({**store.read_json(second, "manifest.json"), "name": second}, second, "manifest.json")
    assert main(["serve", "mill", "--store", store.uri]) == 2, "there is no such line yet"
    line.write(Aliases())
    with pytest.raises(JobError, match="its champion is the base model"):
        serve.champion(line)
    line.write(Aliases(champion=NAME))
    served: list[str] = []
    said: list[str] = []

    def command(offer: serve.Offer, need: object, address: tuple[str, int]) -> tuple[list[str], dict[str, str]]:
        del need
        served.append(f"{offer.served.name} {Path(offer.engine.model).parent.name}")
        return [sys.executable, "-c", SERVER, str(address[1])], {**os.environ}

    def say(text: str) -> None:
        said.append(text)
        if "Ctrl-C ends it" in text and len(served) == 2:
            raise KeyboardInterrupt
        if "Ctrl-C ends it" in text:
            line.write(Aliases(champion=second, previous=NAME))

    monkeypatch.setattr(serve.Offer, "command", command)
    monkeypatch.setattr(serve, "_say", say)
    assert main(["serve", "mill", "--port", "0", "--store", store.uri]) == 0
    assert served == [f"mill {NAME}", f"mill {second}"]
    assert f"serve: mill: {second} is the champion now, its server starts" in said
