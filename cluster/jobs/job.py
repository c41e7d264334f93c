"""Job: one section of a recipe, and what it is handed when it runs. Read this before any `*/job.py`."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from gristmill.cluster.contract.settings import Settings
from gristmill.cluster.io.ingest import Source
from gristmill.cluster.jobs.figures import Figures
from gristmill.cluster.runtime.progress import Screen
from gristmill.cluster.store.ledger import Ledger
from gristmill.cluster.store.store import Kind, Manifest, Shard, Store

JOBS = {
    "generate": "gristmill.generation.job:Generate",
    "review": "gristmill.generation.labels.job:Review",
    "select": "gristmill.selection.job:Select",
    "train": "gristmill.training.job:Train",
    "evaluate": "gristmill.training.evaluate.job:Evaluate",
}
"""The one upward pointer: job names in the order in which a recipe runs them, resolved when a recipe is loaded."""


class ClusterSettings(Settings):
    """`[cluster]`: which Ray cluster the run is on."""

    address: str | None = None
    """`"auto"` or `host:port` of a running cluster; by default the one of `ray job submit`, else one of our own."""
    num_cpus: int | None = Field(default=None, gt=0)
    """Cores that our own local cluster offers; all of the machine by default."""
    num_gpus: int | None = Field(default=None, ge=0)
    """GPUs that our own local cluster offers; all of the machine by default."""


@dataclass(frozen=True)
class Run:
    """One execution of a recipe: where it writes, what it tells people, what it remembers."""

    id: str
    store: Store
    ledger: Ledger
    screen: Screen
    logs: str | None
    """Local folder for the log files of drivers and actors, or None when the store is remote."""


@dataclass(frozen=True)
class Work:
    """What one job of a run is asked to make: the output folder's name, its fingerprint, the input folders' names."""

    output: str
    fingerprint: str
    inputs: Mapping[str, str]
    expected: Mapping[str, int] = field(default_factory=dict)
    """Kept samples expected of folders that do not exist yet; known to `plan` alone."""

    def num_samples(self, store: Store) -> int:
        """Return how many kept samples come in: counted where the dataset is complete, expected where it is not."""
        folder = self.inputs.get("samples", "")
        return store.manifest(folder).kept if folder and store.complete(folder) else self.expected.get(folder, 0)


@dataclass
class Plan:
    """What a job would do, found without loading a model."""

    job: str
    output: str
    state: str = "to do"
    """`to do`, `continues` or `done`."""
    shards: int = 0
    samples: int = 0
    """Samples asked for (generate) or read (the others), as far as it is known before the run."""
    kept: int = 0
    """Samples that are expected to be kept."""
    actors: int = 0
    cpus: float = 0
    gpus: float = 0
    tokens: int = 0
    """Estimated tokens through the model, prompt and reply."""
    notes: list[str] = field(default_factory=list)


class Job(Settings):
    """One section of a recipe: a frozen value that makes one folder of the store from others."""

    name: ClassVar[str]
    upstream: ClassVar[tuple[str, ...]] = ()
    """Jobs of the same recipe whose output is this job's `samples` when no `input` is named, best first."""
    figures: ClassVar[type[Figures]] = Figures
    """What `make` returns."""
    presentation: ClassVar[str] = "gristmill.cluster.report.sections:Presentation"
    """The class that says what the summary and the report show of the figures; a string, because it draws charts."""
    chooses: ClassVar[bool] = False
    """Whether its drops are a choice among good samples, which the report shows apart from what was refused."""
    dashboard: ClassVar[bool] = False
    """Whether a local Ray must have its dashboard."""
    not_identity: ClassVar[frozenset[str]] = frozenset({"input"})

    input: Source | None = None
    """Data from outside the recipe: a path, or a table with path and format."""

    def check(self, base: Path) -> list[str]:
        """Return what is wrong beyond types, as `key: what is, what must be`; `base` is the recipe's folder."""
        del base
        return []

    def sources(self) -> dict[str, Source]:
        """Return the data from outside by the role that it has among the inputs."""
        return {"samples": self.input} if self.input else {}

    def needs(self, outputs: Mapping[str, str]) -> dict[str, str]:
        """Return further inputs by role, from the outputs of the recipe's earlier jobs by job name."""
        del outputs
        return {}

    def manifest(
        self, work: Work, kind: Kind, shards: Sequence[Shard], metadata: Mapping[str, str] | None = None
    ) -> Manifest:
        """Return the manifest of this job's output, to be committed when all shards are written."""
        return Manifest(
            name=work.output,
            kind=kind,
            job=self.name,
            fingerprint=work.fingerprint,
            inputs=dict(work.inputs),
            settings=self.model_dump(mode="json"),
            shards=tuple(shards),
            metadata=dict(metadata or {}),
        )

    @abstractmethod
    def plan(self, store: Store, work: Work) -> Plan:
        """Say what `make` would do, in seconds, loading no model; inputs may not exist yet."""

    @abstractmethod
    def make(self, run: Run, work: Work) -> Figures:
        """Make `work.output`, going on after what is committed of it, and return its figures.

        The job commits the manifest itself (`Store.commit`). Ray is up when this is called.
        """


def job_class(name: str) -> type[Job]:
    """Return the class of a section."""
    module, _, attribute = JOBS[name].partition(":")
    kind: type[Job] = getattr(import_module(module), attribute)
    return kind


def figures_class(name: str) -> type[Figures]:
    """Return the class of the figures of a section, or of ingest."""
    return job_class(name).figures if name in JOBS else Figures
