"""Stage `report`: runs, evaluations, probes and logs -> report/, a page for people and metrics for DVC."""

import math

from stages import command, entry


def main(params: command.File = command.PARAMS, overrides: command.Set = None, as_json: command.Json = False) -> None:
    """Compare all finished runs on one page, and list what is missing.

    Means, paired differences with intervals, the share of the gap to the linear probe that is closed, and costs.
    """
    from pipeline.errors import UserError
    from pipeline.reporting import Stored, report
    from pipeline.sources import Source
    from pipeline.store import FeatureStore

    loaded = command.checked(params, overrides)
    command.note_changes(loaded, command.teachers_of(loaded), runs=loaded.section("runs"))
    stores = []
    for name in loaded.values.get("teachers") or {}:
        try:
            store = FeatureStore.open(command.PROJECT.store(name))
        except UserError:
            # Its size is not shown. What the runs need is in the records.
            continue
        width = sum(math.prod(head.shape) for head in store.heads.values())
        digests = {Source(name, head).name: store.head_digest(head) for head in store.heads}
        stores.append(Stored(name, len(store), store.nbytes, width, digests))
    with command.alone("report"):
        written = report(loaded, stores=stores)
    command.show(written, as_json)


if __name__ == "__main__":
    entry.single(main)
