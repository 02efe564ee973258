"""The linear probe: its formula in plain loops, its optimum, and the stores that it belongs to."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.profiler import ProfilerActivity, profile

from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.probing import ProbeSettings, probe
from pipeline.project import Project
from pipeline.reporting import report
from pipeline.runs import join
from pipeline.sources import Source
from pipeline.store import Reader, SourceFeatures
from pipeline.students import linear_probe, load_student, predict, student_blueprint
from pipeline.students.linear_probe import LinearProbe, Settings
from pipeline.training import evaluate, train

from ..conftest import write_store

CPU = torch.device("cpu")
PRODUCT = {"combine": "outer_product"}
FORMS = [
    pytest.param(combine, scaling, id=f"{combine}-{scaling}")
    for combine in ("side_by_side", "outer_product")
    for scaling in ("as_published", "standardised")
]


def opened(root: Path, *names: str) -> dict[str, SourceFeatures]:
    return {name: SourceFeatures.open(Project(root), Source.parse(name)) for name in names}


def with_run(params: Params, *teachers: str, student: dict[str, Any] | None = None, **run: Any) -> Params:
    """A run `trial` of a linear probe on these teachers."""
    params.values["students"]["head"] = {"family": "linear_probe"} | (student or {})
    params.values["runs"]["trial"] = {"student": "head"} | ({"teachers": list(teachers)} if teachers else {}) | run
    return params


def waken(student: torch.nn.Module) -> None:
    """A head starts at zero, where many things are equal that are not."""
    torch.manual_seed(1)
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter)


def scaled(raw: np.ndarray, train: np.ndarray, scaling: str) -> list[list[float]]:
    """One teacher's rows after the documented scaling, in plain loops."""
    if scaling == "as_published":
        return [[float(x) for x in row] for row in raw]
    columns = [[float(x) for x in raw[train, d]] for d in range(raw.shape[1])]
    mean = [sum(column) / len(column) for column in columns]
    std = [(sum((x - m) ** 2 for x in column) / len(column)) ** 0.5 for column, m in zip(columns, mean, strict=True)]
    standard = [[(float(x) - m) / s for x, m, s in zip(row, mean, std, strict=True)] for row in raw]
    norm = sum(sum(x * x for x in standard[row]) ** 0.5 for row in train) / len(train)
    return [[x / norm for x in row] for row in standard]


@pytest.mark.parametrize(("combine", "scaling"), FORMS)
def test_it_equals_its_definition(project: Path, combine: str, scaling: str):
    data, stores = Dataset.open(project / "data"), opened(project, "wise", "loud")
    train = data.split(0).train
    section = {"family": "linear_probe", "combine": combine, "scaling": scaling}
    blueprint = student_blueprint(section, "here", data, train, stores)
    student = blueprint.build()
    waken(student)
    rows = np.array([3, 200, 3, 17])
    features, logits = student(blueprint.inputs(data, stores).batch(rows))
    one, other = (scaled(features.store[:], train, scaling) for features in stores.values())
    weight, bias = (parameter.tolist() for parameter in student.head.parameters())
    for n, row in enumerate(rows):
        u, v = one[row], other[row]
        assert features[n].tolist() == pytest.approx(u + v, rel=1e-4, abs=1e-5)
        for c in range(3):
            if combine == "side_by_side":
                expected = bias[c] + sum(w * x for w, x in zip(weight[c], u + v, strict=True))
            else:
                # Where features are centred, a constant joins them: products alone could not tell a row's sign.
                first, second = ([1.0, *u], [1.0, *v]) if scaling == "standardised" else (u, v)
                products = [x * y for x in first for y in second]
                flat = [w for line in weight[c] for w in line]
                expected = bias[c] + sum(w * x for w, x in zip(flat, products, strict=True))
            assert logits[n, c].item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def bilinear(widths: tuple[int, int], classes: int) -> LinearProbe:
    settings = Settings(combine="outer_product", scaling="as_published")
    student = LinearProbe(settings, {"widths": list(widths), "shift": 0.0, "scale": 1.0}, classes)
    waken(student)
    return student


def test_its_gradient_is_that_of_a_linear_layer_on_the_product():
    student = bilinear((5, 7), 3).double()
    u, v = torch.randn(6, 5).double(), torch.randn(6, 7).double()
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    torch.nn.functional.cross_entropy(student((u, v))[1], labels).backward()
    product = torch.einsum("ni,nj->nij", u, v).flatten(1)
    layer = torch.nn.Linear(35, 3).double()
    weight, bias = student.head.parameters()
    with torch.no_grad():
        layer.weight.copy_(weight.flatten(1))
        layer.bias.copy_(bias)
    torch.nn.functional.cross_entropy(layer(product), labels).backward()
    assert torch.allclose(weight.grad.flatten(1), layer.weight.grad, atol=1e-10)
    assert torch.allclose(bias.grad, layer.bias.grad, atol=1e-10)


