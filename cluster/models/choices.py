"""Calibration of choices: removes a model's bias, by its probabilities of the choices for a text without content."""

from collections.abc import Mapping

BLANK = {"en": "N/A", "zh": "无"}
"""The text without content, by language."""
LEAST = 1e-4
"""Least probability that is divided by, so that a choice that is never made for the empty text does not always win."""


def calibrated(chances: Mapping[str, float], prior: Mapping[str, float], least: float = LEAST) -> dict[str, float]:
    """Return probabilities divided by those of texts without content, summing to 1; without a prior, unchanged.

    Source: Zhao et al. 2021, Calibrate Before Use, arXiv:2102.09690, section 5 (W = diag(p_cf)^-1, b = 0). Departures:
    one empty text instead of three where a step has no more; chances below `least` count as that.
    """
    if not chances or set(chances) != set(prior):
        return dict(chances)
    weights = {choice: chance / max(prior[choice], least) for choice, chance in chances.items()}
    total = sum(weights.values())
    return {choice: weight / total for choice, weight in weights.items()} if total else dict(chances)
