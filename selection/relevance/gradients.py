"""Gradient features of LESS: a causal language model is fine-tuned on a few samples, then each sample gets a gradient.

Source: Xia et al. 2024, arXiv:2402.04333, sections 3 and 4 (definition 3.1, steps 1 and 2). Departures: gradients are
projected by a balanced count sketch, in which every coordinate is added with a random sign to one of `dim` sums of
equal size. The error of dot products is of the same order as with a Rademacher matrix, but each number takes one
addition instead of 8,192. The first step already has a learning rate above 0, so that every checkpoint has a weight.
The direction of Adam is that of the paper, with bias correction and with epsilon after the root. The authors' code adds
1e-8 under the root and has no bias correction, which gives other directions where gradients are small (simulated cosine
between the two: 0.30 at a median gradient of 1e-6, 0.91 at 1e-3).

Cost: a forward and a backward pass for each sample and checkpoint, one sample at a time. This is expensive: the paper
took 48 hours of one A100 for 270,000 samples, four checkpoints and 7 billion weights.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from gristmill.cluster.contract import ids
from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.contract.settings import Settings
from gristmill.cluster.models import names as models
from gristmill.cluster.models.encoder import Float32, unit_rows, unknown_shares

Tensor = Any
"""A tensor of torch; torch is not imported by this file."""
BETAS, EPS = (0.9, 0.999), 1e-8
"""Parameters of Adam, in the warm-up and for preconditioned gradients."""
RAMP = 0.03
"""Share of the steps of the warm-up in which the learning rate rises; in the other steps it falls to 0."""
SKETCH_SEED = 20_240_206
"""Seed of the projection. It is fixed, because features can be compared only if they are projected in the same way."""
SCHEDULE = "schedule.json"
_TURN = re.compile(r"^<\|(system|user|assistant|tool)\|>\n", re.MULTILINE)


class Warmup(Settings):
    """`[select.steps.gradients.warmup]`: the fine-tuning on a few samples, before gradients are computed."""

    share: float = Field(default=0.05, gt=0, le=1)
    """Share of the samples on which the model is trained. These are the samples with the lowest ids; ids are hashes, so
    this is a random choice."""
    epochs: int = Field(default=4, gt=0)
    """Number of passes over these samples. The model is kept after each pass, and every sample gets a gradient from
    each kept model."""
    lr: float = Field(default=2e-5, gt=0)
    """Highest learning rate of the warm-up."""
    batch: int = Field(default=32, gt=0)
    """Number of samples in one training step."""
    r: int = Field(default=128, gt=0)
    """Rank of the low-rank matrices. Only these matrices are trained; the weights of the model do not change."""
    alpha: int = Field(default=512, gt=0)
    """Scale of the low-rank matrices: their product is multiplied by alpha / r."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the inputs of the low-rank matrices that is set to 0 at random."""
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    """Names of the layers that get low-rank matrices."""
    seed: int = 0
    """Seed of the initial values of the matrices, of the order of the samples, and of the dropout."""


class Gradients(Settings):
    """`[select.steps.gradients]`: features of the samples to choose from; a feature is a direction of Adam."""

    not_identity: ClassVar[frozenset[str]] = frozenset({"actors", "cpus", "gpus"})
    preconditioned: ClassVar[bool] = True

    model: str = models.SMOLLM2
    """A causal language model. The samples that a small model chooses are useful for a large model too."""
    warmup: Warmup = Warmup()
    """Settings of the fine-tuning before gradients are computed."""
    checkpoints: str = ""
    """Folder of the fine-tuned checkpoints, which all machines must be able to read. By default the checkpoints are
    trained on the samples."""
    max_tokens: int = Field(default=2048, gt=1)
    """Most tokens of a conversation that are read; the rest is cut off."""
    dim: int = Field(default=8192, gt=0)
    """Number of dimensions to which the gradient of one checkpoint is projected."""
    dtype: Literal["float32", "float16"] = "float16"
    """Type in which the numbers of a feature are stored."""
    actors: int = Field(default=1, gt=0)
    """Number of processes that compute gradients; each loads the complete model."""
    cpus: float | None = Field(default=None, gt=0)
    """Number of cores of one actor. By default one if the actor has a GPU; else an even share of all cores, but no more
    than one machine has."""
    gpus: float | None = Field(default=None, ge=0)
    """Number of GPUs of one actor. By default one if the cluster has a GPU, else none."""

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the features, with a digest of the weights instead of their path."""
        value = super().identity()
        value["fields"]["model"] = models.identity(self.model)
        if self.checkpoints:
            value["fields"]["checkpoints"] = models.identity(self.checkpoints)
        return value

    def trained_on(self, samples: str) -> str:
        """Return the fingerprint of the checkpoints that the warm-up makes from the samples with this digest."""
        return ids.digest(models.identity(self.model), self.warmup.identity(), self.max_tokens, samples)


class TargetGradients(Gradients):
    """Settings for the features of targets: plain gradients, because LESS estimates the change of the targets' loss."""

    preconditioned: ClassVar[bool] = False


