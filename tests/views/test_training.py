"""Learning from views: every stage after extraction, and that a row's view is the same for student and teacher."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pipeline import estimate
from pipeline.checks import check, check_params
from pipeline.code import digests
from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.extraction import ExtractSettings, extract
from pipeline.functional.spread import spread_of_means
from pipeline.machine import Machine
from pipeline.params import Params
from pipeline.probing import ProbeSettings, SavedProbe, assess, probe
from pipeline.project import Project
from pipeline.records import BundleRecord, RunRecord
from pipeline.reporting import report
from pipeline.runs import Candidate, join
from pipeline.sources import Source
from pipeline.store import FeatureStore, SourceFeatures
from pipeline.teachers import Teacher
from pipeline.training import evaluate, train
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.config import Plan
from pipeline.training.ledger import inputs_of
from pipeline.training.live import LiveTeachers
from pipeline.training.session import Session, TrialData
from pipeline.training.trial import run_trial
from pipeline.views import Views, teacher_views
from tests.training.trials import result_of

from ..conftest import PARAMS, WORDS, write_encoder, write_table

METHODS = {"logit_kd": {"weight": [0.0, 10.0]}, "aft": {"weight": 10.0}}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Params, Project]:
    """A project with a real teacher, its views extracted and probed."""
    root = tmp_path_factory.mktemp("seen")
    write_table(root / "raw" / "reviews.csv", 150)
    encoder = write_encoder(root / "encoder", WORDS, width=16, layers=1)
    teacher = {"family": "transformers", "model": str(encoder)}
    of = {"student": "bag", "methods": METHODS}
    values: dict[str, Any] = {
        **PARAMS,
        "teachers": {"wise": {**teacher, "views": {"family": "word_dropout", "count": 2, "share": 0.4}}},
        "train": {**PARAMS["train"], "steps": 4, "seeds": [0]},
        "runs": {
            "none": {"student": "bag"},
            "clean": {**of, "teachers": ["wise"]},
            "views": {**of, "teachers": ["wise@word_dropout"]},
        },
    }
    values["dataset"] = {**PARAMS["dataset"], "source": {**PARAMS["dataset"]["source"]}}
    values["dataset"]["source"]["path"] = str(root / "raw" / "reviews.csv")
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    params, project = Params(values), Project(root)
    from pipeline.data import PrepareSettings, prepare

    prepare(params.read(PrepareSettings, "dataset"), project.data)
    extract_wise(params, project)
    probe("wise", params.read(ProbeSettings, "probe"), project)
    return params, project


def extract_wise(params: Params, project: Project) -> None:
    settings, views = params.read(ExtractSettings, "extract"), teacher_views(params, "wise")
    data, teacher = Dataset.open(project.data), load_wise(params)
    extract(data, teacher, project.store("wise"), settings, Machine(workers=1), views=views)


def load_wise(params: Params) -> Teacher:
    family, spec = params.plugin("teachers", "teachers.wise", also=["views"])
    teacher: Teacher = family.load(spec, params.read(ExtractSettings, "extract").precision, torch.device("cpu"))
    return teacher


def changed(params: Params, **sections: Any) -> Params:
    return Params({**params.values, **sections})


def trial(params: Params, project: Project, run: str = "views", **train: Any) -> TrialData:
    session = Session(Plan.read(run, changed(params, train={**params.values["train"], **train}), project))
    return session.trial_data(0, Candidate((10.0, 10.0)))


def test_every_stage_takes_a_source_with_views(seen: tuple[Params, Project]):
    params, project = seen
    check_params(params)
    assert [s.name for s in assess(params, project).sources] == ["wise"]
    join(params, project)
    sources = BundleRecord.read(project.bundle("views")).sources
    assert {"pooled@word_dropout:1", "pooled@word_dropout:2"} < sources["wise@word_dropout"].keys()
    assert not any("@" in key for key in BundleRecord.read(project.bundle("clean")).sources["wise"])
    for run in params.values["runs"]:
        train(run, params, project)
        evaluate(run, params, project)
    records = {run: RunRecord.read(project.run(run) / "run.json") for run in params.values["runs"]}
    assert records["views"].sources == ("wise@word_dropout",)
    assert records["views"].files != records["clean"].files
    page = report(params, project).page.read_text()
    assert "wise@word_dropout" in page and 'data-run="views wise@word_dropout"' in page
    assert all("there" in line for line in check(params, project).found if line.startswith("teacher"))


def test_assess_ranks_views_from_cached_outputs(seen: tuple[Params, Project]):
    params, project = seen
    found = assess(params, project)
    assert {views.name: views.count for views in found.views} == {"wise": 0, "wise@word_dropout": 2}
    assert [views.mean_spread for views in found.views] == sorted(views.mean_spread for views in found.views)
    data = Dataset.open(project.data)
    features = SourceFeatures.open(project, Source.parse("wise@word_dropout"))
    ranked = next(views for views in found.views if views.family)
    for number in range(data.splits):
        split, probe = (
            data.split(number),
            SavedProbe(project, features, number, data, features.kept_views()["word_dropout"]),
        )
        rows, val = split.train, split.val
        assert found.cka_rows == len(rows)  # all of them are compared here
        of = np.stack([probe.outputs(rows, "linear_crossfit", np.full(len(rows), view)) for view in range(3)])
        shares = np.exp(of.astype(np.float64))
        shares /= shares.sum(2, keepdims=True)
        assert ranked.spread[number] == pytest.approx(spread_of_means(shares, len(rows) // 4, number))
        right = [probe.outputs(val, views=np.full(len(val), view)).argmax(1) == data.labels[val] for view in (1, 2)]
        assert ranked.val[number] == pytest.approx(np.mean(right))
    assert "views of wise, by the spread of its mean prediction, smaller is better: " in str(found)


def test_a_row_of_a_step_is_one_view_for_student_features_and_outputs(seen: tuple[Params, Project]):
    params, project = seen
    data = trial(params, project)
    dataset, views = data.session.data, data.session.views
    assert views is not None
    store = FeatureStore.open(project.store("wise"))
    rows = data.split.train[:40]
    drawn = data.draw_views(np.concatenate([rows[:8], rows]), 8, 3, True)
    assert drawn is not None and (drawn[:8] == 0).all() and set(drawn[8:]) == {0, 1, 2}
    seen_views = drawn[8:]
    numbers, offsets = data.inputs.batch(rows, seen_views)
    (features,), outputs = data.teachers(rows, {"features", "linear", "kernel_crossfit"}, seen_views)
    module = data.probes[0].module
    torch.testing.assert_close(outputs["linear"][0], module(features, "linear"), rtol=0, atol=1e-6)
    ends = [*offsets.tolist()[1:], len(numbers)]
    for place, (row, view) in enumerate(zip(rows.tolist(), seen_views.tolist(), strict=True)):
        head = f"pooled@word_dropout:{view}" if view else "pooled"
        assert np.array_equal(features[place].numpy(), store.reader(head)(np.array([row]))[0].astype(np.float32))
        # The bag's words of this very text, as a clean row would have them.
        vocabulary = data.blueprint.fitted["vocabulary"]
        words = [vocabulary.index(w) + 1 for w in views.text(dataset, row, view).split() if w in vocabulary] or [0]
        assert numbers[offsets[place] : ends[place]].tolist() == words


def test_cross_fitted_outputs_of_a_view_come_from_the_fit_without_its_row(seen: tuple[Params, Project]):
    params, project = seen
    data = trial(params, project)
    rows = data.split.labelled
    for number in (0, 1, 2):
        views = np.full(len(rows), number)
        whole, crossed = (data.probes[0].outputs(rows, kind, views) for kind in ("linear", "linear_crossfit"))
        assert (np.abs(whole - crossed).max(1) > 1e-6).mean() > 0.9
        others = np.setdiff1d(data.split.train, rows)[:10]
        views = np.full(len(others), number)
        assert np.array_equal(*(data.probes[0].outputs(others, kind, views) for kind in ("linear", "linear_crossfit")))


def finished(params: Params, project: Project, run: str = "views") -> tuple[dict[str, torch.Tensor], list[Any]]:
    """The weights and the curve of one trial."""
    found = result_of(run_trial(Session(Plan.read(run, params, project)), 0, Candidate((10.0, 10.0))))
    return found.student.state_dict(), found.curve


def with_live(params: Params, run: str = "views", **train: Any) -> Params:
    """The same, with the teacher of a run in the loop."""
    runs = {**params.values["runs"], run: {**params.values["runs"][run], "teacher": "live"}}
    return changed(params, runs=runs, train={**params.values["train"], **train})


@pytest.mark.parametrize("run", ["views", "clean"])
@pytest.mark.parametrize("replays", [True, False])
def test_an_epoch_with_the_teacher_in_the_loop_is_that_of_the_store(
    seen: tuple[Params, Project], monkeypatch: pytest.MonkeyPatch, run: str, replays: bool
):
    """The same losses on features and outputs that the teacher computes in each step, of the texts of that step.

    Batches differ from those of extraction, so features differ by rounding, and nothing else may. If the teacher is
    shown other rows, the training is another one.
    """
    params, project = seen
    steps = len(trial(params, project).split.train) // 12
    train = {**params.values["train"], "steps": steps, "transfer_batch_size": 12}
    cached, curve = finished(changed(params, train=train), project, run)
    shown: list[np.ndarray] = []
    look = LiveTeachers.__call__

    def watched(self: LiveTeachers, rows: np.ndarray, views: np.ndarray | None, device: torch.device) -> Any:
        shown.append(rows)
        return look(self, rows if replays else np.roll(rows, 1), views, device)

    monkeypatch.setattr(LiveTeachers, "__call__", watched)
    live, of_live = finished(with_live(params, run, **train), project, run)
    assert len(shown) == steps >= 4 and {len(rows) for rows in shown} == {12}
    close = all(torch.allclose(cached[name], live[name], rtol=1e-3, atol=1e-5) for name in cached)
    assert close is replays
    assert ([*curve[-1].values()] == pytest.approx([*of_live[-1].values()], rel=1e-3)) is replays


def test_a_live_teacher_needs_no_views_in_the_store(seen: tuple[Params, Project], monkeypatch: pytest.MonkeyPatch):
    """Views with numbers far beyond those of the store: the student sees what the teacher sees."""
    params, project = seen
    with pytest.raises(UserError, match="views: 1000, and the run's teachers have 2 of each row"):
        trial(params, project, views=1000)
    live = with_live(params, views=1000)
    data = trial(live, project)
    views, rows = data.session.views, data.split.train[:30]
    assert views is not None
    drawn = data.draw_views(rows, 10, 0, True)
    assert drawn is not None and drawn[10:].max() > 100
    numbers, offsets = data.inputs.batch(rows, drawn)
    (features,), outputs = data.teachers(rows, {"features", "linear", "kernel_crossfit"}, drawn)
    teacher, vocabulary = load_wise(params), data.blueprint.fitted["vocabulary"]
    texts = [views.text(data.session.data, int(row), int(view)) for row, view in zip(rows, drawn, strict=True)]
    of_texts = teacher.forward(teacher.collate([teacher.transform(text) for text in texts]))["pooled"]
    torch.testing.assert_close(features, of_texts.half().float(), rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(outputs["linear"][0], data.probes[0].module(features, "linear"))
    # Labelled rows by the fit without them, others by the fit on all.
    crossed, whole = outputs["kernel_crossfit"][0], data.probes[0].module(features, "kernel")
    differs = (crossed - whole).abs().amax(1) > 1e-6
    assert np.array_equal(np.isin(rows, data.split.labelled), differs.numpy())
    ends = [*offsets.tolist()[1:], len(numbers)]
    for place, text in enumerate(texts):
        words = [vocabulary.index(word) + 1 for word in text.split() if word in vocabulary] or [0]
        assert numbers[offsets[place] : ends[place]].tolist() == words
    # It is another trial than that of the store; plain training is the same.
    for weights, same in (((10.0, 10.0), False), ((0.0, 0.0), True)):
        of_store, of_live = (
            inputs_of(Session(Plan.read("views", each, project)), 0, Candidate(weights)) for each in (params, live)
        )
        assert (of_store == of_live) is same


def test_a_run_with_a_live_teacher_goes_through_every_stage(seen: tuple[Params, Project], tmp_path: Path):
    params, project = seen
    live = with_live(params, views=50)
    lines: list[str] = []
    join(live, project)
    assert not any("@" in key for key in BundleRecord.read(project.bundle("views")).sources["wise@word_dropout"])
    train("views", live, project, lines.append)
    assert "train views: wise runs in every step" in lines
    evaluate("views", live, project)
    assert digests(live)["train/views"] != digests(params)["train/views"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"max_length": 5},
            r"not the features of teachers\.wise as it is now \(max_length: \d+ -> 5\); run `aft extract",
        ),
        ({"heads": ["cls"]}, "teachers.wise: no head `pooled` among its `heads`"),
    ],
)
def test_a_live_teacher_is_that_of_the_store(seen: tuple[Params, Project], change: dict[str, Any], message: str):
    params, project = seen
    teachers = {"wise": {**params.values["teachers"]["wise"], **change}}
    with pytest.raises(UserError, match=message):
        train("views", changed(with_live(params), teachers=teachers), project)


def test_which_rows_of_a_step_are_views(seen: tuple[Params, Project]):
    params, project = seen
    data = trial(params, project)
    rows = data.split.train[:30]
    assert data.draw_views(rows[:10], 10, 0, False) is None  # plain training
    assert trial(params, project, "clean").draw_views(rows, 10, 0, True) is None
    drawn = data.draw_views(rows, 10, 0, True)
    # Where methods see the labelled batch, that batch consists of views.
    assert drawn is not None and data.draw_views(rows, 30, 0, True).any()  # type: ignore[union-attr]
    both = trial(params, project, labelled_views=True)
    whole = both.draw_views(rows, 10, 0, True)
    assert whole is not None and whole[:10].any() and np.array_equal(whole[10:], drawn[10:])
    plain = both.draw_views(rows[:10], 10, 0, False)
    assert plain is not None and np.array_equal(plain, whole[:10])  # paired over methods
    assert not np.array_equal(data.draw_views(rows, 10, 1, True), drawn)


def test_a_trial_depends_on_views_where_it_sees_them(seen: tuple[Params, Project]):
    params, project = seen

    def digest(run: str, weights: tuple[float, ...], **keys: Any) -> dict[str, Any]:
        of = changed(params, train={**params.values["train"], **keys})
        return inputs_of(Session(Plan.read(run, of, project)), 0, Candidate(weights))

    plain = digest("none", ())
    assert not {"labelled_views", "views"} & plain["train"].keys() and "views" not in plain
    assert digest("clean", (0.0, 0.0)) == plain == digest("views", (0.0, 0.0))
    assert digest("none", (), labelled_views=True) == plain  # no views, so it changes nothing
    assert digest("clean", (1.0, 1.0), labelled_views=True) == digest("clean", (1.0, 1.0))
    found = digest("views", (1.0, 1.0))
    assert found["views"]["count"] == 2 and found["code"] != digest("clean", (1.0, 1.0))["code"]
    assert found != digest("views", (1.0, 1.0), labelled_views=True)
    assert "views" in digest("views", (0.0, 0.0), labelled_views=True)
    assert digest("views", (1.0, 1.0), views=2) == found != digest("views", (1.0, 1.0), views=1)
    assert digest("clean", (1.0, 1.0), views=1) == digest("clean", (1.0, 1.0))


def test_rows_that_change_are_seen_more_often(seen: tuple[Params, Project]):
    params, project = seen
    short = changed(params, train=params.values["train"] | {"steps": "auto", "transfer_batch_size": 3})
    rows = len(trial(short, project).split.train)
    lengths = [
        trial(short, project, run, **train).settings.steps
        for run, train in (("none", {}), ("clean", {}), ("views", {"views": 0}), ("views", {}))
    ]
    live = trial(with_live(short), project).settings.steps
    assert [*lengths, live] == [math.ceil(passes * rows / 3) for passes in (20, 20, 20, 40, 40)]
    alone = changed(short, runs={"views": params.values["runs"]["views"]})
    assert estimate._training("wise", alone, Dataset.open(project.data)) == ("views", 3 * lengths[-1])


def test_a_training_may_use_fewer_of_the_views(seen: tuple[Params, Project]):
    params, project = seen
    rows = np.concatenate([trial(params, project).split.train] * 3)

    def drawn(**train: Any) -> set[int]:
        found = trial(params, project, **train).draw_views(rows, 10, 0, True)
        assert found is not None
        return set(found[10:].tolist())

    assert (drawn(), drawn(views=2), drawn(views=1), drawn(views=0)) == ({0, 1, 2}, {0, 1, 2}, {0, 1}, {0})
    with pytest.raises(UserError, match=r"train \(for views\): views: 3, and the run's teachers have 2 of each row"):
        trial(params, project, views=3)
    trial(params, project, "clean", views=3)  # of the runs with views


def test_code_digests_follow_the_family_of_views(seen: tuple[Params, Project], monkeypatch):
    params, _ = seen
    found = digests(params)
    without = {**params.values["teachers"]["wise"]}
    del without["views"]
    plain = changed(
        params, teachers={"wise": without}, runs={k: v for k, v in params.values["runs"].items() if k != "views"}
    )
    before = digests(plain)
    assert found["extract/wise"] != before["extract/wise"]
    assert found["train/clean"] == before["train/clean"] != found["train/views"]
    for stage in ("prepare", "probe", "assess", "report"):
        assert found[stage] == before[stage]


@pytest.mark.parametrize(
    ("views", "teachers", "message"),
    [
        (None, ["wise@crops"], r"`wise@crops`: teachers.wise has no views; write `views: \{family: crops, count: 4\}`"),
        (
            {"family": "ngrams", "count": 1},
            ["wise@word_dropout"],
            r"teachers.wise has views by `ngrams`; write .* and run `aft extract wise` and `aft probe wise`",
        ),
        ({"family": "crops", "count": 1}, ["wise"], r"`crops` changes images, and the dataset holds texts"),
        (
            {"family": "ngrams", "count": 1},
            ["wise", "other@ngrams"],
            r"wise, other@ngrams see different views of a row; write the same @VIEW",
        ),
        (
            {"family": "ngrams", "count": 1},
            ["wise@ngrams", "other@ngrams"],
            r"the views of wise@ngrams, other@ngrams differ",
        ),
    ],
)
def test_views_that_do_not_fit_are_refused_before_anything_runs(
    seen: tuple[Params, Project], views: Any, teachers: list[str], message: str
):
    wise = {**seen[0].values["teachers"]["wise"], "views": views}
    if views is None:
        del wise["views"]
    other = {**wise, "views": {"family": "ngrams", "count": 2}}
    runs = {"views": {"student": "bag", "teachers": teachers, "methods": METHODS}}
    with pytest.raises(UserError, match=message) as caught:
        check_params(changed(seen[0], teachers={"wise": wise, "other": other}, runs=runs))
    assert "\n" not in str(caught.value)


def test_a_store_or_a_probe_without_the_views_is_refused_with_the_command(seen: tuple[Params, Project], tmp_path: Path):
    params, project = seen
    wise = params.values["teachers"]["wise"]
    more = changed(params, teachers={"wise": {**wise, "views": {**wise["views"], "count": 3}}})
    other = changed(params, teachers={"wise": {**wise, "views": {**wise["views"], "seed": 5}}})
    with pytest.raises(UserError, match=r"`wise` has no view 3 by `word_dropout`; run `aft extract wise` and then"):
        join(more, project)
    for stage in (lambda: join(other, project), lambda: Session(Plan.read("views", other, project))):
        with pytest.raises(UserError, match=r"of other views \(seed: 0 -> 5\); run `aft extract wise`"):
            stage()
    record = project.probe_views(Source.parse("wise@word_dropout")) / "views.json"
    kept = record.read_bytes()
    record.unlink()
    try:
        with pytest.raises(UserError, match=r"no outputs for these views of `wise`; run `aft probe wise`"):
            trial(params, project)
    finally:
        record.write_bytes(kept)


def test_a_smaller_count_uses_the_first_views(seen: tuple[Params, Project]):
    params, project = seen
    wise = params.values["teachers"]["wise"]
    fewer = changed(params, teachers={"wise": {**wise, "views": {**wise["views"], "count": 1}}})
    data = trial(fewer, project)
    rows = data.split.train
    drawn = data.draw_views(rows, 4, 0, True)
    assert drawn is not None and set(drawn) == {0, 1}


def test_partners_of_pairs_are_training_rows(seen: tuple[Params, Project]):
    params, project = seen
    data = trial(params, project)
    session = data.session
    session.views = Views.read({"family": "pairs", "count": 3}, "v")
    rows = data.split.train
    drawn = data.draw_views(rows, 0, 0, True)
    assert drawn is not None
    partners = session.views.partners(session.data, rows, drawn)
    assert np.isin(partners, data.split.train).all()
    free = np.random.default_rng([0, 4, 0]).integers(0, 4, len(rows))
    outside = ~np.isin(session.views.partners(session.data, rows, free), data.split.train)
    assert outside.any() and (drawn[outside] == 0).all() and np.array_equal(drawn[~outside], free[~outside])


def test_a_student_of_features_takes_no_views(seen: tuple[Params, Project]):
    params, project = seen
    students = {**params.values["students"], "linear": {"family": "linear_probe"}}
    runs = {"linear": {"student": "linear", "teachers": ["wise@word_dropout"]}}
    with pytest.raises(UserError, match=r"reads features of clean rows; write its teachers without `@word_dropout`"):
        train("linear", changed(params, students=students, runs=runs), project)


def test_sources_are_read_as_they_are_written():
    for text in ("minilm", "minilm/layer:4", "minilm@crops", "minilm/layer:4@word_dropout"):
        assert Source.parse(text).name == text
    assert Source.parse("minilm/pooled@crops") == Source("minilm", "pooled", "crops")
    assert Source.parse("minilm@crops").clean == Source("minilm")
    for text in ("minilm@", "@crops", "minilm@Crops", "minilm@crops/pooled", "minilm@crops@flips"):
        with pytest.raises(UserError, match=r"with views, TEACHER@VIEW"):
            Source.parse(text)


def test_a_probe_has_outputs_of_every_head_with_views(seen: tuple[Params, Project]):
    _, project = seen
    features = SourceFeatures.open(project, Source.parse("wise@word_dropout"))
    assert features.kept_views() == {"word_dropout": ("pooled@word_dropout:1", "pooled@word_dropout:2")}
    assert [found.name for found in SourceFeatures.all_of(project, "wise")] == ["wise"]


def test_a_training_on_views_continues_with_the_same_bits(seen: tuple[Params, Project], tmp_path: Path):
    params, project = seen
    session = Session(Plan.read("views", params, project))

    def run(checkpoint: Checkpoint, steps: int) -> dict[str, torch.Tensor]:
        training, done = run_trial(session, 0, Candidate((10.0, 10.0)), checkpoint), 0
        while done < steps:
            done += next(training)
        with pytest.raises(StopIteration) as stop:
            next(training)
        return dict(stop.value.value.student.state_dict())

    whole = run(Checkpoint(tmp_path / "whole", {"seed": 0}, None), 4)
    left = run_trial(session, 0, Candidate((10.0, 10.0)), Checkpoint(tmp_path / "left", {"seed": 0}, 0.0))
    assert sum(next(left) for _ in range(3)) == 2
    again = run(Checkpoint(tmp_path / "left", {"seed": 0}, 0.0), 4)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
