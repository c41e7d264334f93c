"""Windows of labelled texts: their table, batches of them, and their losses in a model."""

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.cluster.contract.sample import Sample
from gristmill.training.data.packing import IGNORED, TYPES, WINDOWS
from gristmill.training.loop.noise import noisy
from gristmill.training.loop.separation import inner
from gristmill.training.tasks.contracts import Answered, Labelled, Task, Window

if TYPE_CHECKING:
    from gristmill.training.data.prepare import Bins
    from gristmill.training.tasks.heads import Head


def table(windows: Sequence[Labelled], samples: Sequence[int], weights: NDArray[np.float32] | None) -> pa.Table:
    """Return windows as a WINDOWS table.

    Args:
        windows: the windows.
        samples: index of each window's sample.
        weights: weight of each window in the loss; 1 by default.
    """
    each = np.ones(len(windows), np.float32) if weights is None else weights
    trained = np.array([one.trained for one in windows], np.int64)
    columns = {
        "input_ids": [one.window.ids for one in windows],
        "labels": [one.labels for one in windows],
        TYPES: [one.window.types for one in windows],
        "samples": [[sample] for sample in samples],
        "weights": [[float(weight)] for weight in each],
        "trained": trained,
        "weight": trained * each.astype(np.float64),
    }
    return pa.Table.from_arrays([pa.array(columns[f.name], f.type) for f in WINDOWS], schema=WINDOWS)


def batch(rows: Sequence[Mapping[str, Any]], padding: int) -> dict[str, NDArray[np.int64]]:
    """Return `input_ids`, `token_type_ids`, `attention_mask` and `position_ids` of windows, [rows, longest].

    `labels` too, if the windows have some, [rows, longest]. Shorter windows are padded at their end. `position_ids` is
    not for the model, which may count in another way; in the padding it begins at 0 again.
    """
    longest = max(len(row["input_ids"]) for row in rows)
    shape = (len(rows), longest)
    out = {
        "input_ids": np.full(shape, padding, np.int64),
        TYPES: np.zeros(shape, np.int64),
        "attention_mask": np.zeros(shape, np.int64),
        "position_ids": np.zeros(shape, np.int64),
    }
    for at, row in enumerate(rows):
        size = len(row["input_ids"])
        out["input_ids"][at, :size] = row["input_ids"]
        out[TYPES][at, :size] = row[TYPES]
        out["attention_mask"][at, :size] = 1
        out["position_ids"][at, :size] = np.arange(size)
        out["position_ids"][at, size:] = np.arange(longest - size)
    if "labels" in rows[0]:
        most = max(len(row["labels"]) for row in rows)
        out["labels"] = np.full((len(rows), most), IGNORED, np.int64)
        for at, row in enumerate(rows):
            out["labels"][at, : len(row["labels"])] = row["labels"]
    return out


def inputs(model: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    """Return the arguments of a model for a batch. Segments are for models that have more than one."""
    own = inner(model)
    names = inspect.signature(own.forward).parameters
    args = {"input_ids": tensors["input_ids"], "attention_mask": tensors["attention_mask"]}
    if TYPES in names and (getattr(own.config, "type_vocab_size", 0) or 0) > 1:
        args[TYPES] = tensors[TYPES]
    return args


def tensors_of(arrays: Mapping[str, NDArray[np.int64]], device: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return arrays as tensors on a device."""
    import torch

    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def row_losses(
    model: Any,  # noqa: ANN401
    task: Task,
    bins: "Bins",
    places: NDArray[np.int64],
    smoothing: float = 0.0,
    alpha: float = 0.0,
) -> Any:  # noqa: ANN401 - a tensor
    """Return the loss of each of some windows, [windows], without the weights of their samples.

    Args:
        model: a model with the head of the task, or an engine of one.
        task: the task.
        bins: the windows.
        places: indices of windows.
        smoothing: share of each label that is spread over all outputs.
        alpha: size of the noise on the embeddings; 0 for none.
    """
    rows = [{name: bins.column(name, int(p)) for name in ("input_ids", TYPES, "labels")} for p in places]
    arrays = batch(rows, padding_of(model))
    held = tensors_of(arrays, inner(model).device)
    with noisy(inner(model), arrays, alpha):
        return task.losses(model(**inputs(model, held)), held, smoothing)


def summed(
    model: Any,  # noqa: ANN401
    task: Task,
    bins: "Bins",
    places: NDArray[np.int64],
    smoothing: float = 0.0,
    alpha: float = 0.0,
) -> Any:  # noqa: ANN401 - a tensor
    """Return the sum of the losses of some windows, each times the weight of its sample; arguments as `row_losses`."""
    import torch

    losses = row_losses(model, task, bins, places, smoothing, alpha)
    return losses.sum() if bins.alike else (losses * torch.from_numpy(bins.weights(places)).to(losses)).sum()


def logits(model: Any, task: Task, windows: Sequence[Window], at_once: int = 32) -> list[NDArray[np.float64]]:  # noqa: ANN401
    """Return the logits of each window: [outputs], or [tokens, outputs], or begin and end of answers, [tokens, 2].

    Windows of like lengths are computed together.
    """
    import torch

    found: dict[int, NDArray[np.float64]] = {}
    order = sorted(range(len(windows)), key=lambda place: len(windows[place].ids))
    for start in range(0, len(order), at_once):
        some = order[start : start + at_once]
        arrays = batch([{"input_ids": windows[n].ids, TYPES: windows[n].types} for n in some], padding_of(model))
        with torch.no_grad():
            out = model(**inputs(model, tensors_of(arrays, model.device)))
        if task.head == "QuestionAnswering":
            values = torch.stack((out.start_logits, out.end_logits), dim=-1)
        else:
            values = out.logits
        for place, row in zip(some, values.double().cpu().numpy(), strict=True):
            found[place] = row if row.ndim == 1 else row[: len(windows[place].ids)]
    return [found[place] for place in range(len(windows))]


def answers(
    head: "Head", samples: Sequence[Sample], windows: Sequence[Sequence[Window]], every: Sequence[NDArray[np.float64]]
) -> list[Answered]:
    """Return the answer about each sample.

    Args:
        head: the head.
        samples: the samples.
        windows: the windows of each.
        every: logits of these windows in their order; further ones are not read.
    """
    found, start = [], 0
    for sample, some in zip(samples, windows, strict=True):
        logits_ = every[start : start + len(some)]
        found.append(head.task.answer(logits_, head.task.asked(sample), some, head.names))
        start += len(some)
    return found


def padding_of(model: Any) -> int:  # noqa: ANN401
    """Return the token that pads windows."""
    return int(inner(model).config.get_text_config().pad_token_id or 0)
