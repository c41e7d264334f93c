"""Job: one section of a recipe, and what it is given when it runs. Read this before any `*/job.py`."""

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
    "lift": "gristmill.training.evaluate.lift:Lift",
    "train": "gristmill.training.job:Train",
    "evaluate": "gristmill.training.evaluate.job:Evaluate",
}
"""The only references to packages above this one: jobs by name, in the order in which a recipe runs them. They are
imported when a recipe is loaded."""

SAMPLE_JOBS = ("ingest", "generate", "review", "select", "lift")
"""The jobs that make a dataset of samples, in the same order."""


class ClusterSettings(Settings):
    """`[cluster]`: which Ray cluster the run is on."""

    address: str | None = None
    """`"auto"` or `host:port` of a running cluster. By default the cluster of `ray job submit`, else a local one that
    is started for the run."""
    num_cpus: int | None = Field(default=None, gt=0)
    """Cores that the local cluster offers; all cores of the machine by default."""
    num_gpus: int | None = Field(default=None, ge=0)
    """GPUs that the local cluster offers; all GPUs of the machine by default."""


@dataclass(frozen=True)
class Run:
    """One execution of a recipe: its store, its ledger, its screen and its logs."""

    id: str
    store: Store
    ledger: Ledger
    screen: Screen
    logs: str | None
    """Local folder for the log files of drivers and actors, or None when the store is remote."""


@dataclass(frozen=True)
class Work:
    """What one job of a run must make: name and fingerprint of the output folder, and names of the input folders."""

    output: str
    fingerprint: str
    inputs: Mapping[str, str]
    expected: Mapping[str, int] = field(default_factory=dict)
    """Expected number of kept samples of folders that do not exist yet; only `plan` knows it."""

    def num_samples(self, store: Store) -> int:
        """Return the number of kept input samples: counted where the dataset is complete, else the expected number."""
        folder = self.inputs.get("samples", "")
        return store.manifest(folder).kept if folder and store.complete(folder) else self.expected.get(folder, 0)


@dataclass
class Plan:
    """What a job would do, found out without loading a model."""

    job: str
    output: str
    state: str = "to do"
    """`to do`, `continues` or `done`."""
    shards: int = 0
    samples: int = 0
    """Samples asked for (generate) or read (other jobs), if this is known before the run."""
    kept: int = 0
    """Samples that are expected to be kept."""
    actors: int = 0
    cpus: float = 0
    gpus: float = 0
    tokens: int = 0
    """Estimated tokens of all prompts and replies."""
    notes: list[str] = field(default_factory=list)


class Job(Settings):
    """One section of a recipe: a frozen value that makes one folder of the store from other folders."""

    name: ClassVar[str]
    upstream: ClassVar[tuple[str, ...]] = ()
    """Jobs of the same recipe whose output this job reads when it has no `input`, the preferred one first."""
    figures: ClassVar[type[Figures]] = Figures
    """Class of the value that `make` returns."""
    presentation: ClassVar[str] = "gristmill.cluster.report.sections:Presentation"
    """Class that makes the summary and the report of the figures. It is a string, so that its module, which draws
    charts, is imported only when needed."""
    chooses: ClassVar[bool] = False
    """Whether the samples that it drops are good ones that were not chosen. The report shows these apart from refused
    ones."""
    dashboard: ClassVar[bool] = False
    """Whether a local Ray must run its dashboard."""
    not_identity: ClassVar[frozenset[str]] = frozenset({"input"})

    input: Source | None = None
    """Data from outside the recipe: a path, or a table with path and format."""

    def check(self, base: Path) -> list[str]:
        """Return the problems beyond types, as `key: what is, what must be`; `base` is the recipe's folder."""
        del base
        return []

    def sources(self) -> dict[str, Source]:
        """Return the data that comes from outside, by its role among the job's inputs."""
        return {"samples": self.input} if self.input else {}

    def needs(self, outputs: Mapping[str, str]) -> dict[str, str]:
        """Return further inputs by role; `outputs` are those of the recipe's earlier jobs, by job name."""
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
        """Return the plan of `make`, within seconds and without loading a model; inputs may not exist yet."""

    @abstractmethod
    def make(self, run: Run, work: Work) -> Figures:
        """Make `work.output` and return its figures; committed shards are not made again.

        The job commits the manifest itself (`Store.commit`). Ray runs when this is called.
        """


def job_class(name: str) -> type[Job]:
    """Return the class of a section."""
    module, _, attribute = JOBS[name].partition(":")
    kind: type[Job] = getattr(import_module(module), attribute)
    return kind


def figures_class(name: str) -> type[Figures]:
    """Return the class of the figures of a section, or of ingest."""
    return job_class(name).figures if name in JOBS else Figures
