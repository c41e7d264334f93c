"""Each way of tuning trains what it says, and the finished adapter with the base is the model that was trained."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from gristmill.cluster.contract.errors import RunError
from gristmill.training.tuning import AnyTuning
from gristmill.training.tuning import model as models
from gristmill.training.tuning.contracts import Tuning

LORA = {"kind": "lora", "r": 4, "alpha": 8}


def tuning(**settings: Any) -> Tuning:
    made: Tuning = TypeAdapter[Tuning](AnyTuning).validate_python(settings)
    return made


def trained(tiny: str, chosen: Tuning) -> Any:
    """Return the model, after a few steps of what is to be trained."""
    import torch

    model = models.trainable(models.load(tiny, "fp32"), chosen, 0, recompute=False)
    first = models.initial(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.3)
    ids = torch.tensor([range(30, 60)])
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, first


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dropout": 0.1, "target_modules": ["q_proj", "v_proj"]},
        {"rslora": True},
        {"dora": True},
        {"init": "pissa"},
        {"init": "pissa", "rslora": True},
    ],
    ids=str,
)
def test_an_adapter_with_the_base_and_the_merged_model_are_the_model_that_was_trained(
    settings: dict[str, Any], tiny: str, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoTokenizer

    chosen = tuning(**LORA, **settings)
    model, first = trained(tiny, chosen)
    models.write_adapter(model, chosen.exported(models.initial(model), first), tmp_path / "adapter")
    targets = json.loads((tmp_path / "adapter/adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(targets) != [], "the same file from each process"
    whole, difference = models.merged(models.adapted(models.load(tiny, "fp32"), tmp_path / "adapter"), range(30, 60))
    assert difference < 1e-4
    models.write_model(whole, AutoTokenizer.from_pretrained(tiny), [257], tmp_path / "merged")
    ids = torch.tensor([range(30, 60)])
    with torch.no_grad():
        wanted = model.eval()(input_ids=ids).logits
        found = models.load(str(tmp_path / "merged"), "fp32").eval()(input_ids=ids).logits
        base = models.load(tiny, "fp32").eval()(input_ids=ids).logits
    assert (found - wanted).abs().max() < 1e-3
    assert (base - wanted).abs().max() > 1e-1, "nothing was learnt"


def test_pissa_begins_with_the_base_model_and_its_largest_singular_values(tiny: str) -> None:
    import torch

    base = models.load(tiny, "fp32")
    name = "model.layers.1.mlp.gate_proj"
    left, _, right = torch.linalg.svd(base.get_submodule(name).weight.detach(), full_matrices=False)
    values = 2.0 ** -torch.arange(len(right))
    weight = left @ torch.diag(values) @ right
    base.get_submodule(name).weight.data = weight.clone()
    model = models.trainable(base, tuning(**LORA, init="pissa"), 0, recompute=False)
    layer = model.get_base_model().get_submodule(name)
    delta = layer.get_delta_weight("default")
    assert torch.allclose(layer.get_base_layer().weight + delta, weight, atol=1e-5)
    best = left[:, :4] @ torch.diag(values[:4]) @ right[:4]
    assert (delta - best).norm() < 1e-2


def test_the_matrices_b_have_a_rate_of_their_own() -> None:
    chosen = tuning(**LORA, b_rate=16)
    assert chosen.relative_rate("base_model.model.layers.0.q_proj.lora_B.default.weight") == 16
    assert chosen.relative_rate("base_model.model.layers.0.q_proj.lora_A.default.weight") == 1
    assert chosen.said == "LoRA r=4 LoRA+"


def names_of(model: Any) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_freezing_trains_the_last_layers_and_what_matches(tiny: str) -> None:
    every = names_of(models.load(tiny, "fp32"))
    last = names_of(tuning(kind="freeze", last_layers=1).begin(models.load(tiny, "fp32")))
    assert last == {name for name in every if name.startswith("model.layers.1.")}
    both = tuning(kind="freeze", last_layers=1, train=[r"model\.norm.*", r".*\.0\..*q_proj\.weight"])
    assert names_of(both.begin(models.load(tiny, "fp32"))) == {
        *last, "model.norm.weight", "model.layers.0.self_attn.q_proj.weight",
    }  # fmt: skip
    assert both.said == r"the last 1 layers and weights like model\.norm.*, .*\.0\..*q_proj\.weight"
    assert names_of(tuning(kind="full").begin(models.load(tiny, "fp32"))) == every


def test_what_does_not_fit_the_model_is_named(tiny: str) -> None:
    with pytest.raises(RunError, match="last_layers: 3, must be at most 2"):
        tuning(kind="freeze", last_layers=3).begin(models.load(tiny, "fp32"))
    with pytest.raises(RunError, match=r"model\.norm matches no weight .* such as .*model\.norm\.weight"):
        tuning(kind="freeze", train=["model.norm"]).begin(models.load(tiny, "fp32"))
    for wrong, said in (
        ({"kind": "freeze"}, "nothing is trained"),
        ({"kind": "freeze", "train": ["("]}, "must be a regular expression"),
        ({**LORA, "dora": True, "init": "pissa"}, "must be one of them"),
    ):
        with pytest.raises(ValidationError, match=said):
            tuning(**wrong)


@pytest.mark.parametrize("settings", [{"dora": True}, {"init": "pissa"}])
def test_what_begins_with_whole_weights_is_refused_where_they_are_split(settings: dict[str, Any]) -> None:
    chosen = tuning(**LORA, **settings)
    assert not list(chosen.problems(2))
    assert "zero.stage 3, must be 0, 1 or 2" in next(iter(chosen.problems(3)))


def test_dropout_is_set_in_every_part_of_a_model_while_it_trains(tmp_path: Path, tiny: str) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=260, n_embd=16, n_head=2, n_layer=1, attn_pdrop=0.3))
    gpt2.save_pretrained(str(tmp_path))
    ids = torch.tensor([range(30, 60)])
    for folder, names in ((tiny, {"attention_dropout"}), (str(tmp_path), {"attn_pdrop", "embd_pdrop", "resid_pdrop"})):
        model = models.load(folder, "fp32", dropout=0.4)
        assert names <= set(models.dropouts(model.config.to_dict()))
        assert {getattr(model.config, name) for name in names} == {0.4}
        assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} <= {0.4}
        with torch.no_grad():
            once, twice = model.train()(input_ids=ids).logits, model(input_ids=ids).logits
            alone, base = (m.eval()(input_ids=ids).logits for m in (model, models.load(folder, "fp32")))
        assert (once - twice).abs().max() > 1e-3
        assert torch.equal(alone, base)
        models.reset_dropout(model.config, folder)
        assert model.config.to_dict() == models.load(folder, "fp32").config.to_dict()
