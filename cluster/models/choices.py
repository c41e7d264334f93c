"""Calibration of choices: corrects a model's bias with its probabilities of the choices for a text without content."""

from collections.abc import Mapping

BLANK = {"en": "N/A", "zh": "无"}
"""The text without content, by language."""
LEAST = 1e-4
"""Least probability to divide by. Without it, a choice that is never made for the text without content always wins."""


def calibrated(chances: Mapping[str, float], prior: Mapping[str, float], least: float = LEAST) -> dict[str, float]:
    """Return the probabilities of choices divided by those for a text without content (`prior`), scaled to the sum 1.

    If `prior` does not have the same choices, the probabilities are unchanged.

    Source: Zhao et al. 2021, Calibrate Before Use, arXiv:2102.09690, section 5 (W = diag(p_cf)^-1, b = 0). Departures:
    a step may use one text without content instead of three. A prior below `least` counts as `least`.
    """
    if not chances or set(chances) != set(prior):
        return dict(chances)
    weights = {choice: chance / max(prior[choice], least) for choice, chance in chances.items()}
    total = sum(weights.values())
    return {choice: weight / total for choice, weight in weights.items()} if total else dict(chances)
