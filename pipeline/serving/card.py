"""The model card of an export: what the student is, what it learned from, how well it does, and what it costs."""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, metadata, packages_distributions
from pathlib import Path
from typing import Any

from pipeline.datasets import rows_called
from pipeline.errors import UserError, count
from pipeline.exports import export_format
from pipeline.functional.statistics import paired
from pipeline.params import Params
from pipeline.project import Project
from pipeline.provenance import commit
from pipeline.records import CostRecord, EvaluationRecord, ExportRecord, ManifestRecord, Metric, RunRecord
from pipeline.sources import Source
from pipeline.strict_yaml import load as load_yaml

MOST_NAMES = 50
"""Outputs that the card names."""

UNKNOWN = "licence not known here"


def model_card(export: ExportRecord, run: RunRecord, params: Params, project: Project, manifest: ManifestRecord) -> str:
    """README.md of an export, in Markdown."""
    lines = [
        f"# {export.run}: {export.task} of {rows_called(export.kind)}",
        "",
        f"A {run.student.family} student with {count(run.student.parameters, 'parameter')}, trained with aft"
        + (f" with the help of {', '.join(run.sources)}." if run.sources else "."),
        "",
        "## Use",
        "",
        *_use(export),
        "",
        "## Outputs",
        "",
        *_outputs(export),
        "",
        "## Data",
        "",
        *_data(manifest, run),
        "",
        "## Teachers",
        "",
        *(_teachers(run, params) or ["None."]),
        "",
        "## Training",
        "",
        *_training(run, export),
        "",
        "## Scores",
        "",
        *_scores(export, run, project),
        "",
        "## Cost of serving",
        "",
        *_cost(export, run, project),
        "",
        "## Made with",
        "",
        *_made_with(export, project),
    ]
    return "\n".join(lines) + "\n"


def _use(export: ExportRecord) -> list[str]:
    example = "photos/" if export.kind == "image" else "table.csv"
    rows = {
        "text": '["a text", "another one"]',
        "image": '["photo.jpg"]',
        "text+text": '[("a text", "and its second")]',
        "image+text": '[("photo.jpg", "a text")]',
    }[export.kind]
    format = export_format(export.format)
    option, argument = (" --trust", ", trust=True") if format.RUNS_CODE else ("", "")
    lines = [
        f"    aft predict FOLDER {example} --output predictions.csv{option}",
        "",
        "or in Python:",
        "",
        "    from pipeline.predict import Predictor",
        f'    print(Predictor("FOLDER"{argument})({rows}).predictions)',
    ]
    if not format.USE:
        return lines
    return [*lines, "", "or without this project:", "", *(f"    {line}" for line in format.USE)]


def _outputs(export: ExportRecord) -> list[str]:
    if not export.outputs or export.task == "regression":
        return [f"One number{f', in {export.unit}' if export.unit else ''}."]
    kind = "A logit for each class" if export.task == "classification" else "A logit for each label, by itself"
    left = len(export.outputs) - MOST_NAMES
    return [f"{kind}: {', '.join(export.outputs[:MOST_NAMES])}{f' and {left:,} more' if left > 0 else ''}."]


def _data(manifest: ManifestRecord, run: RunRecord) -> list[str]:
    source = manifest.settings["source"]
    paths = source.get("path", [])
    names = [f"`{Path(str(path)).name}`" for path in (paths if isinstance(paths, list) else [paths])]
    where = f" {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}" if names else ""
    return [
        f"- Source: {source['family']}{where}, {manifest.rows:,} {rows_called(manifest.kind)}; digest "
        f"`{manifest.digest}`.",
        f"- Training rows: {run.labelled:,} with a label that was used, {run.unlabelled:,} without.",
    ]


def _teachers(run: RunRecord, params: Params) -> list[str]:
    """A line for each teacher."""
    lines = []
    for name in dict.fromkeys(Source.parse(text).teacher for text in run.sources):
        try:
            section = params.section(f"teachers.{name}")
        except UserError:
            lines.append(f"- {name}: no longer in params.yaml; {UNKNOWN}.")
            continue
        model = str(section.get("model", section.get("family")))
        lines.append(f"- {name}: {section.get('family')}, `{model}`; {licence(section) or UNKNOWN}.")
    return lines


