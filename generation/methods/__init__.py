"""The methods, one file each; this union is the whole registry."""

from typing import Annotated

from pydantic import Field

from generation.methods.adversarial import Adversarial
from generation.methods.annotate import Annotate
from generation.methods.augment import Augment
from generation.methods.backtranslation import Backtranslation
from generation.methods.evol_instruct import EvolInstruct
from generation.methods.grounded import Grounded
from generation.methods.magpie import Magpie
from generation.methods.multi_turn import MultiTurn
from generation.methods.persona import Persona
from generation.methods.respond import Respond
from generation.methods.retrieve import Retrieve
from generation.methods.self_instruct import SelfInstruct
from generation.methods.targeted import Targeted
from generation.methods.taxonomy import Taxonomy

AnyMethod = Annotated[
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
