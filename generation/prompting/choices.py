"""What is done to replies of several methods: markers and quotes taken off, the bias of choices taken out."""

from collections.abc import Mapping

PAIRS = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "「": "」", "*": "*"}
"""Quotes, and what closes each."""
BLANK = {"en": "N/A", "zh": "无"}
"""The text without content, by language."""
LEAST = 1e-4
"""Smallest chance that is divided by, so that a choice that is never made of the empty text does not win always."""


def calibrated(chances: Mapping[str, float], blank: Mapping[str, float]) -> dict[str, float]:
    """Return chances divided by those of the empty text, summing to 1; without any such, the chances as they are.

    Source: Zhao et al. 2021, Calibrate Before Use, arXiv:2102.09690, section 5 (W = diag(p_cf)^-1, b = 0). Departures:
    one empty text instead of three; chances below 0.0001 count as that.
    """
    if not chances or set(chances) != set(blank):
        return dict(chances)
    weights = {choice: chance / max(blank[choice], LEAST) for choice, chance in chances.items()}
    total = sum(weights.values())
    return {choice: weight / total for choice, weight in weights.items()} if total else dict(chances)


def stripped(text: str, marker: str = "") -> str:
    """Return a reply without the marker where the model says it once more, and without quotes around the whole."""
    text = text.strip()
    if text.lower().startswith(marker.lower()):
        text = text[len(marker) :].strip()
    close = PAIRS.get(text[:1])
    whole = close is not None and len(text) > 1 and text[-1] == close and not {text[0], close} & set(text[1:-1])
    return text[1:-1].strip() if whole else text
