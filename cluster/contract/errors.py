"""The six kinds of errors that people and code distinguish.

Each takes one message string, because exceptions cross Ray by pickle. The message reads *where: what is, what must be,
what to do*.

    GristmillError
    ├── JobError      the recipe or the arguments must be edited        (exit code 2)
    ├── SchemaError   a table breaks the contract                       (exit code 1)
    ├── StoreError    a dataset is absent, incomplete or corrupt        (exit code 1)
    ├── EngineError   an engine or its actor died: retry elsewhere      (exit code 1)
    ├── RunError      the run failed for good                           (exit code 1)
    └── BusyError     what the run needs is in use: try again later     (exit code 75)
"""

from typing import ClassVar

from gristmill.cluster.contract.secrets import public_text

TRY_AGAIN = 75
"""Exit code of a run that the same command continues: EX_TEMPFAIL of sysexits.h, which schedulers know."""


class GristmillError(Exception):
    """The base class of errors that people see without a traceback. Credentials in URIs are left out of its text."""

    exit_code: ClassVar[int] = 1
    """Exit code of the command line."""

    def __init__(self, message: str = "") -> None:
        super().__init__(public_text(message))


class JobError(GristmillError, ValueError):
    """The recipe or the command line is wrong. Nothing expensive has started."""

    exit_code = 2


class SchemaError(GristmillError, ValueError):
    """A table does not have the schema that it must have: SAMPLES, VECTORS or ITEMS."""


class StoreError(GristmillError):
    """A dataset or model in the store is absent, incomplete or corrupt."""


class EngineError(GristmillError):
    """An engine died or does not answer. Its shards may be retried on another engine."""


class RunError(GristmillError):
    """The run failed, and a retry without a change would fail again."""


class BusyError(GristmillError):
    """The run stopped, because cores, machines or the run itself are in use. The same command may go on later."""

    exit_code = TRY_AGAIN
