"""Whatever the architecture, a sample in a packed row has the losses that it has alone."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gristmill.cluster.contract.errors import RunError
from gristmill.training.data import packing
from gristmill.training.data.chat import EncodedChats
from gristmill.training.data.prepare import Bins
from gristmill.training.loop import losses, separation
from gristmill.training.loop.separation import Way
from tests.training.loop.architectures import tiny

SOME: dict[str, Way] = {
    "llama": "positions",
    "gemma2": "positions",
    "opt": "mask",
    "gpt_oss": "mask",
    "falcon": "mask",
    "bloom": "alone",
    "mamba": "alone",
    "qwen3_next": "alone",
}
LENGTHS = (40, 23, 31, 7, 12, 2, 28, 35)


def samples() -> EncodedChats:
    rng = np.random.default_rng(0)
    total = sum(LENGTHS)
    ids, trained = rng.integers(3, 128, total).astype(np.int32), rng.random(total) < 0.6
    trained[np.cumsum(LENGTHS) - 1] = True
    return EncodedChats(ids, trained, np.array(LENGTHS, np.int64), np.arange(len(LENGTHS)), {}, {}, ())


def losses_alone(model: Any, encoded: EncodedChats) -> list[float]:
    """Summed losses of samples that are given to the model one by one, by nothing but their ids."""
    import torch
    from torch.nn.functional import cross_entropy

    found, end = [], 0
    for length in encoded.lengths.tolist():
        ids = torch.from_numpy(encoded.ids[end : end + length].astype(np.int64))
        trained = torch.from_numpy(encoded.trained[end : end + length])
        end += length
        with torch.no_grad():
            logits = model(ids[None]).logits[0].float()
        each = cross_entropy(logits[:-1], ids[1:], reduction="none")
        found.append(float(each[trained[1:]].sum()))
    return found


def difference(model: Any, way: Way) -> float:
    """The largest difference of a sample's mean loss packed from that alone, in nats a token."""
    encoded = samples()
    bins = Bins([packing.bins_table(encoded, packing.fit(encoded.lengths, 96))])
    packed, tokens = losses.sample_losses(model, bins, len(LENGTHS), way)
    return float(np.abs((packed - np.array(losses_alone(model, encoded))) / tokens).max())


@pytest.mark.parametrize("name", SOME)
def test_packed_samples_have_the_losses_that_they_have_alone(name: str) -> None:
    model = tiny(name)
    found = separation.choose(model, "fp32", length=96, rows=1, device="cpu")
    assert found.way == SOME[name]
    assert difference(model, found.way) < 1e-4
    if found.way != "positions":
        assert difference(model, "positions") > 1e-2, "this architecture does not leak: the test cannot fail"
        assert "packed samples would see each other in this model" in found.reason


@pytest.mark.parametrize("name", ["llama", "opt", "mamba"])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_way_is_the_same_in_bf16_and_for_several_rows_at_once(name: str, rows: int) -> None:
    found = separation.choose(tiny(name, "bfloat16"), "bf16", length=96, rows=rows, device="cpu")
    assert found.way == SOME[name]


def test_trying_draws_no_random_number_and_leaves_the_mode(name: str = "llama") -> None:
    import torch

    model = tiny(name).train()
    before = torch.get_rng_state()
    separation.choose(model, "fp32", length=96, rows=1, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


def made_of(look: Any) -> Any:
    """A model whose logits at a token follow from the sums that `look` makes of the embedded tokens."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.embed = torch.nn.Embedding(128, 8)
            text = SimpleNamespace(vocab_size=128, to_dict=dict)
            self.config = SimpleNamespace(get_text_config=lambda: text)

        def forward(self, input_ids: Any, position_ids: Any = None, seq_idx: Any = None, **kernels: Any) -> Any:
            return SimpleNamespace(logits=look(self.embed(input_ids), seq_idx) @ self.embed.weight.T)

    return Model().eval()


def test_a_kernel_that_reads_borders_gets_them() -> None:
    def carried(values: Any, seq_idx: Any) -> Any:
        """A state that is carried on, and begins anew at borders that are told."""
        import torch

        rows, tokens, _ = values.shape
        number = torch.zeros(rows, tokens) if seq_idx is None else seq_idx
        seen = (number[:, :, None] == number[:, None, :]).tril().float()
        return seen @ values

    assert separation.choose(made_of(carried), "fp32", length=64, rows=1, device="cpu").way == "borders"
    assert separation.choose(made_of(carried), "fp32", length=64, rows=2, device="cpu").way == "borders"


def test_a_model_that_sees_what_it_should_predict_is_refused() -> None:
    both_sides = made_of(lambda values, _: values + values.mean(dim=1, keepdim=True))
    with pytest.raises(RunError, match="sees the tokens that it should predict"):
        separation.choose(both_sides, "fp32", length=64, rows=1, device="cpu")
