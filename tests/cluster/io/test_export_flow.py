"""Export: TRL trains on what is written, one step for each of its trainers."""

import copy
import os
from pathlib import Path
from typing import Any

import pytest

from gristmill.cluster.contract.sample import to_table
from gristmill.cluster.io.export import export
from gristmill.cluster.io.ingest import Source, read
from gristmill.cluster.store.store import Manifest, Store
from tests.cluster.io.conftest import CALLING, OTHER_TOOLS, THINKING
from tests.paths import EXAMPLES

pytestmark = pytest.mark.flow
CALLS_TOO = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name + (c.function.arguments | tojson) }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def small() -> dict[str, Any]:
    """A random model of two layers, the settings of one step, and the tokenizer of the builtin model."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from gristmill.cluster.models.names import SMOLLM2, local

    tokenizer = AutoTokenizer.from_pretrained(local(SMOLLM2))
    tokenizer.chat_template = CALLS_TOO  # its own fails on turns without a content
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return {"model": LlamaForCausalLM(config), "processing_class": tokenizer}


ONE_STEP: dict[str, Any] = {
    "max_steps": 1,
    "per_device_train_batch_size": 2,
    "max_length": 128,
    "use_cpu": True,
    "bf16": False,
    "report_to": [],
    "save_strategy": "no",
}


def test_trl_trains_on_messages_with_calls_and_thoughts(store: Store, tmp_path: Path, load: Any, small: Any) -> None:
    from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]  # trl's names are made when they are asked for

    rows = [*read(Source(path=(str(EXAMPLES / "seeds.jsonl"),))), CALLING, OTHER_TOOLS, THINKING]
    entry = store.commit_shard("all-1", "shard-00000", to_table(rows))
    store.commit(Manifest("all-1", "samples", "ingest", "f", {}, {}, (entry,)))
    export(store, "all-1", tmp_path / "out", "jsonl")
    rows = load(tmp_path / "out").select_columns(["messages", "tools"])
    trainer = SFTTrainer(args=SFTConfig(output_dir=str(tmp_path / "trl"), **ONE_STEP), train_dataset=rows, **small)
    result = trainer.train()
    assert result.global_step == 1
    assert 5 < result.training_loss < 20  # a random model of 49,152 words starts near ln(49152) = 10.8


def test_trl_tunes_by_preference_on_the_pairs(store: Store, rich: str, tmp_path: Path, load: Any, small: Any) -> None:
    from trl import DPOConfig, DPOTrainer  # type: ignore[attr-defined]  # as above

    export(store, rich, tmp_path / "out", "preference")
    settings = DPOConfig(output_dir=str(tmp_path / "trl"), **ONE_STEP)
    before = copy.deepcopy(small["model"])  # without it TRL asks a hub for it by its name
    trainer = DPOTrainer(args=settings, ref_model=before, train_dataset=load(tmp_path / "out"), **small)
    result = trainer.train()
    assert result.global_step == 1
    assert abs(result.training_loss - 0.6931) < 0.01  # before a step both models are one: -log(1/2)


def test_trl_tunes_by_feedback_without_pairs(store: Store, rich: str, tmp_path: Path, load: Any, small: Any) -> None:
    from trl import KTOConfig, KTOTrainer  # type: ignore[attr-defined]  # as above

    export(store, rich, tmp_path / "out", "feedback")
    rows = load(tmp_path / "out")
    assert sorted(rows["label"]) == [False, True]
    settings = KTOConfig(output_dir=str(tmp_path / "trl"), **ONE_STEP)
    before = copy.deepcopy(small["model"])
    trainer = KTOTrainer(args=settings, ref_model=before, train_dataset=rows, **small)
    result = trainer.train()
    assert result.global_step == 1
    assert abs(result.training_loss - 0.5) < 0.01  # before a step both models are one: 1 - sigmoid(0)
