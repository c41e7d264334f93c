"""The scorers of `[evaluate.suites]`, one file each. `Known` is the registry of the built-in ones."""

from typing import Annotated

from pydantic import Field

from gristmill.cluster.contract.own import OwnSteps
from gristmill.training.evaluate.scorers.checks import Checks
from gristmill.training.evaluate.scorers.choice import Choice
from gristmill.training.evaluate.scorers.contract import Scorer
from gristmill.training.evaluate.scorers.entities import Entities
from gristmill.training.evaluate.scorers.exact_match import ExactMatch
from gristmill.training.evaluate.scorers.harness import Harness
from gristmill.training.evaluate.scorers.labels import Labels
from gristmill.training.evaluate.scorers.loss import Loss
from gristmill.training.evaluate.scorers.multi_label import MultiLabel
from gristmill.training.evaluate.scorers.numeric import Numeric
from gristmill.training.evaluate.scorers.pairwise import Pairwise
from gristmill.training.evaluate.scorers.squad import Squad
from gristmill.training.evaluate.scorers.summary import Summary
from gristmill.training.evaluate.scorers.translation import Translation

Known = Annotated[
    Checks
    | Choice
    | Entities
    | ExactMatch
    | Harness
    | Labels
    | Loss
    | MultiLabel
    | Numeric
    | Pairwise
    | Squad
    | Summary
    | Translation,
    Field(discriminator="kind"),
]
AnyScorer = Annotated[Known, OwnSteps(lambda: (Scorer,))]
"""One of the built-in scorers, or a class in a user's own file: `kind = "steps.py:Rhymes"`."""
