"""The flat tensors in which ZeRO 1 to 3 holds the trained numbers: the parameters inside them, and how to split anew.

A group of parameters is one tensor, which is cut into equal parts for the workers. So another number of workers needs
other parts of the fp32 weights and of the optimizer's states. DeepSpeed's own converter (`ds_to_universal`) knows the
states of Adam only.

Where the tensors are in files (ZeRO-Infinity), DeepSpeed 0.19.8 names the files by addresses in memory, so that no
other process can continue from its checkpoints. `write_files` and `read_files` take their place.

Source: Rajbhandari et al. 2021, ZeRO-Infinity, arXiv:2104.07857.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gristmill.training.optim.pieces import Piece

FILES = "*zero_pp_rank_*_mp_rank_00_optim_states.pt"


def pieces(made: Any) -> dict[Any, list[Piece]]:  # noqa: ANN401 - an engine
    """Return the parameters inside each flat tensor of an engine at stage 1, 2 or 3; every rank must call this."""
    import torch.distributed as dist

    if made.zero_optimization_stage() < 3:
        groups = zip(made.optimizer.optimizer.param_groups, _parameters(made), strict=True)
        return {group["params"][0]: _cut(parameters, made.device) for group, parameters in groups}
    rank, world = dist.get_rank(), dist.get_world_size()
    found: dict[Any, list[Piece]] = {}
    for flat, group in zip(made.optimizer.fp32_partitioned_groups_flat, made.optimizer.fp16_groups, strict=True):
        found[flat], at = [], 0
        for number, p in enumerate(group):  # a worker has an equal part of each parameter; they follow each other
            each, begin = p.partition_numel(), rank * p.partition_numel()
            count = max(0, min(each, p.ds_numel - begin))
            found[flat].append(Piece(number, tuple(p.ds_shape), at, begin, count, world > 1, made.device))
            at += each
    return found


def _parameters(made: Any) -> list[list[Any]]:  # noqa: ANN401 - an engine
    """Return the parameters of each group; stage 1 in bf16 with sums in fp32 has a class of its own."""
    found: list[list[Any]] = getattr(made.optimizer, "bit16_groups", None) or made.optimizer.bf16_groups
    return found


def _span(p: Any) -> tuple[int, int, int]:  # noqa: ANN401 - a parameter
    """Return where this worker's part of a parameter begins in the flat tensor and in the parameter, and its size."""
    if p._hp_mapping is None:
        return 0, 0, 0
    flat, own = p._hp_mapping.hp_fragment_address, p._hp_mapping.lp_fragment_address
    return flat.start, own.start, flat.numel


def _cut(parameters: Sequence[Any], device: Any) -> list[Piece]:  # noqa: ANN401 - a device
    """Return the pieces of a group at stage 1 or 2."""
    import torch
    import torch.distributed as dist

    spans = [_span(p) for p in parameters]
    split = torch.tensor([0 < span[2] < p.numel() for span, p in zip(spans, parameters, strict=True)]).int().to(device)
    dist.all_reduce(split, op=dist.ReduceOp.MAX)
    return [
        Piece(number, tuple(p.shape), *span, split=bool(parts), device=device)
        for number, (p, span, parts) in enumerate(zip(parameters, spans, split.tolist(), strict=True))
    ]