def licence(section: dict[str, Any]) -> str:
    """The licence of a teacher's weights, as far as this machine knows: from its package, its card, or timm's list."""
    weights = str(section.get("weights") or section.get("model", ""))
    if weights.startswith("package:"):
        package = weights.removeprefix("package:").partition("/")[0]
        return _first(_of_package(name) for name in packages_distributions().get(package, ()))
    if (card := Path(weights) / "README.md").is_file():
        return _of_card(card)
    if section.get("family") == "timm" and not section.get("weights"):
        import timm

        config = timm.get_pretrained_cfg(weights.removeprefix("timm/"), allow_unregistered=True)
        return str(getattr(config, "license", None) or "")
    return ""


def _of_package(distribution: str) -> str:
    try:
        found: Any = metadata(distribution)
    except PackageNotFoundError:
        return ""
    text = str(found.get("License-Expression") or found.get("License") or "").strip()
    return f"{text.splitlines()[0][:80]} (of the package {distribution})" if text else ""


def _of_card(card: Path) -> str:
    """The `license` in the front matter of a model card."""
    parts = card.read_text(encoding="utf-8", errors="replace").split("---")
    if len(parts) < 3:
        return ""
    try:
        values = load_yaml(parts[1])
    except ValueError:
        return ""
    return str(values.get("license") or "") if isinstance(values, dict) else ""


def _first(values: Iterable[str]) -> str:
    return next(filter(None, values), "")


def _training(run: RunRecord, export: ExportRecord) -> list[str]:
    pairs = zip(run.methods, run.chosen, strict=True)
    methods = ", ".join(f"{method.name} of weight {weight:g}" for method, weight in pairs) or "labels alone"
    settings = ", ".join(f"{key} {value}" for key, value in run.chosen_settings.items())
    steps = "Solved for in one go" if run.student.solved else f"{count(run.steps, 'step')}"
    return [
        f"- Method: {methods}{f'; {settings}' if settings else ''}, chosen on validation rows.",
        f"- {steps}; seed {export.seed} of {', '.join(map(str, run.seeds))}.",
        *(["- Trained once more, with the labels of validation rows too; the scores are those before."] * export.refit),
    ]


def _scores(export: ExportRecord, run: RunRecord, project: Project) -> list[str]:
    """Test scores of all seeds and of this one."""
    try:
        found = EvaluationRecord.read(project.evaluation(export.run), export.run)
    except UserError:
        found = None
    if found is None or found.students != run.students_digest:
        return [f"Not evaluated: run `aft evaluate {export.run}` before the export."]
    lines = [
        f"On {count(found.test_rows, 'test row')}; mean over seeds with the 95 % interval, and this seed.",
        "",
        "| score | mean | this seed |",
        "|---|---|---|",
    ]
    for metric in found.metrics:
        scores = [each.scores.get(metric.name) for each in found.results]
        known = [score for score in scores if score is not None]
        own = next((each.scores.get(metric.name) for each in found.results if each.seed == export.seed), None)
        lines.append(f"| {metric.label} | {_mean(known, metric)} | {_value(own, metric)} |")
    return lines


def _cost(export: ExportRecord, run: RunRecord, project: Project) -> list[str]:
    """Rows a second and latency of the student and its teachers, as `aft cost` measured them."""
    try:
        found = CostRecord.read(project.log("cost", export.run), export.run)
    except UserError:
        found = None
    if found is None or found.students != run.students_digest:
        return [f"Not measured: run `aft cost {export.run}` before the export."]
    return [
        f"With the project's own format, on {found.device}, {count(found.threads, 'thread')}.",
        "",
        "| model | parameters | bytes | batch | rows/s | p50, ms | p95, ms |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {model.name} | {model.parameters:,} | {model.bytes:,} | {each.rows} | {each.rows_per_second:,.0f} | "
            f"{each.p50:.3g} | {each.p95:.3g} |"
            for model in found.models
            for each in model.batches
        ),
    ]


def _mean(scores: list[float], metric: Metric) -> str:
    if not scores:
        return "not known"
    found = paired(scores)
    low, high = (
        _value(bound, metric).removesuffix(" %").removesuffix(f" {metric.unit}") for bound in (found.low, found.high)
    )
    return f"{_value(found.mean, metric)}{f' ({low} to {high})' if found.low is not None else ''}"


def _value(score: float | None, metric: Metric) -> str:
    if score is None:
        return "not known"
    return f"{_number(score, metric)} {metric.unit}".rstrip()


def _number(score: float, metric: Metric) -> str:
    return f"{100 * score:.1f}" if metric.unit == "%" else f"{score:.4g}"


def _made_with(export: ExportRecord, project: Project) -> list[str]:
    lines = ["- " + ", ".join(f"{name} {version}" for name, version in export.versions.items())]
    if found := commit(project.root):
        lines.append(f"- commit {found['commit']}" + (", with changes" if found["changed"] else ""))
    return lines