class GradientEncoder:
    """A fine-tuned model as an `Encoder` of conversations; their text must have the form of the part `chat`.

    A vector holds one part after the other: for each checkpoint i, √wᵢ times the unit vector of its projected gradient.
    So the dot product of a sample's and a target's vector is Σ wᵢ cos(sampleᵢ, targetᵢ). The weight wᵢ is in proportion
    to the mean learning rate before checkpoint i, and Σ wᵢ = 1.
    """

    def __init__(self, settings: Gradients) -> None:
        """Load the model. The matrices of a checkpoint are loaded when they are needed.

        Raises:
            JobError: when the folder of checkpoints is absent or not complete.
        """
        self._folder = Path(settings.checkpoints)
        if not settings.checkpoints or not (self._folder / SCHEDULE).is_file():
            raise JobError(
                f"gradients.checkpoints: {settings.checkpoints or '(empty)'} holds no checkpoints of a warm-up, must "
                "be a folder that all machines see; leave it out and select makes one"
            )
        schedule = json.loads((self._folder / SCHEDULE).read_text(encoding="utf-8"))
        self._rates, self._steps = schedule["rates"], schedule["steps"]
        self._settings = settings
        self._model, self._tokenizer = load(settings)
        self._model.eval()
        self._parameters = [p for p in self._model.parameters() if p.requires_grad]
        self._sketch = Sketch(sum(p.numel() for p in self._parameters), settings.dim, self._parameters[0].device)
        self.dim = settings.dim * len(self._rates)

    def encode(self, texts: Sequence[str]) -> Float32:
        """Return [texts, checkpoints x dim] unit vectors."""
        rows = np.empty((len(texts), self.dim), np.float32)
        dim = self._settings.dim
        for place, (rate, steps) in enumerate(zip(self._rates, self._steps, strict=True)):
            first, second = self._take(place)
            for row, text in enumerate(texts):
                direction = self._gradient(text)
                if self._settings.preconditioned:
                    direction = adam(direction, first, second, steps)
                short = self._sketch(direction)
                scaled = short * (math.sqrt(rate / sum(self._rates)) / short.norm().clamp_min(1e-30))
                rows[row, place * dim : (place + 1) * dim] = scaled.cpu().numpy()
        return unit_rows(rows, self._settings.model)

    def unknown(self, texts: Sequence[str]) -> Float32:
        """Return [texts] the share of each text's tokens that are not in the vocabulary."""
        return unknown_shares(self._tokenizer, texts, self._settings.max_tokens)

    def _take(self, place: int) -> tuple[Tensor, Tensor]:
        """Load the weights of a checkpoint into the model, and return Adam's two moments at the checkpoint."""
        from safetensors.torch import load_file
        from torch.nn.utils import vector_to_parameters

        device = self._parameters[0].device
        held = {name: tensor.to(device) for name, tensor in load_file(self._folder / _name(place)).items()}
        vector_to_parameters(held["weights"], self._parameters)
        return held["first"], held["second"]

    def _gradient(self, text: str) -> Tensor:
        import torch

        loss = mean_loss(self._model, *tokens(self._tokenizer, text, self._settings.max_tokens))
        return torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, self._parameters)]).float()


