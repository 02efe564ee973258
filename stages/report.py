"""Stage `report`: evaluations, runs, probes and stores -> report/, a page for people and metrics for DVC."""

from pathlib import Path

from stages import command


def main(as_json: command.Json = False) -> None:
    """Compare all runs: means, paired differences with intervals, the share of the gap that is closed."""
    from pipeline.report import report

    command.show(report(Path("."), command.REPORT), as_json)


if __name__ == "__main__":
    command.single(main)
