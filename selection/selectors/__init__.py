"""The selectors by kind. This union is the only registry: a new selector is a new file, and its class in this union."""

from typing import Annotated

from pydantic import Field

from gristmill.cluster.contract.own import OwnSteps
from gristmill.selection.contracts import Selector
from gristmill.selection.selectors.against import Against
from gristmill.selection.selectors.balance import Balance
from gristmill.selection.selectors.complexity import Complexity
from gristmill.selection.selectors.decontaminate import Decontaminate
from gristmill.selection.selectors.diversity import Diversity
from gristmill.selection.selectors.exact import Exact
from gristmill.selection.selectors.longest import Longest
from gristmill.selection.selectors.minhash import MinHash
from gristmill.selection.selectors.private import Private
from gristmill.selection.selectors.quality import Quality
from gristmill.selection.selectors.random_ import RandomChoice
from gristmill.selection.selectors.relevance import Relevance
from gristmill.selection.selectors.semantic import Semantic
from gristmill.selection.selectors.substring import Substring

BuiltinSelector = Annotated[
    Exact
    | MinHash
    | Substring
    | Semantic
    | Against
    | Decontaminate
    | Quality
    | Complexity
    | Diversity
    | Relevance
    | Balance
    | Private
    | RandomChoice
    | Longest,
    Field(discriminator="kind"),
]
AnySelector = Annotated[BuiltinSelector, OwnSteps(lambda: (Selector,))]
"""A selector of this package, or a class in a file of the user: `kind = "steps.py:FollowUp"`."""
