"""Stage `report`: evaluations, runs, probes and stores -> report/, a page for people and metrics for DVC."""

import math
from pathlib import Path

from stages import command


def main(params: command.File = command.PARAMS, overrides: command.Set = None, as_json: command.Json = False) -> None:
    """Compare all runs on one page.

    Means, paired differences with intervals, the share of the gap that is closed.
    """
    from pipeline.reporting.page import Stored, report
    from pipeline.store import FeatureStore

    loaded = command.settings(params, overrides)
    stores = {name: FeatureStore.open(command.FEATURES / f"{name}.zarr") for name in loaded.section("teachers")}
    stored = [
        Stored(name, len(store), store.nbytes, store.seconds, sum(math.prod(h.shape) for h in store.heads.values()))
        for name, store in stores.items()
    ]
    runs = list(loaded.section("runs"))
    command.show(report(Path("."), command.REPORT, runs=runs, stores=stored, params=loaded), as_json)


if __name__ == "__main__":
    command.single(main)
