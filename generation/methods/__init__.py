"""The methods, one file each; this union is the whole registry."""

from generation.methods.self_instruct import SelfInstruct

AnyMethod = SelfInstruct
"""With a second method: `Annotated[SelfInstruct | EvolInstruct, Field(discriminator="kind")]`."""
