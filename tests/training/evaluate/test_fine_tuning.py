"""Fine-tuning that confirms the probe: a tiny encoder learns, the same way each time, and what it says counts."""

from pathlib import Path

import numpy as np
import pytest

from gristmill.cluster.contract.errors import JobError
from gristmill.cluster.store.store import Store
from gristmill.training.evaluate.fine_tuning import Confirm, Learned, _order, _share, fine_tune, read
from gristmill.training.evaluate.lift import Lift
from tests.training.evaluate.reviews import reviews
from tests.training.evaluate.test_lift import measured


def test_a_fine_tuned_encoder_learns_the_labels_and_the_same_run_gives_the_same_answers(encoder: str) -> None:
    samples = [*reviews(120, 1), *reviews(200, 2)]
    labels = np.array([int(sample.answer == "good") for sample in samples])
    settings = Confirm(model=encoder, steps=80, learning_rate=3e-3)
    texts = read([sample.instruction for sample in samples], settings)
    rows, items = np.arange(120), np.arange(120, 320)
    learned = Learned(rows, labels[rows], np.ones(120), 2)
    found = fine_tune(texts, learned, items, settings, 0)
    assert (found == labels[items]).mean() > 0.8
    assert (found == fine_tune(texts, learned, items, settings, 0)).all()
    assert (found != fine_tune(texts, learned, items, settings, 1)).any()


def test_a_row_that_counts_nothing_teaches_nothing(encoder: str) -> None:
    samples = reviews(120, 1)
    labels = np.array([int(sample.answer == "good") for sample in samples])
    settings = Confirm(model=encoder, steps=10, batch=8)
    texts = read([sample.instruction for sample in samples], settings)
    rows, wrong, counts = np.arange(20), labels[:20].copy(), np.ones(20)
    counts[:5], wrong[:5] = 0.0, 1 - labels[:5]
    first = fine_tune(texts, Learned(rows, labels[:20], counts, 2), np.arange(20, 120), settings, 0)
    assert (first == fine_tune(texts, Learned(rows, wrong, counts, 2), np.arange(20, 120), settings, 0)).all()


def test_each_text_comes_once_before_any_comes_again_and_the_rate_rises_and_falls() -> None:
    order = _order(5, 12, 3)
    assert sorted(order[:5]) == sorted(order[5:10]) == [0, 1, 2, 3, 4]
    assert len(order) == 12
    shares = [_share(step, 20) for step in range(20)]
    assert shares[:3] == [0.5, 1.0, 1.0]
    assert shares[-1] == pytest.approx(1 / 18)
    assert all(0 < share <= 1 for share in shares)


def test_an_arm_is_recommended_only_where_fine_tuning_agrees(store: Store, encoder: str) -> None:
    rows = {"seeds": reviews(12, 1), "test": reviews(300, 2), "samples": reviews(150, 3)}
    agrees, _, _ = measured(Store(store.at("a")), rows, confirm={"model": encoder, "steps": 80, "learning_rate": 3e-3})
    assert (agrees["recommended"], agrees["verdict"]) == ("seeds + built", "helps")
    seeds, built = agrees["fine_tuned"]["test"]
    assert (seeds["lift"], seeds["arm"], built["arm"]) == (0, "seeds", "seeds + built")
    assert built["low"] > 0
    asleep = {
        "model": encoder,
        "steps": 1,
        "learning_rate": 1e-12,
    }  # answers with its first values, whatever it is taught
    denies, kept, _ = measured(Store(store.at("b")), rows, confirm=asleep)
    assert (denies["recommended"], denies["verdict"]) == ("seeds", "not confirmed")
    assert len(kept) == 12


def test_a_model_that_cannot_be_loaded_is_an_error_of_the_recipe(tmp_path: Path) -> None:
    settings = {"seeds": "s.jsonl", "test": "t.jsonl", "confirm": {"model": "builtin:nothing"}}
    [problem] = Lift.model_validate(settings).check(tmp_path)
    assert problem.startswith("confirm.model: builtin:nothing: ")
    assert Lift.model_validate({**settings, "confirm": True}).check(tmp_path) == []
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(JobError, match=r"lift.confirm.model: .* cannot be loaded"):
        read(["a text"], Confirm(model=str(tmp_path)))
