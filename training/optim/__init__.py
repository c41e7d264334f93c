"""The optimizers, one file each, and the schedules of rate and data. `AnyOptimizer` is the registry of optimizers."""

from typing import Annotated

from pydantic import Field

from gristmill.training.optim.adafactor import Adafactor
from gristmill.training.optim.adamw import AdamW
from gristmill.training.optim.muon import Muon
from gristmill.training.optim.sgd import Sgd

AnyOptimizer = Annotated[AdamW | Sgd | Adafactor | Muon, Field(discriminator="kind")]
