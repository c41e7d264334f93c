"""Tiny models with random weights, written with a tokenizer of their kind: encoders and a decoder."""

from pathlib import Path
from typing import Any

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    "the cat in berlin paris anna lives to go went lake river blue red green good bad fine poor film is what who where"
)
SMALL: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 64}


def wordpiece() -> Any:  # a tokenizer of tokenizers
    """Return BERT's tokenizer: words, their pieces, and single Chinese characters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = [*letters, *(f"##{letter}" for letter in letters), "##s", "##es", *".,?!:;'\"-[](){}"]
    chinese = "李娜到了上海北京和他去过长城的电影很好不在哪里是谁"
    vocabulary = dict.fromkeys([*SPECIAL, *WORDS.split(), *pieces, *chinese])
    made = Tokenizer(models.WordPiece({word: n for n, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return made


def metaspace() -> Any:
    """Return a tokenizer in the manner of XLM-R: pieces of a unigram model, of which some begin with a space."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = "abcdefghijklmnopqrstuvwxyz0123456789李娜到了上海去过长城.?,"
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in WORDS.split()), "上海", *letters]
    scores = [(piece, -1.0 if len(piece) > 1 else -5.0) for piece in dict.fromkeys(pieces)]
    made = Tokenizer(models.Unigram(scores, unk_id=3))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    ends = [("<s>", 0), ("</s>", 2)]
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ends
    )
    return made


def write(folder: Path, kind: str) -> str:
    """Write a tiny model of a kind of transformers into a folder: bert, distilbert (without dropout) or xlm-roberta."""
    import torch
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        DistilBertConfig,
        DistilBertForMaskedLM,
        PreTrainedTokenizerFast,
        XLMRobertaConfig,
        XLMRobertaForMaskedLM,
    )

    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    if kind == "xlm-roberta":
        names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=metaspace() if kind == "xlm-roberta" else wordpiece(), **names)
    tokenizer.save_pretrained(str(folder))
    torch.manual_seed(0)
    size, padding = len(tokenizer), tokenizer.pad_token_id
    if kind == "bert":
        model: Any = BertForMaskedLM(BertConfig(vocab_size=size, max_position_embeddings=128, **SMALL))
    elif kind == "distilbert":
        config = DistilBertConfig(
            vocab_size=size,
            dim=32,
            dropout=0.0,
            attention_dropout=0.0,
            qa_dropout=0.0,
            seq_classif_dropout=0.0,
            n_heads=2,
            n_layers=2,
            hidden_dim=64,
            max_position_embeddings=128,
        )
        model = DistilBertForMaskedLM(config)
    else:
        own = XLMRobertaConfig(
            vocab_size=size, max_position_embeddings=130, pad_token_id=padding, type_vocab_size=1, **SMALL
        )
        model = XLMRobertaForMaskedLM(own)
    model.save_pretrained(str(folder))
    return str(folder)
