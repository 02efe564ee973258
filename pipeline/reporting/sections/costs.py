"""Cost: the student and its teachers, the time of every stage, and the files that a run leaves."""

from typing import Any

from pipeline.reporting.comparison import direction
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.text import count, counted, duration, listed, short_duration, size


def context(inputs: ReportInputs) -> dict[str, Any]:
    """Student and teachers as facts, a line for each stage, and what is where."""
    stages = _stages(inputs)
    known = [stage["seconds"] for stage in stages if stage["seconds"] is not None]
    return {
        "facts": _facts(inputs),
        "stages": stages,
        "longest": max(known, default=0.0) or 1.0,
        "total": duration(sum(known, 0.0)),
        "known": len(known),
        "files": _files(inputs),
    }


def _facts(inputs: ReportInputs) -> list[tuple[str, str]]:
    """What the student costs, and what its teachers do."""
    facts = []
    for comparison in inputs.comparisons:
        student, runs = comparison.student, comparison.outcomes
        text = counted(student.parameters, "parameter")
        sizes = [sum(inputs.student_files[o.name].values()) for o in runs if o.name in inputs.student_files]
        if sizes:
            text += f", {size(sizes[0])} on disk"
        times = [o.log.seconds / o.log.trainings for o in runs if o.log is not None and o.log.trainings]
        if times:
            low, high = duration(min(times)), duration(max(times))
            text += f"; one training takes {low}" + (f" to {high}" if high != low else "")
        use = "It reads its teachers' features." if student.reads == "features" else "It is used without its teachers."
        facts.append((f"student {student.name}", f"{text}. {use}"))
    stores = {store.name: store for store in inputs.stores}
    for teacher in inputs.teachers:
        parts = []
        log, store = inputs.logs.get(("extract", teacher)), stores.get(teacher)
        if log is not None and log.rows:
            parts.append(f"{short_duration(log.seconds / log.rows)} per row, {duration(log.seconds)} in all")
        if store is not None and store.rows:
            parts.append(
                f"{size(store.bytes)} of stored features, {count(round(store.bytes / store.rows))} bytes per row"
            )
        text = "; ".join(parts) or "no log of its extraction"
        facts.append((f"teacher {teacher}", f"{text}. It runs once; every training reads its stored features."))
    return facts


def _stages(inputs: ReportInputs) -> list[dict[str, Any]]:
    """Time and bytes, stage by stage; time is None where there is no log."""
    stages: list[dict[str, Any]] = []

    def add(stage: str, name: str, work: str, rate: str = "", **more: Any) -> None:
        log = inputs.logs.get((stage, name))
        seconds = log.seconds if log is not None else None
        stages.append({"stage": stage, "of": name, "work": work, "seconds": seconds, "rate": rate, "size": ""} | more)

    for store in inputs.stores:
        log = inputs.logs.get(("extract", store.name))
        rate = f"{count(round(log.rows / log.seconds))} rows/s" if log and log.rows and log.seconds else ""
        work = f"{counted(store.rows, 'row')} of {counted(store.width, 'number')}"
        add("extract", store.name, work, rate, size=size(store.bytes))
    splits = {probe.source: len(probe.splits) for probe in inputs.probes}
    for teacher in inputs.teachers:
        numbers = [number for source, number in splits.items() if source.partition("/")[0] == teacher]
        if numbers:
            sources = f"{counted(len(numbers), 'source')}, " if len(numbers) > 1 else ""
            add("probe", teacher, f"{sources}{counted(numbers[0], 'split')}")
    if (found := inputs.assessment) is not None:
        work = f"{counted(len(found.subsets), 'subset')}, {counted(found.splits, 'split')}"
        add("assess", "", work, of=", ".join(source.name for source in found.sources))
    for outcome in inputs.outcomes:
        run, log = outcome.run, outcome.log
        work = counted(run.trainings, "training") + (f" of {counted(run.steps, 'step')}" if run.steps else "")
        if log is not None and log.trainings is not None and log.trainings < run.trainings:
            work += f"; {count(run.trainings - log.trainings)} found, {count(log.trainings)} trained"
        rate = f"{duration(log.seconds / log.trainings)} each" if log is not None and log.trainings else ""
        add("train", run.run, work, rate)
    for outcome in inputs.outcomes:
        evaluation = outcome.evaluation
        students, rows = counted(len(evaluation.results), "student"), counted(evaluation.test_rows, "row")
        add("evaluate", outcome.name, f"{students} on {rows}")
    return stages


def _files(inputs: ReportInputs) -> list[tuple[str, str]]:
    """What a run leaves and where, with the best run as the example."""
    there = [outcome for outcome in inputs.outcomes if outcome.name in inputs.student_files]
    if not there:
        return []
    outcome = max(there, key=lambda outcome: (not outcome.control, direction(outcome.metric) * outcome.score))
    files = [f"{name} ({size(value)})" for name, value in inputs.student_files[outcome.name].items()]
    others = ["run.json (what was tried and chosen)", "curves.csv (every step)"]
    if outcome.gates:
        others.append("gates.json (learned gates)")
    seeds = ", ".join(map(str, outcome.run.seeds))
    return [
        (
            f"runs/{outcome.name}/students/",
            f"a folder for each seed ({seeds}) with {listed(files)}: all that is needed to use the student",
        ),
        (f"runs/{outcome.name}/", f"{listed(others)}"),
        (f"evaluations/{outcome.name}.json", "test scores of every seed"),
        (f"aft export {outcome.name} --output FOLDER", "takes the student of the best seed home"),
    ]
