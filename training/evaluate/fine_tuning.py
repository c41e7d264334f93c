"""Fine-tuning of an encoder with a head on labelled texts, to confirm or contradict the result of the probe.

Source: AdamW with a warm-up, no decay of biases and norms, and enough steps for few texts: Mosbach et al. 2021, On the
Stability of Fine-tuning BERT, arXiv:2006.04884, section 6. Departures: fewer steps by default; the head reads the mean
of the last layer, as in the training of the encoder; the token embeddings, most of a multilingual model, are frozen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.settings import Settings
from gristmill.cluster.models import dtypes
from gristmill.cluster.models import names as models
from gristmill.training.evaluate.probe import Floats, Ints

WARMUP = 0.1
DECAY, MAX_NORM = 0.01, 1.0
AT_ONCE = 64
"""Number of texts in one forward pass when the model labels texts."""


class Confirm(Settings):
    """`[lift.confirm]`: fine-tuning that must agree with the probe before an arm is recommended."""

    model: str = models.E5
    """The encoder that is fine-tuned with a new head: `builtin:…`, a folder, or the name of a model on a hub."""
    steps: int = Field(default=120, gt=0)
    """Number of optimizer steps, the same for each arm."""
    batch: int = Field(default=16, gt=0)
    """Number of texts in one step."""
    learning_rate: float = Field(default=5e-5, gt=0)
    """The highest learning rate. The rate reaches it after a tenth of the steps, and then falls to 0."""
    runs: int = Field(default=3, ge=3)
    """Number of runs for each arm. They differ in the head's first values, the order of the texts and the dropout."""
    max_tokens: int = Field(default=128, gt=1)
    """Largest number of tokens that are read of a text; the rest is cut off."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts as token ids."""

    ids: Sequence[Sequence[int]]
    """Token ids of each text."""
    padding: int
    """The token id that pads the shorter texts of a batch."""

    def batch(self, rows: Ints) -> tuple[Any, Any]:
        """Return the token ids of some texts, and a mask that is 0 at padding, both [rows, tokens of the longest]."""
        import torch

        longest = max(len(self.ids[row]) for row in rows)
        ids = torch.full((len(rows), longest), self.padding)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(self.ids[row])] = torch.tensor(self.ids[row])
            mask[place, : len(self.ids[row])] = 1
        return ids, mask


def read(texts: Sequence[str], settings: Confirm) -> Texts:
    """Return texts as token ids.

    Raises:
        JobError: when the model's tokenizer cannot be loaded.
    """
    from transformers import AutoTokenizer

    tokenizer = _loaded(AutoTokenizer, settings)
    ids = tokenizer([text or " " for text in texts], truncation=True, max_length=settings.max_tokens)["input_ids"]
    return Texts(ids, tokenizer.pad_token_id or 0)


@dataclass(frozen=True, slots=True)
class Learned:
    """Labelled texts to train on."""

    places: Ints
    """[m] rows of the texts."""
    labels: Ints
    """[m] number of each text's label."""
    weights: Floats
    """[m] weight of each text in the loss."""
    num_labels: int


def fine_tune(texts: Texts, learned: Learned, items: Ints, settings: Confirm, run: int) -> Ints:
    """Fine-tune a model on labelled texts, and return the labels that it gives to other texts, [items].

    On one machine, the same arguments give the same labels. Weights are in float32. Matrix products are computed in the
    type that is fastest on the machine.

    Args:
        texts: all texts.
        learned: the texts to train on.
        items: numbers of the texts to label.
        settings: the model, and how it is trained.
        run: number of the run, which is the seed of all random numbers.
    """
    import torch

    torch.manual_seed(run)
    model = _model(settings, learned.num_labels)
    optimizer = torch.optim.AdamW(_groups(model.parameters), lr=settings.learning_rate)
    order = _order(len(learned.places), settings.steps * settings.batch, run)
    model.encoder.train()
    for step in range(settings.steps):
        chosen = order[step * settings.batch : (step + 1) * settings.batch]
        rate = settings.learning_rate * _share(step, settings.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        counts = torch.tensor(learned.weights[chosen], dtype=torch.float32, device=model.device)
        losses = torch.nn.functional.cross_entropy(
            model.logits(texts, learned.places[chosen]),
            torch.tensor(learned.labels[chosen], device=model.device),
            reduction="none",
        )
        loss: Any = (losses * counts).sum() / counts.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters, MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()
    model.encoder.eval()
    by_length = np.argsort([len(texts.ids[item]) for item in items], kind="stable")
    found = np.zeros(len(items), np.int64)
    with torch.inference_mode():
        for start in range(0, len(items), AT_ONCE):
            part = by_length[start : start + AT_ONCE]
            found[part] = model.logits(texts, items[part]).argmax(dim=-1).cpu().numpy()
    return found


@dataclass(frozen=True, slots=True)
class _Model:
    """An encoder with a head."""

    encoder: Any
    head: Any
    dtype: Any
    """The type in which matrix products are computed."""

    @property
    def device(self) -> Any:  # noqa: ANN401 - of torch
        """The device of the encoder and the head."""
        return self.head.weight.device

    @property
    def parameters(self) -> list[Any]:
        """The parameters to train."""
        return [p for p in (*self.encoder.parameters(), *self.head.parameters()) if p.requires_grad]

    def logits(self, texts: Texts, rows: Ints) -> Any:  # noqa: ANN401 - a tensor
        """Return the logits of some texts, [rows, labels]. The head reads the mean of the encoder's last layer."""
        import torch

        ids, mask = (part.to(self.device) for part in texts.batch(rows))
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        taken = mask.unsqueeze(-1)
        return self.head((hidden * taken).sum(dim=1) / taken.sum(dim=1))


def _model(settings: Confirm, num_labels: int) -> _Model:
    """Return the encoder, with frozen token embeddings, and a new head."""
    import torch
    from transformers import AutoModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = _loaded(AutoModel, settings, dtype=torch.float32).to(device)
    encoder.get_input_embeddings().requires_grad_(False)
    head = torch.nn.Linear(encoder.config.hidden_size, num_labels).to(device)
    return _Model(encoder, head, getattr(torch, dtypes.choose(settings.model).dtype))


def _loaded(kind: Any, settings: Confirm, **options: Any) -> Any:  # noqa: ANN401 - classes of transformers
    try:
        return kind.from_pretrained(models.local(settings.model), **options)
    except (OSError, ValueError) as error:
        raise JobError(f"lift.confirm.model: {settings.model} cannot be loaded: {error}") from error


def _groups(parameters: Sequence[Any]) -> list[dict[str, Any]]:
    """Return parameters in two groups: matrices, which have weight decay, and the others, which have none."""
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _order(count: int, length: int, run: int) -> Ints:
    """Return `length` numbers below `count`: all numbers in a random order, then all in another one, and so on."""
    rng = np.random.default_rng(run)
    return np.concatenate([rng.permutation(count) for _ in range(-(-length // count))])[:length]


def _share(step: int, steps: int) -> float:
    """Return the rate of a step as a share of the highest rate. It rises in the warm-up, then falls linearly to 0."""
    warm = max(1, round(WARMUP * steps))
    return (step + 1) / warm if step < warm else (steps - step) / (steps - warm)
