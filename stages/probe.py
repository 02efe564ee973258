"""Stage `probe`: one teacher's features and the labels -> probes/<teacher>, the reference and the task directions."""

from typing import Annotated

import typer

from stages import command


def main(
    teacher: Annotated[str, typer.Argument(help="A key of `teachers` in params.yaml.")],
    params: command.File = command.PARAMS,
    overrides: command.Set = None,
    as_json: command.Json = False,
) -> None:
    """Fit a linear probe on a teacher's features.

    Sees the labels of the labelled training rows only, on every draw of the splits.
    """
    from pipeline.data.dataset import Dataset
    from pipeline.probing.probes import ProbeSettings, probe
    from pipeline.store import FeatureStore

    loaded = command.settings(params, overrides)
    settings = loaded.read(ProbeSettings, "probe")
    loaded.section(f"teachers.{teacher}")
    store = FeatureStore.open(command.FEATURES / f"{teacher}.zarr")
    result = probe(teacher, Dataset.open(command.DATA), store, settings, command.PROBES / teacher)
    command.show(result, as_json)


if __name__ == "__main__":
    command.single(main)
