"""The circuit breaker: a step that would drop suspiciously many samples stops the job.

A dataset of function calls with 859,092 rows was once deduplicated to 2 rows (marin-community/marin, issue 6854).
"""

import numpy as np

from gristmill.selection.contracts import Choice, Deduplicator, View

FEW, ALWAYS, HALF = 20, 1000, 0.5
"""With fewer samples than `FEW` the job never stops. The share `HALF` of the samples, but at most `ALWAYS` samples, may
always be lost to one sample, because small data can have many copies."""


def check_losses(step: Deduplicator, view: View, choice: Choice) -> str:
    """Return a message that says which loss is too large and what to do; it is empty if no loss is too large."""
    lost = ~choice.kept
    if len(view) < FEW or not lost.any() or choice.lost_to is None:
        return ""
    winners, sizes = np.unique(choice.lost_to[lost & (choice.lost_to != b"")], return_counts=True)
    most = int(sizes.max(initial=0))
    if most > max(min(ALWAYS, HALF * len(view)), step.max_group * len(view)):
        return (
            f"{most:,} of {len(view):,} samples would be lost to one, {winners[sizes.argmax()].decode()}, must be at "
            f"most {step.max_group:.0%} (max_group); look whether they share a template, or raise max_group"
        )
    codes, names = view.tags(step.source)
    if not names:
        codes, names = view.tags("method")
    rows, gone = (
        np.bincount(codes + 1, minlength=len(names) + 1),
        np.bincount(codes[lost] + 1, minlength=len(names) + 1),
    )
    share = gone / np.maximum(rows, 1)
    share[rows < FEW] = 0
    worst = int(share.argmax())
    if share[worst] > step.max_loss:
        name = names[worst - 1] if worst else "the samples without a source"
        return (
            f"{gone[worst]:,} of the {rows[worst]:,} samples of {name} would be lost, must be at most "
            f"{step.max_loss:.0%} (max_loss); look at the pairs, or raise max_loss"
        )
    return ""
