"""A tiny encoder for all tests of this folder."""

import pytest

from tests.training.evaluate.reviews import reviews


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of an encoder of two layers with random weights, whose tokens are words."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = sorted({w for s in reviews(400, 9) for w in s.instruction.lower().replace(".", " ").split() if w.isalpha()})
    raw = Tokenizer(models.WordLevel({w: n for n, w in enumerate(["[PAD]", "[UNK]", *words])}, unk_token="[UNK]"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = str(tmp_path_factory.mktemp("encoder"))
    PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words) + 2,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    BertModel(config).save_pretrained(folder)
    return folder
