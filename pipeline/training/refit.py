"""A chosen candidate, trained once more on the labels of training and validation rows together.

After the choice, validation rows are free for training. The probes of teachers stay those that were fitted without
them, so their outputs for these rows are those for unseen rows.
"""

from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.progress import progress
from pipeline.project import Project
from pipeline.records import RunRecord
from pipeline.runs import Candidate
from pipeline.students import Blueprint, Student
from pipeline.training.config import Plan
from pipeline.training.log import Diverged
from pipeline.training.session import Session
from pipeline.training.trial import run_trial


def refit(name: str, params: Params, project: Project, record: RunRecord, seed: int) -> tuple[Blueprint, Student]:
    """Train the chosen candidate of the run `name` on all labels of train and val of the seed's split.

    Raises:
        UserError: params.yaml has another run of this name now, or the training diverged.
    """
    session = Session(Plan.read(name, params, project), refit=True)
    candidate = Candidate(record.chosen, tuple(record.chosen_settings.items()))
    if tuple(term.name for term in session.run.methods) != tuple(method.name for method in record.methods):
        raise UserError(f"{params.source}: runs.{name} has other methods than were trained; run `aft train {name}`")
    session.verify_in_background()
    steps = session.settings(seed, candidate).steps
    # Where early stopping went back to an earlier student, as far as that on the same course.
    known = next((of for of in record.diagnostics if of.seed == seed), None)
    kept, mixture = (known.kept, known.mixture) if known else (None, None)
    end = max(1, round(steps * kept / record.steps)) if kept is not None else steps
    training = run_trial(session, seed, candidate, end=end, mixture=mixture)
    with session.threads(), progress(f"refit {name}", end, "step") as advance:
        while True:
            try:
                advance(next(training))
            except StopIteration as stop:
                session.verified()
                return stop.value.blueprint, stop.value.student.cpu().eval()
            except Diverged as error:
                raise UserError(f"{name}: refit: {error}; export the student without --refit") from None
