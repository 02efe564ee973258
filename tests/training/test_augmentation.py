"""Training with augmentation: labelled rows alone are changed, methods see clean rows, and a kill changes nothing."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.checks import check_params
from pipeline.code import digests
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.plugins import plugins
from pipeline.project import Project
from pipeline.records import RunRecord
from pipeline.runs import Candidate
from pipeline.training import train
from pipeline.training.batches import Part, batches
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.config import Plan
from pipeline.training.ledger import inputs_of
from pipeline.training.prefetch import get_ready
from pipeline.training.session import Session
from pipeline.training.trial import TrialResult, build_penalties, losses, reads_of, run_trial
from tests.training.trials import result_of

from ..conftest import PARAMS
from .pictures import of_pictures, write_project

AUGMENT = {"crop": {}, "flip": {}, "trivial_augment": {}, "mixup": {"share": 0.5}, "cutmix": {}}
AFT = Candidate((3.0,))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("pictures"))


def session_of(root: Path, params: Params, run: str) -> Session:
    return Session(Plan.read(run, params, Project(root)))


def trained(session: Session, candidate: Candidate, checkpoint: Checkpoint | None = None, steps: int = 99) -> Any:
    return result_of(run_trial(session, 0, candidate, checkpoint), steps)


def same(one: TrialResult, other: TrialResult) -> bool:
    states = [result.student.state_dict() for result in (one, other)]
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0]) and one.curve == other.curve


@pytest.mark.parametrize(("run", "candidate"), [("none", Candidate(())), ("aft", AFT)])
def test_an_interrupted_training_continues_with_the_same_bits(
    pictures: Path, tmp_path: Path, run: str, candidate: Candidate
):
    session = session_of(pictures, of_pictures(augment=AUGMENT), run)
    whole = trained(session, candidate)
    assert trained(session, candidate, Checkpoint(tmp_path, {"seed": 0}, 0.0), steps=5) is None
    assert same(trained(session, candidate, Checkpoint(tmp_path, {"seed": 0}, 0.0)), whole)
    assert not same(trained(session_of(pictures, of_pictures(), run), candidate), whole)


OTHERS = {"colour": {}, "rand_augment": {}, "erase": {"share": 0.5}}


def test_with_the_other_augmentations_and_options_for_images_too(pictures: Path, tmp_path: Path):
    options = {"augment_transfer": True, "average": 0.9, "channels_last": True, "precision": "bfloat16"}
    session = session_of(pictures, of_pictures(augment=OTHERS, **options), "aft")
    whole = trained(session, AFT)
    assert trained(session, AFT, Checkpoint(tmp_path, {"seed": 0}, 0.0), steps=5) is None
    assert same(trained(session, AFT, Checkpoint(tmp_path, {"seed": 0}, 0.0)), whole)
    assert {*AUGMENT, *OTHERS, "word_dropout"} == set(plugins("augmentations"))


def test_methods_see_clean_rows_and_labels_are_augmented(pictures: Path):
    """Where all training rows have labels, too: the labelled batch then follows once more, clean."""
    session = session_of(pictures, of_pictures(augment=AUGMENT, batch_size=12), "aft")
    data = session.trial_data(0, AFT)
    assert len(data.split.unlabelled) == 0
    rows, labelled = next(batches(data.split, 0, data.settings, True))
    assert labelled == 12 and np.array_equal(rows[:12], rows[12:])
    assert len(next(batches(data.split, 0, data.settings, False))[0]) == 12
    clean = data.inputs.batch(rows)
    augmented = data.augmented(rows, labelled, 0)
    assert augmented is not None and augmented.mixed
    seen = data.inputs.batch(rows, augmented=augmented)
    assert torch.equal(seen[12:], clean[12:]) and not torch.equal(seen[:12], clean[:12])
    torch.manual_seed(0)
    student = data.blueprint.build().eval()
    penalties = build_penalties(session, data, student, AFT)
    part, reads = Part(rows, labelled), reads_of(penalties)
    ready = get_ready(data, part, reads, augmented)
    _, unweighted, features, signals = losses(data, student, penalties, ready, 0.0)
    assert signals is not None and torch.equal(signals.features, features[12:])
    torch.testing.assert_close(signals.features, student(clean[12:])[0])
    assert signals.labels.tolist() == data.labels[rows[:12]].tolist()
    _, without, _, _ = losses(data, student, penalties, get_ready(data, part, reads), 0.0)
    torch.testing.assert_close(unweighted["aft"], without["aft"])


def test_with_augment_transfer_the_student_alone_sees_other_pictures(pictures: Path):
    session = session_of(pictures, of_pictures(augment=AUGMENT, augment_transfer=True), "aft")
    data = session.trial_data(0, AFT)
    rows, labelled = next(batches(data.split, 0, data.settings, True))
    part, reads = Part(rows, labelled), frozenset({"features", "linear"})
    clean, ready = (get_ready(data, part, reads, data.augmented(rows, labelled, 0) if on else None) for on in (0, 1))
    changed = (ready.inputs - clean.inputs).abs().amax((1, 2, 3)) > 1e-3
    assert changed[:labelled].float().mean() > 0.7 and changed[labelled:].float().mean() > 0.7
    assert torch.equal(ready.teachers[0], clean.teachers[0])
    assert torch.equal(ready.teacher_outputs["linear"][0], clean.teacher_outputs["linear"][0])
    # No mixture, of which teachers know nothing; and other pictures in the next epoch.
    assert len(ready.mixed[1]) == labelled
    plain = session_of(pictures, of_pictures(augment=AUGMENT), "aft").trial_data(0, AFT)
    before = get_ready(plain, part, reads, plain.augmented(rows, labelled, 0))
    assert torch.equal(before.inputs[:labelled], ready.inputs[:labelled])
    epoch = len(data.split.labelled) // 12
    again = get_ready(data, part, reads, data.augmented(rows, labelled, epoch))
    assert not torch.equal(again.inputs[labelled:], ready.inputs[labelled:])


def test_rows_for_methods_have_epochs_of_their_own(project: Path, params: Params):
    params.values["train"] |= {"augment": {"word_dropout": {"share": 0.5}}, "augment_transfer": True}
    data = session_of(project, params, "aft").trial_data(0, AFT)
    rows, labelled = next(batches(data.split, 0, data.settings, True))
    assert len(data.split.unlabelled)
    own, seen = len(data.split.labelled) // labelled, len(data.split.train) // (len(rows) - labelled)
    assert own != seen

    def shown(step: int, part: slice) -> list[int]:
        numbers, offsets = data.inputs.batch(rows, augmented=data.augmented(rows, labelled, step))
        ends = [*offsets.tolist()[1:], len(numbers)]
        return [n for a, b in list(zip(offsets.tolist(), ends, strict=True))[part] for n in numbers[a:b].tolist()]

    for part, epoch in ((slice(labelled), own), (slice(labelled, None), seen)):
        assert shown(0, part) == shown(epoch - 1, part) != shown(epoch, part)


def test_a_trial_depends_on_augment_transfer_where_it_changes_something(pictures: Path):
    def named(run: str, candidate: Candidate, **train: Any) -> dict[str, Any]:
        return inputs_of(session_of(pictures, of_pictures(**train), run), 0, candidate)

    for run, candidate, keys in (("none", Candidate(()), {"augment": {"crop": {}}}), ("aft", AFT, {})):
        assert named(run, candidate, **keys) == named(run, candidate, **keys, augment_transfer=True)
    both = {"augment": {"crop": {}}}
    assert named("aft", AFT, **both) != named("aft", AFT, **both, augment_transfer=True)


def test_the_loss_of_mixtures_has_both_labels(pictures: Path):
    session = session_of(pictures, of_pictures(augment={"mixup": {"alpha": 1.0}}), "none")
    data = session.trial_data(0, Candidate(()))
    rows = data.split.labelled[:12]
    augmented = data.augmented(rows, 12, 0)
    assert augmented is not None
    torch.manual_seed(0)
    student = data.blueprint.build().eval()
    loss, _, _, _ = losses(data, student, {}, get_ready(data, Part(rows, 12), frozenset(), augmented), 0.0)
    logs = student(data.inputs.batch(rows, augmented=augmented))[1].log_softmax(1)
    expected = 0.0
    for place, row in enumerate(rows):
        share = augmented.shares[place]
        own, other = data.labels[row], data.labels[augmented.partners[place]]
        expected -= share * logs[place, own].item() + (1 - share) * logs[place, other].item()
    assert loss.item() == pytest.approx(expected / 12)


def test_a_row_has_one_picture_an_epoch(pictures: Path):
    data = session_of(pictures, of_pictures(augment=AUGMENT), "none").trial_data(0, Candidate(()))
    epoch = len(data.split.labelled) // 12
    row = data.split.labelled[:1]

    def shown(step: int) -> torch.Tensor:
        return data.inputs.batch(row, augmented=data.augmented(row, 1, step))

    assert torch.equal(shown(0), shown(epoch - 1))
    assert not torch.equal(shown(0), shown(epoch))


def test_records_say_what_was_seen_and_trials_depend_on_it(pictures: Path):
    params = of_pictures(augment={"flip": {"share": 0.25}, "crop": {}})
    train("aft", params, Project(pictures))
    record = RunRecord.read(Project(pictures).run("aft") / "run.json")
    assert record.augmented == ("crop", "flip") and record.transfer_rows == "clean"

    def named(params: Params) -> dict[str, Any]:
        return inputs_of(session_of(pictures, params, "none"), 0, Candidate(()))

    found = named(params)
    assert [each["name"] for each in found["train"]["augment"]] == ["crop", "flip"]
    assert found["train"]["augment"][1]["settings"] == {"share": 0.25}
    assert found == named(of_pictures(augment={"crop": {"smallest": 0.35}, "flip": {"share": 0.25}}))
    assert found != named(of_pictures(augment={"crop": {}, "flip": {}}))
    assert found["code"] != named(of_pictures())["code"]
    assert digests(params)["train/none"] != digests(of_pictures())["train/none"]


def test_words_are_dropped_from_the_labelled_batch_of_texts(project: Path, params: Params):
    params.values["train"] |= {"augment": {"word_dropout": {"share": 0.5}}, "steps": 3}
    session = session_of(project, params, "aft")
    data = session.trial_data(0, AFT)
    rows, labelled = next(batches(data.split, 0, data.settings, True))
    assert labelled == 16 and len(rows) == 48
    (numbers, offsets), (clean, starts) = (
        data.inputs.batch(rows, augmented=data.augmented(rows, labelled, 0)),
        data.inputs.batch(rows),
    )
    assert numbers[offsets[16] :].tolist() == clean[starts[16] :].tolist()
    assert 0.3 < offsets[16] / starts[16] < 0.7
    assert all(np.isfinite(list(trained(session, AFT).scores.values())))


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ({"crop": {}}, r"train\.augment \(for none\): `crop` changes rows of kind image, and the student reads text; "
                       r"take word_dropout"),
        ({"word_dropout": {"share": 1.0}}, r"augment \(for none\)\.word_dropout\.share.* less than 1, found 1\.0"),
        ({"word_drop": {}}, r"no 'word_drop' in pipeline/augmentations/ \(did you mean `word_dropout`\?\)"),
        (["word_dropout"], r"train\.augment: should be a mapping, found \['word_dropout'\]"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_check_in_one_line(augment: Any, message: str):
    values = copy.deepcopy(PARAMS)
    values["train"]["augment"] = augment  # type: ignore[index]
    with pytest.raises(UserError, match=message) as caught:
        check_params(Params(values))
    assert "\n" not in str(caught.value)


def test_a_student_of_features_takes_no_augmentation(project: Path, params: Params):
    params.values["students"]["probe"] = {"family": "linear_probe"}
    params.values["runs"] = {"p": {"student": "probe", "teachers": ["wise"]}}
    params.values["train"]["augment"] = {"word_dropout": {}}
    message = "`word_dropout` changes rows of kind text, and the student reads features; remove it"
    with pytest.raises(UserError, match=message):
        check_params(params)
    with pytest.raises(UserError, match=message):
        session_of(project, params, "p").trial_data(0, Candidate(()))
