"""The `aft` command."""

import signal
import sys


def main() -> None:
    """The entry point of `aft`.

    Until `entry.run` takes over, and once it has ended, Ctrl-C ends this process as it ends any program: Python would
    print a traceback of what it is importing. Where it is ignored, as under `nohup`, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from stages import host

    if (code := host.ask()) is not None:
        sys.exit(code)
    from stages import entry
    from stages.app import app

    entry.run(app, "aft")


if __name__ == "__main__":
    main()
