"""Gradient features: Adam's direction, the projection, the warm-up, and dot products that are weighted cosines."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.selection.relevance import gradients
from gristmill.selection.relevance.gradients import GradientEncoder, Gradients, Sketch, TargetGradients, Warmup, warm_up

TEXTS = (
    "<|user|>\nName a river.\n<|assistant|>\nThe Rhine.",
    "<|system|>\nBe brief.\n<|user|>\nSort 3, 1, 2.\n<|assistant|>\n1, 2, 3\n<|user|>\nWhy?\n<|assistant|>\nBy size.",
    "<|user|>\n写一首短诗\n<|assistant|>\n秋风起，落叶飞。",
    "<|user|>\nName a river of Europe.\n<|assistant|>\nThe Rhone.",
    "<|user|>\nOnly a question",
)
WARMUP = Warmup(epochs=2, batch=2, r=2, alpha=8, lr=1e-2)


@pytest.fixture(scope="module")
def settings(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Gradients:
    """A warmed-up model; its matrices have 1,792 numbers, so that 2,048 sums project them without loss."""
    folder = tmp_path_factory.mktemp("warm") / "checkpoints"
    plain = Gradients(model=tiny, warmup=WARMUP, dim=2048)
    warm_up(plain, TEXTS, folder)
    return plain.model_copy(update={"checkpoints": str(folder)})


def targets_of(settings: Gradients) -> TargetGradients:
    return TargetGradients(**dict(settings))


def test_the_direction_is_what_adam_would_do_next() -> None:
    import torch

    torch.manual_seed(1)
    weight = torch.nn.Parameter(torch.randn(50))
    optimizer = torch.optim.AdamW([weight], lr=0.1, betas=gradients.BETAS, eps=gradients.EPS, weight_decay=0)
    for _ in range(3):
        weight.grad = torch.randn(50)
        optimizer.step()
    held = optimizer.state[weight]
    before, first, second = weight.detach().clone(), held["exp_avg"].clone(), held["exp_avg_sq"].clone()
    weight.grad = torch.randn(50)
    expected = gradients.adam(weight.grad, first, second, 3)
    optimizer.step()
    torch.testing.assert_close((before - weight.detach()) / 0.1, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "expected", "cosine"),
    [
        (1e-2, [-1.227566, 0.9641656, -0.9636454], 0.9998),
        (1e-3, [-1.213738, 0.9593383, -0.9568969], 0.9154),
        (1e-4, [-0.674269, 0.6785512, -0.6182261], 0.6163),
        (1e-6, [-0.008068287, 0.009550362, -0.008058771], 0.5784),
    ],
)
def test_the_direction_beside_that_of_the_authors_code(size: float, expected: list[float], cosine: float) -> None:
    """`obtain_gradients_with_adam` of princeton-nlp/LESS, on gradients and moments of one size.

    It adds 1e-8 under the root and corrects no bias: where gradients are small, all coordinates are damped alike.
    """
    import torch

    places = torch.arange(1, 201, dtype=torch.float64)
    gradient, first = size * torch.sin(places), size * torch.cos(3 * places)
    second = (size * torch.sin(7 * places)) ** 2
    theirs = (0.9 * first + 0.1 * gradient) / torch.sqrt(0.999 * second + 0.001 * gradient**2 + 1e-8)
    np.testing.assert_allclose(theirs[:3].numpy(), expected, rtol=1e-4)
    ours = gradients.adam(gradient, first, second, 100)
    assert float(torch.nn.functional.cosine_similarity(ours, theirs, dim=0)) == pytest.approx(cosine, abs=1e-3)


def test_the_projection_keeps_dot_products() -> None:
    import torch

    torch.manual_seed(0)
    left, noise = torch.randn(2, 30_000)
    right = left + noise
    sketch = Sketch(30_000, 2048)
    short = sketch(left), sketch(right)
    cosine = float(torch.nn.functional.cosine_similarity(*short, dim=0))
    assert cosine == pytest.approx(0.5**0.5, abs=4 / 2048**0.5)
    assert float(short[0].norm() / left.norm()) == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(sketch(left), Sketch(30_000, 2048)(left))
    torch.testing.assert_close(sketch(left + 2 * right), short[0] + 2 * short[1], rtol=1e-3, atol=1e-3)


def test_the_errors_of_the_projection_are_those_of_a_random_one() -> None:
    """Mean 0 and variance (|x|²|y|² + (x·y)² - 2 Σx²y²) / d over the draws, as of a matrix of random signs."""
    import torch

    torch.manual_seed(2)
    left, right = torch.randn(2, 600)
    found = []
    for seed in range(400):
        sketch = Sketch(600, 64, seed=seed)
        found.append(float(sketch(left) @ sketch(right)))
    exact = float(left @ right)
    square = float(left @ left * (right @ right) + exact**2 - 2 * (left**2 * right**2).sum())
    spread = (square / 64) ** 0.5
    assert np.mean(found) == pytest.approx(exact, abs=4 * spread / 400**0.5)
    assert np.std(found) == pytest.approx(spread, rel=0.2)


def test_what_the_assistant_says_and_the_end_behind_it_is_trained_on(tiny: str) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny)
    for text, said in ((TEXTS[1], "1, 2, 3|By size."), (TEXTS[2], "秋风起，落叶飞。")):
        found, trained = gradients.tokens(tokenizer, text, 2048)
        mine = [token for token, mine in zip(found, trained, strict=True) if mine]
        end = tokenizer.eos_token_id
        assert tokenizer.decode([t for t in mine if t != end]) == said.replace("|", "")
        assert mine.count(end) == said.count("|") + 1
        assert tokenizer.decode(found[1:]).replace("<|im_end|>", "").rstrip() == text
    found, trained = gradients.tokens(tokenizer, TEXTS[4], 2048)
    assert all(trained)
    found, trained = gradients.tokens(tokenizer, TEXTS[0], 10)
    assert len(found) == 10
    assert all(trained)
    found, trained = gradients.tokens(tokenizer, "", 2048)
    assert len(found) >= 2


def test_the_learning_rate_rises_and_falls_and_is_never_nothing() -> None:
    rates = list(gradients.learning_rates(Warmup(epochs=4, batch=1, lr=1.0), 25))
    assert len(rates) == 100
    assert rates[:3] == [pytest.approx(1 / 3), pytest.approx(2 / 3), 1]
    assert all(left > right > 0 for left, right in pairwise(rates[2:]))
    assert list(gradients.learning_rates(Warmup(epochs=1, batch=32, lr=1.0), 5)) == [1]


def test_the_warm_up_is_the_same_again_and_a_folder_that_stands_is_left(settings: Gradients, tmp_path: Path) -> None:
    there = Path(settings.checkpoints)
    warm_up(settings, TEXTS, tmp_path / "again")
    for file in sorted(there.iterdir()):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    assert sorted(f.name for f in there.iterdir()) == ["epoch-0.safetensors", "epoch-1.safetensors", "schedule.json"]
    times = {file.name: file.stat().st_mtime_ns for file in there.iterdir()}
    warm_up(settings, TEXTS[:1], there)
    assert times == {file.name: file.stat().st_mtime_ns for file in there.iterdir()}


def test_the_warm_up_lowers_the_loss(settings: Gradients) -> None:
    encoder = GradientEncoder(settings)
    losses = []
    for place in (0, 1):
        encoder._take(place)
        tokens = [gradients.tokens(encoder._tokenizer, text, 2048) for text in TEXTS]
        losses.append(sum(gradients.mean_loss(encoder._model, *found).item() for found in tokens))
    fresh, _ = gradients.load(settings)
    untrained = sum(gradients.mean_loss(fresh.eval(), *found).item() for found in tokens)
    assert untrained > losses[0] > losses[1]


def test_dot_products_are_the_cosines_of_the_checkpoints_weighted_by_their_learning_rates(settings: Gradients) -> None:
    """InfAdam of the paper, equation 3, from whole gradients taken here one by one."""
    import json

    import torch
    from safetensors.torch import load_file

    schedule = json.loads((Path(settings.checkpoints) / "schedule.json").read_text())
    model, tokenizer = gradients.load(settings)
    model.eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in parameters) <= settings.dim
    expected = np.zeros((len(TEXTS), len(TEXTS)))
    for place, (rate, steps) in enumerate(zip(schedule["rates"], schedule["steps"], strict=True)):
        held = load_file(Path(settings.checkpoints) / f"epoch-{place}.safetensors")
        torch.nn.utils.vector_to_parameters(held["weights"], parameters)
        plain = []
        for text in TEXTS:
            model.zero_grad()
            gradients.mean_loss(model, *gradients.tokens(tokenizer, text, 2048)).backward()
            plain.append(torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None]))
        moved = [gradients.adam(g, held["first"], held["second"], steps) for g in plain]
        for row, sample in enumerate(moved):
            for column, target in enumerate(plain):
                cosine = torch.nn.functional.cosine_similarity(sample, target, dim=0)
                expected[row, column] += rate / sum(schedule["rates"]) * float(cosine)
    samples = GradientEncoder(settings).encode(TEXTS)
    targets = GradientEncoder(targets_of(settings)).encode(TEXTS)
    assert samples.shape == (len(TEXTS), 2 * settings.dim)
    np.testing.assert_allclose(np.linalg.norm(samples, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(samples @ targets.T, expected, atol=1e-4)
    assert expected[0, 3] > expected[0, 2]


def test_a_feature_depends_on_its_own_text_alone(settings: Gradients) -> None:
    encoder = GradientEncoder(settings)
    np.testing.assert_allclose(encoder.encode(TEXTS[::-1])[::-1], encoder.encode(TEXTS), atol=1e-6)
    assert encoder.encode([]).shape == (0, encoder.dim)
    assert np.isfinite(encoder.encode([""])).all()


def test_what_cannot_be_trained_or_is_not_there_is_refused(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"checkpoints: \(empty\) holds no checkpoints of a warm-up"):
        GradientEncoder(Gradients(model=tiny))
    with pytest.raises(JobError, match=r"target_modules: not in"):
        warm_up(Gradients(model=tiny, warmup=Warmup(target_modules=("c_attn",))), TEXTS, tmp_path / "none")


def test_samples_and_targets_share_a_warm_up_but_no_vectors(settings: Gradients) -> None:
    target = targets_of(settings)
    assert target.checkpoints == settings.checkpoints
    assert target.trained_on("x") == settings.trained_on("x") != settings.trained_on("y")
    assert target.fingerprint() != settings.fingerprint()
    assert settings.fingerprint() == settings.model_copy(update={"actors": 5, "gpus": 1.0}).fingerprint()
