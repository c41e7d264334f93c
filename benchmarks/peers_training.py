"""The other training loops of `training.py`: each yields the label tokens of a step when the step is done."""

import itertools
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gristmill.cluster.models import names
from gristmill.cluster.store.store import Store
from gristmill.training.data import prepare as data
from gristmill.training.data.packing import IGNORED


def model() -> Any:
    """Return the builtin model in fp32."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(names.local(names.SMOLLM2), dtype=torch.float32)
    loaded.config.use_cache = False
    return loaded


def rows(uri: str) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Yield ids, labels and positions of the packed rows that Gristmill trains on."""
    bins = data.Bins.open(Store(uri), "packed", data.PACKED)
    for place in range(len(bins)):
        ids, labels, positions = bins.rows(np.array([place]))[0][:3]
        yield ids.tolist(), labels.tolist(), positions.tolist()


def samples(uri: str) -> list[tuple[list[int], list[int]]]:
    """Return ids and labels of each sample, taken out of the packed rows."""
    found: list[tuple[list[int], list[int]]] = []
    for ids, labels, positions in rows(uri):
        borders = [place for place, position in enumerate(positions) if position == 0] + [len(ids)]
        found += [(ids[a:b], labels[a:b]) for a, b in itertools.pairwise(borders)]
    return found


def deepspeed(uri: str, settings: dict[str, Any]) -> Iterator[int]:
    """Train a bare loop around DeepSpeed's engine at stage 1, on the same packed rows."""
    import deepspeed as ds
    import torch

    loaded = model()
    config = {
        "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 4, "gradient_clipping": 1.0,
        "zero_optimization": {"stage": 1, "overlap_comm": False}, "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }  # fmt: skip
    ds.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    torch.distributed.init_process_group("gloo", init_method=f"file://{uri}/rendezvous", rank=0, world_size=1)
    ds.init_distributed("gloo", verbose=False)
    optimizer = torch.optim.AdamW(loaded.parameters(), lr=settings["learning_rate"], fused=True)
    engine, *_ = ds.initialize(
        model=loaded, model_parameters=list(loaded.parameters()), optimizer=optimizer, config=config
    )
    engine.train()
    seen = 0
    for number, (ids, labels, positions) in enumerate(rows(uri), 1):
        tensors = {
            name: torch.tensor([value])
            for name, value in (("input_ids", ids), ("labels", labels), ("position_ids", positions))
        }
        loss = engine(**tensors, use_cache=False).loss
        engine.backward(loss)
        engine.step()
        seen += sum(label != IGNORED for label in labels[1:])
        if number % 4 == 0:
            yield seen
            seen = 0


def _trainer(make: Callable[[Any], Any], count: Callable[[Any], int]) -> Iterator[int]:
    """Train with a trainer of transformers and yield the label tokens that its collator has handed out, by steps."""
    import queue
    import threading

    from transformers import TrainerCallback

    steps: queue.Queue[int | None] = queue.Queue(maxsize=1)
    ready, seen = threading.Event(), [0]

    class Tick(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            del args, kwargs
            steps.put(seen[0])
            ready.wait()  # the CPU time is taken in between
            ready.clear()
            seen[0] = 0

    trainer = make(Tick())
    collate = trainer.data_collator

    def counted(features: Any) -> Any:
        batch = collate(features)
        seen[0] += count(batch)
        return batch

    trainer.data_collator = counted

    def work() -> None:
        trainer.train()
        steps.put(None)

    threading.Thread(target=work, daemon=True).start()
    while (found := steps.get()) is not None:
        yield found
        ready.set()


def _labels(batch: Any) -> int:
    return int((batch["labels"][:, 1:] != IGNORED).sum())


def hf_padded(uri: str, settings: dict[str, Any]) -> Iterator[int]:
    """Train HF's Trainer on padded samples; a step has as many samples as four packed rows have on average."""
    import torch
    from transformers import Trainer, TrainingArguments

    found = samples(uri)
    random.Random(0).shuffle(found)
    each = max(1, round(len(found) / settings["steps"] / 4))

    def collate(features: list[Any]) -> dict[str, Any]:
        longest = max(len(ids) for ids, _ in features)
        batch = {
            "input_ids": [ids + [0] * (longest - len(ids)) for ids, _ in features],
            "labels": [labels + [IGNORED] * (longest - len(labels)) for _, labels in features],
            "attention_mask": [[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in features],
        }
        return {name: torch.tensor(value) for name, value in batch.items()}

    def make(tick: Any) -> Any:
        arguments = TrainingArguments(
            output_dir=f"{uri}/hf", per_device_train_batch_size=each, gradient_accumulation_steps=4, num_train_epochs=1,
            learning_rate=settings["learning_rate"], use_cpu=True, report_to=[], save_strategy="no",
            logging_steps=1000, remove_unused_columns=False, lr_scheduler_type="constant", disable_tqdm=True,
        )  # fmt: skip
        return Trainer(model=model(), args=arguments, train_dataset=found, data_collator=collate, callbacks=[tick])

    return _trainer(make, _labels)


def trl_packed(uri: str, settings: dict[str, Any]) -> Iterator[int]:
    """Train TRL's SFTTrainer with its own packing, on the same encoded samples."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    found = samples(uri)
    encoded = Dataset.from_list(
        [{"input_ids": ids, "completion_mask": [int(label != IGNORED) for label in labels]} for ids, labels in found]
    )

    def make(tick: Any) -> Any:
        arguments = SFTConfig(
            output_dir=f"{uri}/trl", per_device_train_batch_size=1, gradient_accumulation_steps=4, num_train_epochs=1,
            learning_rate=settings["learning_rate"], use_cpu=True, report_to=[], save_strategy="no", bf16=False,
            logging_steps=1000, max_length=settings["max_length"], packing=True, gradient_checkpointing=False,
            lr_scheduler_type="constant", disable_tqdm=True, completion_only_loss=True,
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(names.local(names.SMOLLM2))
        return SFTTrainer(
            model=model(), args=arguments, train_dataset=encoded, processing_class=tokenizer, callbacks=[tick]
        )

    return _trainer(make, _labels)


PEERS: dict[str, Callable[[str, dict[str, Any]], Iterator[int]]] = {
    "deepspeed": deepspeed,
    "hf-padded": hf_padded,
    "trl-packed": trl_packed,
}
