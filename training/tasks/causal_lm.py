"""The default task: a causal language model writes the answers of the conversations."""

from typing import ClassVar, Literal

from gristmill.training.tasks.contracts import Task


class CausalLm(Task):
    """Train a causal language model to write what the assistant says."""

    kind: Literal["causal_lm"] = "causal_lm"
    measured: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1")
