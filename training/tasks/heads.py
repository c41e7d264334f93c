"""Models with the head of a task: loaded from a folder, described for `plan`, and described in the finished model."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.models import names as models
from gristmill.training.tasks import AnyTask, reader
from gristmill.training.tasks.contracts import Task
from gristmill.training.tasks.question_answering import QuestionAnswering
from gristmill.training.tasks.sequence_classification import SequenceClassification
from gristmill.training.tasks.token_classification import TokenClassification

if TYPE_CHECKING:
    from gristmill.training.tuning.model import Attention, Precision

SAVED = "task.json"
"""File in the folder of a finished model: `{"task": settings, "labels": […], "max_length": tokens}`."""
SHOWN = 20
"""Largest number of labels that are printed."""
USUAL_LENGTH = 512
"""Largest number of tokens in a window of a model that says nothing about it."""
SHIFTED = frozenset(
    {
        *("camembert", "data2vec-text", "ibert", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm"),
        *("xlm-roberta", "xlm-roberta-xl", "xmod"),
    }
)
"""Types of models whose first token has the position after that of padding, so that this many positions are unused."""
_TASK: TypeAdapter[Any] = TypeAdapter(AnyTask)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Head:
    """What the head of a model does."""

    task: Task
    names: tuple[str, ...]
    """The labels of the task."""
    max_length: int
    """Largest number of tokens in a window."""
    seed: int | None = None
    """Seed of the first values of the head if it is not trained yet; else None."""

    @property
    def said(self) -> str:
        """The task and its labels in words."""
        shown = ", ".join(self.names[:SHOWN]) + (", …" if len(self.names) > SHOWN else "")
        return f"{self.task.kind}, {len(self.names)} labels: {shown}" if self.names else self.task.kind


def problems(task: Task, model: str, max_length: int) -> list[str]:
    """Return the reasons why a base model cannot be trained for a task; a model on a hub is not looked up here."""
    folder = models.folder(model)
    if task.causal or folder is None:
        return []
    config = _config(folder)
    kind = str(config.get("model_type", ""))
    found = []
    if kind and not supported(task, kind):
        found.append(
            f"model: {model}: transformers has no {kind} model for {task.kind}, must be one of another type, such as "
            "bert, distilbert, xlm-roberta or llama"
        )
    positions = config.get("max_position_embeddings")
    unused = (config.get("pad_token_id") or 0) + 1 if kind in SHIFTED else 0
    if isinstance(positions, int) and positions - unused < max_length <= positions:
        found.append(
            f"max_length: {max_length} tokens, must be at most {positions - unused}; {model} has {positions} "
            f"positions, of which {unused} are for padding"
        )
    return found


def supported(task: Task, model_type: str) -> bool:
    """Return whether transformers has the head of a task for a type of models."""
    return model_type in getattr(_auto(), _MAPPINGS[task.head])


_MAPPINGS = {
    "SequenceClassification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "TokenClassification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "QuestionAnswering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
}


def _auto() -> Any:  # noqa: ANN401 - a module
    from transformers.models.auto import modeling_auto

    return modeling_auto


def auto_class(task: Task) -> Any:  # noqa: ANN401 - a class of transformers
    """Return the class of transformers that loads models of a task."""
    import transformers

    return getattr(transformers, f"AutoModelFor{task.head or 'CausalLM'}")


def load(
    folder: str,
    head: Head,
    precision: "Precision",
    attention: "Attention" = "auto",
) -> Any:  # noqa: ANN401 - the class is the model's own
    """Load a model with the head of a task. Weights that the folder does not have get first values from the seed.

    The attribute `head_weights` of the model has the names of the weights that every tuning trains: those outside of
    the base model, and those with first values. The attribute `peft_task` has PEFT's name of the task.

    Raises:
        JobError: when transformers has no such model.
    """
    import torch

    how: dict[str, Any] = {} if attention == "auto" else {"attn_implementation": attention}
    torch.manual_seed(head.seed or 0)
    try:
        loaded, found = auto_class(head.task).from_pretrained(
            folder,
            dtype={"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision],
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **head.task.config(head.names),
            **how,
        )
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        raise JobError(
            f"train.model: transformers has no model of {folder} for {head.task.kind}, must be one of another type, "
            "such as bert, distilbert, xlm-roberta or llama"
        ) from error
    if hasattr(loaded.config, "use_cache"):
        loaded.config.use_cache = False
    mismatched = [entry if isinstance(entry, str) else entry[0] for entry in found["mismatched_keys"]]
    own = {name for name, _ in loaded.named_parameters()}
    outside = {name for name in own if not name.startswith(f"{loaded.base_model_prefix}.")}
    loaded.head_weights = frozenset(outside | (own & {*found["missing_keys"], *mismatched}))
    loaded.peft_task = head.task.peft
    text = loaded.config.get_text_config()
    if text.pad_token_id is None:  # a decoder finds the last token of a text by it
        text.pad_token_id = reader.tokenizer(folder).pad_token_id
    log.info("weights of the head: %s", sorted(loaded.head_weights))
    return loaded


def ordered(names: Sequence[str], folder: str, task: Task) -> tuple[str, ...]:
    """Return labels in the order of a base model that has a head for the same labels, so that this head goes on."""
    config = _config(folder)
    own = config.get("id2label")
    if not isinstance(own, dict) or not _is_headed(config, task):
        return tuple(names)
    outputs = [own[key] for key in sorted(own, key=int)]
    kept = _labels_of(task, outputs)
    return tuple(kept) if set(kept) == set(names) and task.outputs(kept) == tuple(outputs) else tuple(names)


def save(head: Head, folder: Path) -> None:
    """Write what a finished model's head does into its folder."""
    held = {"task": head.task.model_dump(mode="json"), "labels": list(head.names), "max_length": head.max_length}
    (folder / SAVED).write_text(json.dumps(held, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def head_of(folder: str) -> Head | None:
    """Return the head of a model in a folder; None for a causal language model.

    A model of someone else has the labels of its config.
    """
    path = Path(folder) / SAVED
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        return Head(_TASK.validate_python(held["task"]), tuple(held["labels"]), held["max_length"])
    config = _config(folder)
    for task in (_classification(config), TokenClassification(), QuestionAnswering()):
        if _is_headed(config, task):
            positions = config.get("max_position_embeddings")
            own = config.get("id2label") or {}
            outputs = [own[key] for key in sorted(own, key=int)]
            length = min(USUAL_LENGTH, positions) if isinstance(positions, int) else USUAL_LENGTH
            unused = (config.get("pad_token_id") or 0) + 1 if config.get("model_type") in SHIFTED else 0
            length = min(length, positions - unused) if isinstance(positions, int) else length
            return Head(task, tuple(_labels_of(task, outputs)), length)
    return None


def _classification(config: Mapping[str, Any]) -> Task:
    return SequenceClassification(multi_label=config.get("problem_type") == "multi_label_classification")


def _is_headed(config: Mapping[str, Any], task: Task) -> bool:
    return any(str(name).endswith(f"For{task.head}") for name in config.get("architectures") or ())


def _labels_of(task: Task, outputs: Sequence[str]) -> list[str]:
    """Return the labels of a task from the names of its outputs."""
    if isinstance(task, TokenClassification):
        return list(dict.fromkeys(name.partition("-")[2] for name in outputs if "-" in name))
    return [] if isinstance(task, QuestionAnswering) else list(outputs)


def _config(folder: str) -> dict[str, Any]:
    try:
        found = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