class Sketch:
    """A projection to `dim` numbers that keeps dot products in expectation."""

    def __init__(self, size: int, dim: int, device: Any = "cpu", seed: int = SKETCH_SEED) -> None:  # noqa: ANN401 - a device of torch
        """Draw the place and the sign of each of `size` coordinates; they are the same on every machine."""
        import torch

        drawn = torch.Generator().manual_seed(seed)
        self._size, self._shape = size, (dim, -(-size // dim))
        total = self._shape[0] * self._shape[1]
        self._places = torch.randperm(total, generator=drawn).to(torch.int32).to(device)
        self._signs = (torch.randint(0, 2, (total,), generator=drawn, dtype=torch.int8) * 2 - 1).to(device)

    def __call__(self, vector: Tensor) -> Tensor:
        """Return [dim] the projection of a vector [size]: each number is a sum of coordinates with random signs."""
        import torch

        padded = torch.nn.functional.pad(vector, (0, len(self._places) - self._size))
        return (padded.index_select(0, self._places) * self._signs).view(self._shape).sum(dim=1)


def adam(gradient: Tensor, first: Tensor, second: Tensor, steps: int) -> Tensor:
    """Return the direction of Adam's step after `steps` steps, if this is its gradient (definition 3.1)."""
    mean = (BETAS[0] * first + (1 - BETAS[0]) * gradient) / (1 - BETAS[0] ** (steps + 1))
    square = (BETAS[1] * second + (1 - BETAS[1]) * gradient**2) / (1 - BETAS[1] ** (steps + 1))
    return mean / (square.sqrt() + EPS)


def tokens(tokenizer: Any, text: str, longest: int) -> tuple[list[int], list[bool]]:  # noqa: ANN401
    """Return (token ids of a conversation in chat form, whether the model is trained on each token).

    The model is trained on the assistant's words and on the end token after them. If none of these tokens is among the
    first `longest`, it is trained on all tokens.
    """
    end = tokenizer.eos_token_id
    found = [tokenizer.bos_token_id if tokenizer.bos_token_id is not None else end]
    trained = [False]

    def add(part: str, *, mine: bool) -> None:
        new = tokenizer(part, add_special_tokens=False)["input_ids"] + ([end] if mine else [])
        found.extend(new)
        trained.extend([mine] * len(new))

    marks = list(_TURN.finditer(text))
    starts = [*(mark.start() for mark in marks), len(text)]
    add(text[: starts[0]], mine=False)
    for mark, after in zip(marks, starts[1:], strict=True):
        add(mark.group(), mine=False)
        add(text[mark.end() : after].rstrip("\n"), mine=mark[1] == "assistant")
        add("\n", mine=False)
    if len(found) == 1:  # an empty text must have something to predict
        found, trained = [*found, end], [False, True]
    found, trained = found[:longest], trained[:longest]
    return found, trained if any(trained) else [True] * len(found)


def mean_loss(model: Any, found: Sequence[int], trained: Sequence[bool]) -> Tensor:  # noqa: ANN401
    """Return the mean cross entropy (nats) of a conversation's trained tokens; the first token never counts."""
    import torch

    device = next(model.parameters()).device
    given = torch.tensor([found], device=device)
    wanted = torch.tensor(trained[1:], device=device)
    scores = model(input_ids=given).logits[0, :-1][wanted]
    return torch.nn.functional.cross_entropy(scores.float(), given[0, 1:][wanted])


def load(settings: Gradients) -> tuple[Any, Any]:
    """Return (the model with untrained low-rank matrices, its tokenizer), on the GPU if the process sees one.

    Raises:
        JobError: when the model has no layers with the names in `target_modules`.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gpu, name, warmup = torch.cuda.is_available(), models.local(settings.model), settings.warmup
    base: Any = AutoModelForCausalLM.from_pretrained(name, dtype=torch.bfloat16 if gpu else torch.float32)
    base.config.use_cache = False
    wanted = LoraConfig(
        r=warmup.r,
        lora_alpha=warmup.alpha,
        lora_dropout=warmup.dropout,
        target_modules=list(warmup.target_modules),
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(warmup.seed)
    try:
        model = get_peft_model(base, wanted)
    except ValueError as error:
        raise JobError(f"gradients.warmup.target_modules: not in {settings.model}: {error}") from error
    return model.to("cuda" if gpu else "cpu"), AutoTokenizer.from_pretrained(name)


def warm_up(settings: Gradients, texts: Sequence[str], folder: Path) -> None:
    """Fine-tune the model on conversations in chat form, and write the matrices and moments of every epoch to a folder.

    If the folder exists, nothing is done. It is complete then, because it gets its name only at the end.
    """
    import torch

    if folder.exists():
        return
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    model, tokenizer = load(settings)
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, betas=BETAS, eps=EPS, weight_decay=0.0)
    rows = [tokens(tokenizer, text, settings.max_tokens) for text in texts]
    schedule: dict[str, list[float]] = {"rates": [], "steps": []}
    rates = list(learning_rates(settings.warmup, len(rows)))
    per_epoch = len(rates) // settings.warmup.epochs
    rng = np.random.default_rng(settings.warmup.seed)
    for epoch in range(settings.warmup.epochs):
        order = rng.permutation(len(rows))
        mine = rates[epoch * per_epoch : (epoch + 1) * per_epoch]
        for place, rate in enumerate(mine):
            some = order[place * settings.warmup.batch : (place + 1) * settings.warmup.batch]
            for row in some:
                (mean_loss(model, *rows[row]) / len(some)).backward()
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        _keep(parameters, optimizer, temporary / _name(epoch))
        schedule["rates"].append(sum(mine) / len(mine))
        schedule["steps"].append((epoch + 1) * per_epoch)
    (temporary / SCHEDULE).write_text(json.dumps(schedule), encoding="utf-8")
    try:
        temporary.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(temporary)


def learning_rates(warmup: Warmup, rows: int) -> Iterator[float]:
    """Yield the learning rate of every step; it rises in the first steps, and then falls towards 0."""
    total = warmup.epochs * -(-rows // warmup.batch)
    ramp = math.ceil(RAMP * total)
    for step in range(total):
        yield warmup.lr * min((step + 1) / ramp, (total - step) / (total - ramp + 1))


def _keep(parameters: Sequence[Tensor], optimizer: Any, path: Path) -> None:  # noqa: ANN401
    import torch
    from safetensors.torch import save_file

    def flat(parts: Iterator[Tensor]) -> Tensor:
        return torch.cat([part.detach().float().reshape(-1).cpu() for part in parts])

    held = {"weights": flat(iter(parameters))}
    for name, key in (("first", "exp_avg"), ("second", "exp_avg_sq")):
        held[name] = flat(optimizer.state[p][key] for p in parameters)
    save_file(held, path)


def _name(place: int) -> str:
    return f"epoch-{place}.safetensors"
