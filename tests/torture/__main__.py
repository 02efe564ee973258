"""Rounds of random faults on a small project, until the time is over: `make torture`.

    python -m tests.torture [--minutes 60] [--folder .aft/torture] [--rounds N] [--first N] [--seed N] [--kind NAME]

Everything is kept in the folder, and the next call goes on with the next seed. `--seed N` repeats one round; `--kind`
makes it a round of that kind. It ends with a table of what was injected and what happened, and with code 1 if a round
failed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random

import tests.torture.preloaded  # noqa: F401

from .bench import Bench
from .rounds import KINDS, ONCE, Skipped


def main() -> int:
    """Run rounds; the exit code."""
    parser = argparse.ArgumentParser(prog="tests.torture")
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("TORTURE_MINUTES", "60")))
    parser.add_argument("--folder", type=Path, default=Path(".aft/torture"))
    parser.add_argument("--rounds", type=int, help="how many at most")
    parser.add_argument("--first", type=int, default=int(os.environ.get("TORTURE_FIRST", "0")), help="first seed")
    parser.add_argument("--seed", type=int, help="repeat this one round")
    parser.add_argument("--kind", choices=[*KINDS, *ONCE], help="only rounds of this kind")
    options = parser.parse_args()
    subprocess.run(["umount", "--lazy", str(options.folder / "work")], capture_output=True)  # after a kill
    bench = Bench(options.folder)
    deadline = time.monotonic() + 60 * options.minutes
    kept = options.folder / "rounds.jsonl"
    if options.seed is not None:
        print(json.dumps(found := one(options.seed, bench, set(), options.kind)))
        return int(bool(found["failed"]))
    done = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    first = len(done)
    while time.monotonic() < deadline and len(done) - first != options.rounds:
        found = one(options.first + len(done), bench, {entry["kind"] for entry in done}, options.kind)
        done.append(found)
        with kept.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(f"seed {found['seed']}: {found['injected']}: {found['happened']} ({found['seconds']} s)", flush=True)
    print(table(done))
    return int(any(entry["failed"] for entry in done[first:]))


def one(seed: int, bench: Bench, had: set[str], only: str | None = None) -> dict[str, object]:
    """One round; all of it follows from its seed. A project that failed is kept as `failed-SEED`."""
    random, started = Random(seed), time.monotonic()
    name = random.choices(list(KINDS), [often for _, often in KINDS.values()])[0]
    if seed % 25 == 24 and (left := [kind for kind in ONCE if kind not in had]):
        name = left[0]
    name = only or name
    kind = ONCE[name] if name in ONCE else KINDS[name][0]
    failed = False
    try:
        injected, happened = kind(random, bench)
    except Skipped as skipped:
        injected, happened = name, f"skipped: {skipped}"
    except Exception as error:
        failed, injected, happened = True, name, f"FAILED: {str(error).strip()}"
        if not isinstance(error, AssertionError):
            traceback.print_exc()
        if bench.work.exists():
            subprocess.run(["cp", "--archive", bench.work, bench.folder / f"failed-{seed}"], check=True)  # pipes too
    seconds = round(time.monotonic() - started, 1)
    return {
        "seed": seed,
        "kind": name,
        "injected": injected,
        "happened": happened,
        "failed": failed,
        "seconds": seconds,
    }


def table(done: list[dict[str, object]]) -> str:
    """What was injected and what happened, with counts, as Markdown."""
    counts = Counter((str(entry["injected"]), str(entry["happened"]).splitlines()[0]) for entry in done)
    lines = ["", "| injected | what happened | rounds |", "|---|---|---|"]
    lines += [f"| {injected} | {happened} | {count} |" for (injected, happened), count in sorted(counts.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
