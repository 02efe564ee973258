"""Stage `probe`: one teacher's features and the labels -> probes/<teacher>/, what a probe makes of them."""

from typing import Annotated

import typer

from stages import command


def main(
    teacher: Annotated[str, typer.Argument(help="A key of `teachers` in params.yaml.")],
    params: command.File = command.PARAMS,
    overrides: command.Set = None,
    as_json: command.Json = False,
) -> None:
    """Fit probes on a teacher's features.

    Uses the labels of the labelled training rows only, on every split.
    """
    from pipeline.data.dataset import Dataset
    from pipeline.probing.probes import ProbeSettings, probe
    from pipeline.store import FeatureStore

    loaded, project = command.settings(params, overrides), command.PROJECT
    settings = loaded.read(ProbeSettings, "probe")
    loaded.section(f"teachers.{teacher}")
    with command.log("probe", teacher):
        store = FeatureStore.open(project.store(teacher))
        result = probe(teacher, Dataset.open(project.data), store, settings, project.probes / teacher)
    command.show(result, as_json)


if __name__ == "__main__":
    command.single(main)
