"""How the samples of a packed row are kept apart. The way is found by trying it on the loaded model.

Transformers recognises samples by `position_ids` that restart, and makes attention masks from them. Not every model
does: ALiBi takes distances from an attention mask, a recurrent layer carries its state on, and flash attention reads
positions only in a batch of one row. Then samples see each other, without an error. So before the first step, three
samples are packed into one row. The logits of the last sample must be the same as without the others. They must not
change when the two others are replaced by other samples. The first of these ways that meets both conditions is used:

    positions   position_ids that restart with each sample
    borders     also the borders between samples (`cu_seq_lens_q` and `seq_idx`, for kernels), with all rows joined
    mask        a mask of the tokens that each token sees, [rows, 1, tokens, tokens]
    alone       one sample in each row, padded at its end; no token of the sample sees the padding

`alone` computes the same rows with the same losses, but in several smaller batches. So the steps do not change.
"""

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gristmill.cluster.contract.errors import RunError
from gristmill.training.data import packing
from gristmill.training.data.packing import Row
from gristmill.training.tuning.model import Precision

log = logging.getLogger(__name__)

Way = Literal["positions", "borders", "mask", "alone"]
WAYS: tuple[Way, ...] = ("positions", "borders", "mask", "alone")
APART = "packed samples do not see each other"
PROBED = 256
"""Largest number of tokens in the trial row."""
TOLERANCES: Mapping[Precision, tuple[float, float]] = {
    "fp32": (1e-5, 1e-3),
    "fp16": (1e-2, 1e-1),
    "bf16": (5e-2, 2.5e-1),
}
"""Two limits for the logits of the last sample, by precision. The first is for their change, at one token, when the
samples before are replaced. The second is for their difference, over all tokens, from the logits of the sample alone.
Both are root mean squares, as shares of the root mean square of the logits. In bf16 the order of sums makes the second
0.05 on a model of 30 layers; on architectures that leak it is 0.4 and more."""


@dataclass(frozen=True, slots=True)
class Separation:
    """The way in which samples are kept apart, and the measurements of each way that was tried."""

    way: Way
    tried: Mapping[Way, float] = field(default_factory=dict)
    """Relative difference of the logits by way; infinite if the model does not support the way."""

    @property
    def reason(self) -> str:
        """The way in words, with the reason for it."""
        if self.way == "positions":
            return APART
        seen = f"packed samples would see each other in this model (logits differ by {self.tried['positions']:.2g})"
        how = {
            "borders": "it is handed their borders",
            "mask": "it is handed a mask",
            "alone": "each sample gets a row of its own, which is slower",
        }
        return f"{seen}: {how[self.way]}"


def batches(rows: Sequence[Row], way: Way, rounds: int = 0) -> list[dict[str, NDArray[np.int64]]]:
    """Return packed rows as batches of arrays. All batches together have the losses of the rows.

    Args:
        rows: token ids, labels and positions of each row, without padding.
        way: how samples are kept apart.
        rounds: smallest number of batches. Workers that share a model's weights must all compute the same number.

    Returns:
        Batches with `input_ids`, `labels`, `position_ids` and `sample`, each [rows, longest]. `sample` is the index of
        a token's sample among all samples of the rows. Batches that are added to reach `rounds` have no labels.
    """
    if way == "alone":
        samples = _samples(rows)
        made = []
        for group in _groups(rows):
            batch = packing.batch([samples[place] for place in group])
            batch["sample"] = np.broadcast_to(np.array(group)[:, None], batch["input_ids"].shape)
            made.append(batch)
        unlabelled = {name: array[:1, :1] for name, array in made[0].items()}
        unlabelled["labels"] = np.full((1, 1), packing.IGNORED)
        return made + [unlabelled] * (rounds - len(made))
    if way == "borders":
        ids, labels, positions = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        rows = [(ids, labels, positions)]
    batch = packing.batch(rows)
    begins = batch["position_ids"] == 0
    counts = np.array([int((positions == 0).sum()) for _, _, positions in rows])
    batch["sample"] = begins.cumsum(axis=1) - 1 + (np.cumsum(counts) - counts)[:, None]
    return [batch]


