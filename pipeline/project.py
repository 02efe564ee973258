"""Paths in a project's folder. No other module spells them."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.sources import Source


@dataclass(frozen=True)
class Project:
    """The paths of a project.

    Attributes:
        root: the project's folder, which holds params.yaml.
        labelled: how many training rows have a visible label, if other than in the prepared dataset. Such a number has
            probes of its own; all else is shared.
    """

    root: Path = Path(".")
    labelled: int | float | None = None

    @property
    def params(self) -> Path:
        """All settings."""
        return self.root / "params.yaml"

    @property
    def digests(self) -> Path:
        """Digests of the code that each stage depends on, one small file each, written by `aft code`."""
        return self.root / "digests"

    @property
    def data(self) -> Path:
        """The prepared dataset, written by `aft prepare`."""
        return self.root / "data"

    @property
    def data_digest(self) -> Path:
        """A digest of the prepared dataset, which probes and runs depend on."""
        return self.data / "digest.json"

    @property
    def content_digest(self) -> Path:
        """A digest of its rows and their content, without labels and roles, which extraction depends on."""
        return self.data / "content.json"

    @property
    def classes_digest(self) -> Path:
        """A digest of the names of its classes, in order, which zero-shot outputs depend on."""
        return self.data / "classes.json"

    @property
    def features(self) -> Path:
        """The folder of all feature stores."""
        return self.root / "features"

    def store(self, teacher: str) -> Path:
        """The feature store of one teacher, written by `aft extract TEACHER`."""
        return self.features / f"{teacher}.zarr"

    def store_digest(self, teacher: str) -> Path:
        """A digest of that store, which its probes depend on."""
        return self.features / f"{teacher}.json"

    @property
    def probes(self) -> Path:
        """The folder of all probes. For another number of labels it is a cache, safe to delete."""
        return self.root / "probes" if self.labelled is None else self.root / ".aft" / "labels" / str(self.labelled)

    def probe(self, source: Source) -> Path:
        """The folder with the probes of one source, written by `aft probe TEACHER`."""
        return self.probes / source.teacher / source.slug

    def probe_views(self, source: Source) -> Path:
        """The folder with the probes' outputs for views of a source, written with the probes."""
        return self.probe(source) / source.view

    @property
    def assessment(self) -> Path:
        """The record of `aft assess`."""
        return self.root / "assessments" / "teachers.json"

    def bundle(self, run: str) -> Path:
        """What the result of one run depends on, written by `aft join`."""
        return self.root / "bundles" / "run" / f"{run}.json"

    @property
    def trials(self) -> Path:
        """The ledger: finished trainings by digest. All runs share it, and it is not an output of a stage."""
        return self.root / "trials"

    def run(self, run: str) -> Path:
        """The students, curves and record of one run, written by `aft train RUN`."""
        return self.root / "runs" / run

    def sweep(self, sweep: str) -> Path:
        """The points of one sweep and their scores, written by `aft sweep SWEEP`."""
        return self.root / "sweeps" / f"{sweep}.json"

    def sweep_bundle(self, sweep: str) -> Path:
        """What the points of one sweep depend on, written by `aft join`."""
        return self.root / "bundles" / "sweep" / f"{sweep}.json"

    def sweep_status(self, sweep: str) -> Path:
        """How far a sweep is, for `aft sweep --watch`."""
        return self.root / ".aft" / "sweeps" / f"{sweep}.json"

    def sweep_journal(self, sweep: str) -> Path:
        """The last search of a sweep, as Optuna keeps it, for other tools."""
        return self.root / ".aft" / "sweeps" / f"{sweep}.journal"

    def run_digest(self, run: str) -> Path:
        """A digest of the other files in the folder of a run, which its evaluation depends on."""
        return self.run(run) / "digest.json"

    def evaluation(self, run: str) -> Path:
        """The test scores of one run, written by `aft evaluate RUN`."""
        return self.root / "evaluations" / f"{run}.json"

    def outputs(self, run: str) -> Path:
        """What the run's students give for validation and test rows, written by `aft evaluate RUN`."""
        return self.root / "evaluations" / f"{run}.parquet"

    @property
    def tracking(self) -> Path:
        """The files of trackers of experiments, if `machine.track` names one; not part of results."""
        return self.root / "tracking"

    @property
    def report(self) -> Path:
        """The folder of the report."""
        return self.root / "report"

    @property
    def inputs(self) -> Path:
        """A cache of decoded images and token numbers for students; safe to delete."""
        return self.root / ".aft" / "inputs"

    @property
    def downloads(self) -> Path:
        """Images that were fetched from URLs; safe to delete, and then fetched again."""
        return self.root / ".aft" / "downloads"

    def log(self, stage: str, name: str = "") -> Path:
        """When, where and how long a stage ran; not part of results, so that the same inputs give the same results."""
        return self.root / "logs" / f"{'.'.join(filter(None, (name, stage)))}.json"

    def lock(self, stage: str, name: str = "") -> Path:
        """The lock of a stage that writes."""
        return self.root / ".aft" / f"{'-'.join(filter(None, (stage, name)))}.lock"
