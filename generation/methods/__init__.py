"""The methods, one file each. The union `Known` is their registry."""

from typing import Annotated

from pydantic import Field

from gristmill.cluster.contract.own import OwnSteps
from gristmill.generation.contracts import Method
from gristmill.generation.methods.adversarial import Adversarial
from gristmill.generation.methods.annotate import Annotate
from gristmill.generation.methods.augment.method import Augment
from gristmill.generation.methods.backtranslation import Backtranslation
from gristmill.generation.methods.evol_instruct.method import EvolInstruct
from gristmill.generation.methods.grounded import Grounded
from gristmill.generation.methods.magpie import Magpie
from gristmill.generation.methods.multi_turn import MultiTurn
from gristmill.generation.methods.persona import Persona
from gristmill.generation.methods.respond import Respond
from gristmill.generation.methods.retrieve import Retrieve
from gristmill.generation.methods.self_instruct.method import SelfInstruct
from gristmill.generation.methods.targeted.method import Targeted
from gristmill.generation.methods.taxonomy import Taxonomy

Known = Annotated[
    Adversarial
    | Annotate
    | Augment
    | Backtranslation
    | EvolInstruct
    | Grounded
    | Magpie
    | MultiTurn
    | Persona
    | Respond
    | Retrieve
    | SelfInstruct
    | Targeted
    | Taxonomy,
    Field(discriminator="kind"),
]
AnyMethod = Annotated[Known, OwnSteps(lambda: (Method,))]
"""One of the built-in methods, or a class in a user's own file: `kind = "steps.py:FollowUp"`."""
