"""The ways of tuning, one file each. `AnyTuning` is their registry."""

from typing import Annotated

from pydantic import Field

from gristmill.training.tuning.freeze import Freeze
from gristmill.training.tuning.full import Full
from gristmill.training.tuning.lora import Lora
from gristmill.training.tuning.qlora import Qlora

AnyTuning = Annotated[Lora | Qlora | Full | Freeze, Field(discriminator="kind")]