def num_batches(rows: Sequence[Row]) -> int:
    """Return the number of batches of `batches(rows, "alone")`."""
    return len(_groups(rows))


def _samples(rows: Sequence[Row]) -> list[Row]:
    """Return the samples of packed rows."""
    found: list[Row] = []
    for row in rows:
        starts = np.flatnonzero(row[2] == 0)[1:]
        found += zip(*(np.split(array, starts) for array in row), strict=True)
    return found


def _groups(rows: Sequence[Row]) -> list[list[int]]:
    """Return groups of indices of samples, the longest sample first; no padded group is larger than the padded rows."""
    room = len(rows) * max(len(ids) for ids, _, _ in rows)
    lengths = [len(ids) for ids, _, _ in _samples(rows)]
    groups: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= room:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def inputs(model: Any, batch: Mapping[str, Any], way: Way) -> dict[str, Any]:  # noqa: ANN401
    """Return the arguments of a model for a batch of tensors, without `logits_to_keep`."""
    import torch

    names = parameters(model)
    args: dict[str, Any] = {"input_ids": batch["input_ids"]}
    if "use_cache" in names:
        args["use_cache"] = False
    if way == "alone":
        return args
    args["position_ids"] = positions = batch["position_ids"]
    begins = positions == 0
    if way == "borders":
        starts = torch.nonzero(begins[0]).flatten().int()
        borders = torch.cat([starts, torch.tensor([positions.shape[1]], dtype=torch.int32, device=positions.device)])
        longest = int(borders.diff().max())
        args |= {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders, "max_length_q": longest, "max_length_k": longest}
        args["seq_idx"] = (begins.cumsum(dim=1) - 1).int()
    if way == "mask":
        args["attention_mask"] = _masks(model, begins.cumsum(dim=1))
    return args


def _masks(model: Any, number: Any) -> Any:  # noqa: ANN401
    """Return the mask to add to attention scores, [rows, 1, tokens, tokens], from the number of each token's sample.

    For a model with sliding windows in some of its layers, return masks by the name of the kind of layer.

    Raises:
        ValueError: when the model's layers hide tokens in a way that is not known here.
    """
    import torch

    config, dtype = inner(model).config.get_text_config(), next(model.parameters()).dtype
    seen = (number[:, :, None] == number[:, None, :]).tril()
    window = getattr(config, "sliding_window", None)
    by_layer = {"full_attention": seen}
    if window:
        by_layer["sliding_attention"] = seen & ~seen.new_ones(seen.shape).tril(-int(window))
    masks = {
        name: torch.where(allowed, 0.0, torch.finfo(dtype).min).to(dtype)[:, None] for name, allowed in by_layer.items()
    }
    if not window:
        return masks["full_attention"]
    if not set(getattr(config, "layer_types", None) or ["?"]) <= {*masks}:
        raise ValueError("its layers slide a window in a way that is not known here")
    return masks


def parameters(model: Any) -> frozenset[str]:  # noqa: ANN401
    """Return the names of the arguments of a model of transformers, also inside DeepSpeed and PEFT."""
    return frozenset(inspect.signature(inner(model).forward).parameters)


def inner(model: Any) -> Any:  # noqa: ANN401
    """Return the model of transformers inside of DeepSpeed and PEFT."""
    found = getattr(model, "module", model)
    return found.get_base_model() if hasattr(found, "get_base_model") else found


def choose(model: Any, precision: Precision, *, length: int, rows: int, device: Any) -> Separation:  # noqa: ANN401
    """Return how the samples of a packed row are kept apart in a model; it takes about ten small forward passes.

    The model computes in evaluation mode and draws no random numbers. Workers that share its weights must all call
    this.

    Args:
        model: a causal language model, or a DeepSpeed engine of one.
        precision: the precision in which the model computes.
        length: largest number of tokens in a packed row.
        rows: number of packed rows that are computed at once.
        device: the model's device.

    Raises:
        RunError: when the logits of a sample alone change with the padding after it.
    """
    import torch

    training = model.training
    model.eval()
    with torch.no_grad():
        found = _Probe(model, precision, length, rows, device).found()
    model.train(training)
    log.info("samples are kept apart by %s: %s", found.way, dict(found.tried))
    return found