def split_anew(made: Any, folder: Path) -> None:  # noqa: ANN401 - an engine
    """Load fp32 weights and states of the optimizer that another number of workers wrote at stage 1 or 2.

    Every rank reads its part out of the files of all ranks, which are mapped into memory.

    Args:
        made: the engine, whose own weights are loaded already.
        folder: folder with the files of the optimizer.
    """
    import torch

    paths = sorted(folder.glob(FILES), key=lambda path: int(re.findall(r"pp_rank_(\d+)", path.name)[0]))
    files = [torch.load(path, map_location="cpu", weights_only=False, mmap=True) for path in paths]
    saved = [file["optimizer_state_dict"] for file in files]
    inner, states = made.optimizer.optimizer, {}
    for number, (group, parameters) in enumerate(zip(inner.param_groups, _parameters(made), strict=True)):
        (flat,) = group["params"]
        given = [one["base_optimizer_state"]["state"].get(number, {}) for one in saved]
        spans = [one["param_slice_mappings"][number] for one in saved]
        named = [(made.optimizer.param_names[p], _span(p)) for p in parameters if p._hp_mapping is not None]
        weights = [one["single_partition_of_fp32_groups"][number] for one in saved]
        flat.data.copy_(_collect(named, spans, weights, torch.zeros_like(flat, device="cpu")))
        states[number] = {name: value for of in given for name, value in of.items()}  # of a parameter, or of all
        for name, value in given[0].items():
            if name != "step" and "." not in name and torch.is_tensor(value):
                parts, empty = [of[name] for of in given], torch.zeros(flat.shape, dtype=value.dtype)
                states[number][name] = _collect(named, spans, parts, empty)
    inner.load_state_dict({"state": states, "param_groups": saved[0]["base_optimizer_state"]["param_groups"]})
    if "loss_scaler" in saved[0]:
        made.optimizer._load_global_state(saved[0])


def _collect(
    named: Sequence[tuple[str, tuple[int, int, int]]],
    spans: Sequence[Mapping[str, Any]],
    parts: Sequence[Any],
    flat: Any,  # noqa: ANN401 - a tensor
) -> Any:  # noqa: ANN401 - a tensor
    """Return a flat tensor of this worker, filled out of those of other workers.

    Args:
        named: the name of each parameter of which this worker has a part, and the part's span.
        spans: for each of the others, where the parts of parameters are in its tensor, by name.
        parts: the tensors of the others.
        flat: the tensor to fill.
    """
    import torch

    for name, (at, begin, count) in named:
        pairs = zip(parts, spans, strict=True)
        whole = torch.cat([one[of[name].start : of[name].start + of[name].numel] for one, of in pairs if name in of])
        flat[at : at + count] = whole[begin : begin + count]
    return flat


def in_files(made: Any) -> bool:  # noqa: ANN401 - an engine
    """Return whether the states of an engine's optimizer are in files."""
    return bool(getattr(made.optimizer, "swap_optimizer", False))


def write_files(made: Any, folder: Path) -> None:  # noqa: ANN401 - an engine
    """Write fp32 weights and states of an optimizer whose tensors are in files; every rank writes its own part."""
    import torch

    found = []
    for flat in _each(made):
        states = {name: _copy(value) for name, value in made.optimizer.optimizer.state[flat].items()}
        found.append((_copy(flat.data), states))
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"groups": found, "loss_scaler": made.optimizer.loss_scaler}, _path(folder))


def read_files(made: Any, folder: Path) -> None:  # noqa: ANN401 - an engine
    """Load what `write_files` wrote for this rank, also into the weights of the model; every rank must call this."""
    import torch

    outer = made.optimizer
    saved = torch.load(_path(folder), map_location="cpu", weights_only=False, mmap=True)
    for number, (flat, (weights, states)) in enumerate(zip(_each(made), saved["groups"], strict=True)):
        flat.data.copy_(weights)
        outer.optimizer.state[flat] = {name: _copy(value) for name, value in states.items()}
        outer._reassign_or_swap_out_partitioned_parameters(number)
    outer.loss_scaler = saved["loss_scaler"]
    if outer.persistent_parameters:  # small ones, of which each rank has the whole too
        outer.persistent_parameters[0].partition(outer.persistent_parameters)
        outer.persistent_parameters[0].all_gather(outer.persistent_parameters)


def _path(folder: Path) -> Path:
    import torch.distributed as dist

    return folder / f"rank-{dist.get_rank()}.pt"


def _copy(value: Any) -> Any:  # noqa: ANN401 - a tensor or a number
    return value.clone() if hasattr(value, "clone") else value


def _each(made: Any) -> Iterator[Any]:  # noqa: ANN401 - an engine
    """Yield the flat tensors of the optimizer one after the other, each in memory with its states while it is used."""
    outer = made.optimizer
    for number, flat in enumerate(outer.fp32_partitioned_groups_flat):
        moves = outer._swappable_optimizer_subgroup(number)  # small ones stay in memory
        if moves:
            outer._optimizer_states_and_gradient_swap_in(number)
        yield flat
        if moves:
            outer._optimizer_states_and_gradient_swap_out(number)