def largest_allocation(work: Callable[[], Any]) -> int:
    """Bytes of the largest block of memory that any operation asked for."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    return max(event.self_cpu_memory_usage for event in seen.events())


def test_the_product_is_never_formed_forward_or_backward():
    n, widths, classes = 512, (64, 96), 2
    student = bilinear(widths, classes)
    u, v = torch.randn(n, widths[0]), torch.randn(n, widths[1])
    product = n * widths[0] * widths[1] * 4
    assert largest_allocation(lambda: torch.einsum("ni,nj->nij", u, v)) >= product
    assert largest_allocation(lambda: student((u, v))[1].square().sum().backward()) < product / 20


def test_a_standardised_product_includes_everything_that_side_by_side_can_express(project: Path):
    """Also where a class is the mirror image of another, which products of centred features alone cannot tell apart."""
    data, stores = Dataset.open(project / "data"), opened(project, "wise", "loud")
    train, rows = data.split(0).train, np.arange(20)
    answers = []
    for settings in ({}, PRODUCT):
        blueprint = student_blueprint({"family": "linear_probe"} | settings, "here", data, train, stores)
        answers.append((blueprint.build(), blueprint.inputs(data, stores).batch(rows)))
    (joined, batch), (product, _) = answers
    waken(joined)
    with torch.no_grad():
        of_one, of_other = joined.head.weight.split(joined.widths, 1)
        product.head.weight[:, 1:, 0] = of_one
        product.head.weight[:, 0, 1:] = of_other
        product.head.bias.copy_(joined.head.bias)
    assert torch.allclose(product(batch)[1], joined(batch)[1], atol=1e-5)


class InMemory(Reader):
    """Features of a teacher that has no store."""

    def __init__(self, features: np.ndarray):
        self.features, self.dim = features, features.shape[1]

    def __len__(self) -> int:
        return len(self.features)

    def __call__(self, rows: Any, out: Any = None) -> Any:
        return self.features[rows]

    def batches(self, size: int, rows: Any = None, seed: int = 0, drop_last: bool = False) -> Any:
        raise NotImplementedError


def test_what_it_knows_of_the_features_comes_from_training_rows():
    features = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    train = np.arange(0, 60, 2)
    known = linear_probe.fit(Settings(), {"a": InMemory(features)}, train)
    features[1::2] += 100
    assert linear_probe.fit(Settings(), {"a": InMemory(features)}, train) == known
    features[0] += 100
    assert linear_probe.fit(Settings(), {"a": InMemory(features)}, train) != known


def test_features_without_information_are_refused():
    with pytest.raises(UserError, match="features of `a` are the same for every training row"):
        linear_probe.fit(Settings(), {"a": InMemory(np.ones((9, 4), np.float32))}, np.arange(9))


@pytest.fixture
def hard(project: Path, params: Params) -> Params:
    """The project with more labels than its two narrow, noisy teachers can part: a probe then has a finite optimum."""
    settings = params.read(PrepareSettings, "dataset")
    source = settings.source | {"path": str(project / "raw" / "reviews.csv")}
    prepare(settings.model_copy(update={"source": source, "labelled": 120}), project / "data")
    data = Dataset.open(project / "data")
    for name, seed in (("wise", 5), ("loud", 6)):
        write_store(data, project / "features" / f"{name}.zarr", 2, seed)
        probe(name, params.read(ProbeSettings, "probe"), Project(project))
    return params


@pytest.mark.parametrize("combine", ["side_by_side", "outer_product"])
def test_trained_long_it_is_the_logistic_regression_of_scikit_learn(project: Path, hard: Params, combine: str):
    long = {"steps": 3000, "batch_size": 120, "learning_rate": 0.1, "seeds": [1]}
    train("trial", with_run(hard, "wise", "loud", student={"combine": combine}, train=long), Project(project))
    data, stores = Dataset.open(project / "data"), opened(project, "wise", "loud")
    split = data.split(1)
    blueprint, student = load_student(project / "runs" / "trial" / "students" / "1")
    u, v = (np.array(scaled(features.store[:], split.train, "standardised")) for features in stores.values())
    x = np.concatenate([u, v], axis=1)
    if combine == "outer_product":
        first, second = (np.concatenate([np.ones((len(x), 1)), one], axis=1) for one in (u, v))
        x = (first[:, :, None] * second[:, None, :]).reshape(len(x), -1)
    model = LogisticRegression(C=np.inf, max_iter=10000, tol=1e-8).fit(x[split.labelled], data.labels[split.labelled])
    assert model.score(x[split.labelled], data.labels[split.labelled]) < 1, "separable: there is no optimum"
    mine = predict(student, blueprint.inputs(data, stores), split.test, CPU)
    shares = np.exp(mine - mine.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    assert np.abs(shares - model.predict_proba(x[split.test])).max() < 0.01


def test_a_run_of_it_is_a_run_like_any_other(project: Path, params: Params):
    """From bundle to report, with the same seeds, splits and validation rows."""
    with_run(params, "wise", "loud", student=PRODUCT, train={"steps": 60})
    join(params, Project(project))
    bundle = json.loads((project / "bundles" / "run" / "trial.json").read_text())
    trained = train("trial", params, Project(project))
    assert len(trained.val_scores) == 3
    record = json.loads((project / "runs" / "trial" / "run.json").read_text())
    assert record["student"] == {
        "name": "head", "family": "linear_probe", "reads": "features", "solved": False,
        "parameters": 3 * 25 * 9 + 3, "width": 32,
    }  # fmt: skip
    student = json.loads((project / "runs" / "trial" / "students" / "2" / "student.json").read_text())
    digests = {name: {key: bundle["sources"][name][key] for key in ("recipe", "content")} for name in ("wise", "loud")}
    assert student["teachers"] == digests
    result = evaluate("trial", params, Project(project))
    data, stores = Dataset.open(project / "data"), opened(project, "wise", "loud")
    for score in result.results:
        blueprint, head = load_student(project / "runs" / "trial" / "students" / str(score.seed))
        rows = data.split(score.split).test
        predicted = predict(head, blueprint.inputs(data, stores), rows, CPU).argmax(1)
        assert score.scores["accuracy"] == pytest.approx((predicted == data.labels[rows]).mean())
        assert score.scores["accuracy"] > 0.8
    train("none", params, Project(project))
    evaluate("none", params, Project(project))
    made = report(params, Project(project))
    found = [score.scores["accuracy"] for score in result.results]
    assert made.metrics["trial"]["accuracy"] == pytest.approx(np.mean(found))
    assert "linear_probe" in made.page.read_text()


def test_its_sources_are_in_the_runs_order(project: Path, params: Params):
    with_run(params, "loud", "wise", train={"steps": 2, "seeds": [0]})
    train("trial", params, Project(project))
    blueprint, student = load_student(project / "runs" / "trial" / "students" / "0")
    assert (list(blueprint.teachers), student.widths) == (["loud", "wise"], [8, 24])
    batch = blueprint.inputs(Dataset.open(project / "data"), opened(project, "wise", "loud")).batch(np.arange(3))
    assert [part.shape for part in batch] == [(3, 8), (3, 24)]


@pytest.mark.parametrize(("combine", "scaling"), FORMS)
def test_it_trains_in_low_precision(project: Path, params: Params, combine: str, scaling: str):
    with_run(
        params, "wise", "loud", student={"combine": combine, "scaling": scaling},
        train={"steps": 40, "seeds": [0], "precision": "bfloat16"},
    )  # fmt: skip
    assert train("trial", params, Project(project)).val_scores[0] > 0.8


def test_other_features_than_it_learned_from_are_refused(project: Path, params: Params):
    train("trial", with_run(params, "wise", "loud", train={"steps": 2, "seeds": [0]}), Project(project))
    data = Dataset.open(project / "data")
    blueprint, _ = load_student(project / "runs" / "trial" / "students" / "0")
    with pytest.raises(UserError, match="give those of `loud`"):
        blueprint.inputs(data, opened(project, "wise"))
    write_store(data, project / "features" / "loud.zarr", 8, seed=77)
    probe("loud", params.read(ProbeSettings, "probe"), Project(project))
    with pytest.raises(UserError, match=r"loud\.zarr: not the features .* train it again") as caught:
        evaluate("trial", params, Project(project))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("teachers", "student", "run", "message"),
    [
        (
            [],
            {},
            {},
            r"students\.head: a linear_probe student reads the features .* add `teachers: \[...\]` to the run",
        ),
        (["wise"], {}, {"methods": [{"name": "aft", "weight": 1.0}]}, r"runs\.trial: .* do not train; drop `methods`"),
        (["wise"], {}, {"shuffle_teachers": True}, r"runs\.trial: .* do not train; drop .*`shuffle_teachers`"),
        (["wise"], PRODUCT, {}, r"outer_product multiplies .* two sources, and the run has 1"),
        (["wise", "loud", "third"], PRODUCT, {}, r"outer_product multiplies .* two sources, and the run has 3"),
        (["wise"], {"combine": "product"}, {}, r"students\.head\.combine: should be 'side_by_side' or 'outer_product'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_training(
    project: Path, params: Params, teachers: list[str], student: dict[str, Any], run: dict[str, Any], message: str
):
    if "third" in teachers:
        data = Dataset.open(project / "data")
        write_store(data, project / "features" / "third.zarr", 8, seed=3)
        probe("third", params.read(ProbeSettings, "probe"), Project(project))
        params.values["teachers"]["third"] = params.values["teachers"]["wise"]
    with pytest.raises(UserError, match=message) as caught:
        train("trial", with_run(params, *teachers, student=student, **run), Project(project))
    assert "\n" not in str(caught.value)
    assert not (project / "runs" / "trial").exists()