class _Probe:
    """A trial of the ways on a model: three samples in a packed row, and the last of them alone."""

    def __init__(self, model: Any, precision: Precision, length: int, rows: int, device: Any) -> None:  # noqa: ANN401
        self._model, self._precision, self._device = model, precision, device
        total = min(length, PROBED)
        sizes = [max(1, int(total * share)) for share in (0.4, 0.37)]
        sizes.append(max(1, total - sum(sizes)))
        rng, allowed = np.random.default_rng(0), plain_tokens(model)
        self._last = rng.choice(allowed, sizes[2])
        self._before = [[rng.choice(allowed, size) for size in sizes[:2]] for _ in range(2)]
        self._rows = rows

    def found(self) -> Separation:
        alone = self._logits([self._row([self._last])], "alone")
        scale = _size(alone - alone.mean(dim=-1, keepdim=True))
        change, difference = TOLERANCES[self._precision]
        tried: dict[Way, float] = {}
        for way in WAYS[:-1]:
            try:
                one, other = (self._logits(self._packed(before), way) for before in self._before)
            except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as error:
                log.info("the model does not take %s: %s", way, error)
                tried[way] = float("inf")
                continue
            exchanged, shifted = _size(one - other, dim=-1) / scale, _size(one - alone) / scale
            tried[way] = max(exchanged, shifted)
            if exchanged <= change and shifted <= difference:
                return Separation(way, tried)
        padded = self._logits([self._row([self._last]), self._row([self._before[0][0]])], "alone")
        tried["alone"] = _size(padded - alone) / scale
        if not tried["alone"] <= difference:
            raise RunError(
                f"train: the logits of a sample change by {tried['alone']:.2g} with the padding after it, must not "
                "change; the model sees the tokens that it should predict, so take a causal language model"
            )
        return Separation("alone", tried)

    def _packed(self, before: list[NDArray[np.int64]]) -> list[Row]:
        """Return the packed rows. All except the first lack their first sample, so that they are padded."""
        return [self._row([*before[min(n, 1) :], self._last]) for n in range(self._rows)]

    def _row(self, samples: list[NDArray[np.int64]]) -> Row:
        ids = np.concatenate(samples).astype(np.int32)
        return ids, ids, np.concatenate([np.arange(len(sample)) for sample in samples]).astype(np.int32)

    def _logits(self, rows: list[Row], way: Way) -> Any:  # noqa: ANN401
        """Return the float32 logits of the last sample in each row that has it, [rows, tokens, vocabulary]."""
        import torch

        count = len(self._last)
        ends = np.cumsum([len(ids) for ids, _, _ in rows])
        if way == "alone":  # the last sample's row comes with rows of other lengths
            longest = packing.batch(rows)
            batch = {"input_ids": torch.from_numpy(longest["input_ids"]).to(self._device)}
            logits = self._model(**inputs(self._model, batch, way)).logits.float()
            return logits[:1, :count]
        arrays = batches(rows, way)[0]
        batch = {name: torch.from_numpy(array).to(self._device) for name, array in arrays.items()}
        logits = self._model(**inputs(self._model, batch, way)).logits.float()
        if way == "borders":
            return torch.cat([logits[:, end - count : end] for end in ends.tolist()])
        return torch.stack([logits[n, len(row[0]) - count : len(row[0])] for n, row in enumerate(rows)])


def _size(values: Any, dim: int | tuple[int, int] = (1, 2)) -> float:  # noqa: ANN401
    """Return the largest root mean square, computed over the dimensions `dim` of [rows, tokens, vocabulary]."""
    return float(values.square().mean(dim=dim).sqrt().max())


def plain_tokens(model: Any) -> NDArray[np.int64]:  # noqa: ANN401
    """Return ids of ordinary tokens, without special ones."""
    config = inner(model).config.get_text_config()
    special = {
        value for name, value in config.to_dict().items() if name.endswith("token_id") and isinstance(value, int)
    }
    size = int(config.vocab_size)
    allowed = np.array([token for token in range(min(size, 4096)) if token not in special])
    return allowed[len(allowed) // 8 :]
