"""Points become trials: everything that would be refused is refused here, before anything is trained."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from pipeline.errors import UserError
from pipeline.machine import Machine
from pipeline.params import Params
from pipeline.probing import ProbeSettings, probe_once, probed
from pipeline.project import Project
from pipeline.records import Metric, SweepRecord
from pipeline.runs import NAME, Candidate, Point, Run, points, read_run, read_sweep, sweep_names
from pipeline.training import Plan, Session, Trial, trials_of


@dataclass(frozen=True)
class PlannedPoint:
    """A point with its plan, its trainings, and the steps of one of them."""

    point: Point
    plan: Plan
    trials: tuple[Trial, ...]
    steps: int

    @property
    def digests(self) -> tuple[str, ...]:
        """The names of its trainings."""
        return tuple(trial.digest for trial in self.trials)


@dataclass(frozen=True)
class SweepPlan:
    """The points of a sweep, and what they have in common.

    Attributes:
        data: digest of the prepared dataset.
        metric: that they are compared by.
        primary: the task's score that rows add up to.
        seeds: of every point.
    """

    points: tuple[PlannedPoint, ...]
    data: str
    metric: Metric
    primary: Metric
    seeds: tuple[int, ...]


class Planner:
    """Plans points one after the other. What they read is opened once.

    Args:
        params: all settings.
        project: where data, features and probes are.
        fit: fit the probes that points of other numbers of labels lack; False refuses such points, and writes nothing.
    """

    def __init__(self, params: Params, project: Project, fit: bool = True):
        self.fit = fit
        self.project, self.machine = project, params.read(Machine, "machine")
        self.session: Session | None = None
        self._probed: set[tuple[str, int | float]] = set()

    def plan(self, point: Point) -> PlannedPoint:
        """The trials of a point.

        Raises:
            UserError: it cannot be trained; the line names it.
        """
        try:
            run = read_run(point.params, NAME)
            plan = Plan(NAME, point.params, self._project_of(point, run), run, self.machine)
            self.session = Session(plan, like=self.session)
            trials = tuple(trials_of(self.session))
        except UserError as error:
            raise _named(error, point) from None
        return PlannedPoint(point, plan, trials, self.session.settings(trials[0].seed, Candidate(())).steps)

    def _project_of(self, point: Point, run: Run) -> Project:
        """The project of a point: with probes of its own, if its number of labels is not that of the dataset."""
        if point.labelled is None:
            return self.project
        project = replace(self.project, labelled=point.labelled)
        for teacher in dict.fromkeys(source.teacher for source in run.sources):
            if (teacher, point.labelled) not in self._probed:
                settings = point.params.read(ProbeSettings, "probe")
                if self.fit:
                    probe_once(teacher, settings, project)
                elif not probed(teacher, settings, project):
                    raise UserError(
                        f"{project.probes / teacher}: no probes of {point.labelled} labels with these settings and "
                        "features, so the sweep's trainings are not known; run the sweep, or remove it from the file"
                    )
                self._probed.add((teacher, point.labelled))
        return project

    def together(self, planned: Iterable[PlannedPoint]) -> SweepPlan:
        """Planned points as a whole.

        Raises:
            UserError: they have different seeds, so their means are not of the same splits; or different scores.
        """
        known = tuple(planned)
        session, first = self.session, known[0]
        assert session is not None
        seeds, metric = first.plan.settings({}).seeds, session.task.metric(first.plan.settings({}).val)
        for other in known:
            if other.plan.settings({}).seeds != seeds:
                raise UserError(
                    f"{other.point.params.source}: seeds {other.plan.settings({}).seeds}, and others have {seeds}; "
                    "write `seeds: [...]` next to `over`, for all points"
                )
            if session.task.metric(other.plan.settings({}).val) != metric:
                raise UserError(
                    f"{other.point.params.source}: sweep: points differ in train.val, and are compared by one score; "
                    "give all of them the same"
                )
        return SweepPlan(known, session.data.manifest.files_digest, metric, session.task.primary, tuple(seeds))


def _named(error: UserError, point: Point) -> UserError:
    """An error that names the point."""
    source = point.params.source
    return error if source in str(error) else UserError(f"{source}: {error}")


def plan_grids(params: Params, name: str, planner: Planner) -> list[PlannedPoint]:
    """All points of a sweep without a search. Those of one grid that come to the same trainings are one.

    Raises:
        UserError: a point cannot be trained, or two of different grids are the same.
    """
    known: dict[tuple[str, ...], PlannedPoint] = {}
    for grid in points(params, name):
        earlier = dict(known)
        for point in grid:
            planned = planner.plan(point)
            if same := earlier.get(planned.digests):
                raise UserError(
                    f"{params.source}: sweep.{name}.over: two points are the same training: `{same.point.label}` and "
                    f"`{point.label}`; drop one"
                )
            known.setdefault(planned.digests, planned)
    return list(known.values())


def trials_of_sweeps(params: Params, project: Project) -> set[str]:
    """The names of all trials that the sweeps of params.yaml use; of a search, those of its record. Writes nothing.

    Raises:
        UserError: a sweep cannot be read, or lacks probes, so what it uses is not known.
    """
    used: set[str] = set()
    for name in sweep_names(params):
        if read_sweep(params, name).search:
            with suppress(UserError):
                used |= {digest for p in SweepRecord.read(project.sweep(name), name).points for digest in p.trials}
        else:
            planner = Planner(params, project, fit=False)
            used |= {digest for planned in plan_grids(params, name, planner) for digest in planned.digests}
    return used
