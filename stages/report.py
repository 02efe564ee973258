"""Stage `report`: the records and logs of all stages -> report/, a page for people and metrics for DVC."""

import math

from stages import command


def main(params: command.File = command.PARAMS, overrides: command.Set = None, as_json: command.Json = False) -> None:
    """Compare all runs on one page.

    Means, paired differences with intervals, the share of the gap that is closed.
    """
    from pipeline.reporting.page import Stored, report
    from pipeline.store import FeatureStore

    loaded = command.settings(params, overrides)
    stores = {name: FeatureStore.open(command.PROJECT.store(name)) for name in loaded.section("teachers")}
    stored = [
        Stored(name, len(store), store.nbytes, store.seconds, sum(math.prod(h.shape) for h in store.heads.values()))
        for name, store in stores.items()
    ]
    runs = list(loaded.section("runs"))
    command.show(report(command.PROJECT.root, command.PROJECT.report, runs=runs, stores=stored, params=loaded), as_json)


if __name__ == "__main__":
    command.single(main)
