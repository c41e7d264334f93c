"""The encoder: pooling by its formula, padding that changes nothing, and what is refused."""

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from pydantic import ValidationError

from gristmill.cluster.contract.errors import JobError, RunError
from gristmill.cluster.models.encoder import UNKNOWN, Embedding, Pooling, open_embedding, unit_rows
from gristmill.cluster.models.encoder_torch import PLAIN, TorchEncoder
from gristmill.cluster.models.names import MINILM
from tests.paths import ROOT

POOLINGS: tuple[Pooling, ...] = ("mean", "cls", "last", "weighted_mean")
TEXTS = ["short", "一首关于秋天的短诗", "a text that is a good deal longer than the others, " * 4]


@cache
def states_of(model: str, text: str) -> np.ndarray:
    """The hidden states of one text without any padding."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    given = AutoTokenizer.from_pretrained(model)(text, return_tensors="pt", truncation=True, max_length=128)
    with torch.no_grad():
        return np.asarray(AutoModel.from_pretrained(model, dtype=torch.float32)(**given).last_hidden_state[0])


def pooled(model: str, text: str, pooling: Pooling) -> np.ndarray:
    """The formula."""
    states = states_of(model, text)
    places = np.arange(1, len(states) + 1)
    vector = {
        "mean": states.mean(axis=0),
        "cls": states[0],
        "last": states[-1],
        "weighted_mean": (places[:, None] * states).sum(axis=0) / places.sum(),
    }[pooling]
    return np.asarray(vector / np.linalg.norm(vector))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_is_its_formula_and_padding_changes_no_vector(tiny: str, pooling: Pooling) -> None:
    encoder = TorchEncoder(Embedding(model=tiny, pooling=pooling))
    together = encoder.encode(TEXTS)
    assert together.shape == (3, encoder.dim)
    assert together.dtype == np.float32
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(vector, encoder.encode([text])[0], atol=2e-6)
        np.testing.assert_allclose(vector, pooled(tiny, text, pooling), atol=2e-6)


def test_a_tokenizer_that_pads_in_front_and_has_no_pad_token_changes_nothing(tiny: str, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(tiny).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.padding_side, tokenizer.pad_token = "left", None
    tokenizer.save_pretrained(tmp_path)
    found = TorchEncoder(Embedding(model=str(tmp_path), pooling="weighted_mean")).encode(TEXTS)
    np.testing.assert_allclose(
        found, TorchEncoder(Embedding(model=tiny, pooling="weighted_mean")).encode(TEXTS), atol=2e-6
    )


def test_a_text_is_read_up_to_max_tokens_and_an_empty_one_has_a_vector_too(tiny: str) -> None:
    encoder = TorchEncoder(Embedding(model=tiny, pooling="last", max_tokens=5))
    cut, whole, other, empty = encoder.encode(["abcdefgh", "abcde", "abcdx", ""])
    np.testing.assert_allclose(cut, whole, atol=2e-6)
    assert np.abs(cut - other).max() > 0.01
    assert np.linalg.norm(empty) == pytest.approx(1, abs=1e-5)
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_a_checkpoint_of_sentence_transformers_is_pooled_as_it_says(tiny: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling as Module

    tokens = Transformer(tiny, modality_config=PLAIN, module_output_name="token_embeddings")
    whole = SentenceTransformer(modules=[tokens, Module(tokens.get_embedding_dimension(), "cls"), Normalize()])
    whole.save(str(tmp_path))
    as_it_says = open_embedding(Embedding(model=str(tmp_path))).encode(TEXTS)
    np.testing.assert_allclose(as_it_says[0], pooled(tiny, TEXTS[0], "cls"), atol=2e-6)
    otherwise = open_embedding(Embedding(model=str(tmp_path), pooling="mean")).encode(TEXTS)
    np.testing.assert_allclose(otherwise[0], pooled(tiny, TEXTS[0], "mean"), atol=2e-6)


@pytest.mark.parametrize("backend", ["torch", "vllm"])
def test_a_plain_model_without_a_pooling_is_refused(tiny: str, backend: Literal["torch", "vllm"]) -> None:
    with pytest.raises(JobError, match=r"encoder\.pooling: .* is no checkpoint of .* and names none"):
        open_embedding(Embedding(model=tiny, backend=backend))


def test_vectors_without_a_direction_are_refused() -> None:
    np.testing.assert_allclose(unit_rows(np.array([[3.0, 4.0]], np.float16), "m"), [[0.6, 0.8]], atol=1e-7)
    for bad in (0.0, np.nan, np.inf):
        with pytest.raises(RunError, match="m gives 1 of 2 texts a vector of length"):
            unit_rows(np.array([[1.0, 0.0], [bad, 0.0]]), "m")


def test_what_decides_the_vectors_is_in_the_fingerprint_and_where_they_are_made_is_not(tiny: str) -> None:
    plain = Embedding(model=tiny, pooling="mean")
    assert plain.fingerprint() == Embedding(model=tiny, pooling="mean", actors=3, cpus=2, gpus=1).fingerprint()
    others = (Embedding(model=tiny, pooling="last"), Embedding(model=tiny, pooling="mean", max_tokens=9))
    assert plain.fingerprint() not in {other.fingerprint() for other in others}
    assert Embedding().dtype == "float16"


def test_vllm_is_not_asked_for_a_pooling_that_it_lacks() -> None:
    with pytest.raises(ValidationError, match=r"not one of vLLM's; take backend = \"torch\""):
        Embedding(backend="vllm", pooling="weighted_mean")


ENGINE = """
import sys
import numpy as np
from gristmill.cluster.models.encoder import Embedding, open_embedding
from tests.cluster.models.test_encoder import TEXTS
encoder = open_embedding(Embedding(model=sys.argv[1], pooling=sys.argv[2], backend="vllm", compute_dtype="float32"))
assert encoder.encode([]).shape == (0, encoder.dim)
np.save(sys.argv[3], encoder.encode([*TEXTS, ""]))
"""


@pytest.mark.flow
@pytest.mark.parametrize("pooling", [pytest.param("checkpoint", marks=pytest.mark.long), "last"])
def test_vllm_makes_the_vectors_that_torch_makes(tiny: str, pooling: Pooling, tmp_path: Path) -> None:
    """In a process of its own, as in an actor: an engine changes the threads and environment that it lives in.

    Both compute in float32: in bfloat16, which some machines choose, each rounds in its own way, by up to 0.002.
    """
    name, path = MINILM if pooling == "checkpoint" else tiny, tmp_path / "found.npy"
    command = [sys.executable, "-c", ENGINE, name, pooling, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = np.load(path)
    assert len(found) == 4
    settings = Embedding(model=name, pooling=pooling, compute_dtype="float32")
    np.testing.assert_allclose(found, TorchEncoder(settings).encode([*TEXTS, ""]), atol=1e-3)


SCRIPTS = {
    "Thai": ("แมวนอนอยู่บนเก้าอี้ไม้", "พรุ่งนี้ฝนจะตกหนักในภาคเหนือ", "อาหารจานนี้เผ็ดมากแต่อร่อย"),
    "Khmer": ("ឆ្មាកំពុងដេកលើកៅអី", "ស្អែកនឹងមានភ្លៀងធ្លាក់ខ្លាំង", "គាត់រៀនគណិតវិទ្យានៅសាកលវិទ្យាល័យ"),
    "Amharic": ("ድመቷ ወንበር ላይ ተኝታለች", "ነገ በሰሜን ከባድ ዝናብ ይዘንባል", "የነዳጅ ዋጋ በየወሩ ይጨምራል"),
    "Chinese": ("猫睡在木头椅子上", "明天北方会下大雨", "这道菜很辣但是很好吃"),
    "Russian": ("Кошка спит на деревянном стуле.", "Завтра на севере пойдёт дождь.", "Блюдо острое, но вкусное!"),
    "Arabic": ("القطة نائمة على كرسي خشبي", "سينزل المطر غدا في الشمال", "الطبق حار لكنه لذيذ"),
    "Korean": ("고양이가 나무 의자에서 자고 있다", "내일 북쪽에 큰 비가 내린다", "이 음식은 맵지만 맛있다"),
    "English": ("The cat is asleep on a wooden chair.", "Rain falls in the north.", "The dish is hot, but good!"),
}
"""Texts of different meanings: a cat asleep, rain, a dish, prices, a university."""


def test_the_english_encoder_says_which_scripts_it_does_not_know() -> None:
    """In the first three every pair of texts is nearer than 0.95, though no two mean the same.

    Russian, Arabic and Korean are spelled letter by letter, and paraphrases are no nearer than other texts.
    """
    encoder = TorchEncoder(Embedding(compute_dtype="float32"))
    for name, texts in SCRIPTS.items():
        unknown = encoder.unknown(texts)
        assert unknown.shape == (3,)
        if name == "English":
            assert unknown.max() == 0
            continue
        assert unknown.mean() > UNKNOWN
        if name in {"Thai", "Khmer", "Amharic"}:
            vectors = encoder.encode(texts)
            assert (vectors @ vectors.T).min() > 0.95
    assert encoder.unknown([]).shape == (0,)
    assert encoder.unknown([""]).tolist() == [0]


def test_a_model_that_reads_bytes_knows_every_script(tiny: str) -> None:
    encoder = TorchEncoder(Embedding(model=tiny, pooling="mean"))
    assert encoder.unknown([text for texts in SCRIPTS.values() for text in texts]).max() == 0
