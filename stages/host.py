"""One process for all stages of an `aft run`: the process that started DVC also runs each `aft STAGE` that DVC starts.

DVC decides what is stale, and starts a command for each such stage. Each new process, and its worker processes, would
import torch again, which takes longer than the stages of a small project. So `aft run` listens on a socket, and DVC's
commands find its path in their environment. They pass on their arguments, environment, standard output and error, wait,
and end with the exit code of the stage. A command in another folder or with other variables runs in its own process, as
without a host.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from pipeline.files import scratch_folder
from pipeline.processes import end_with

ADDRESS = "AFT_HOST"
"""The environment variable for the path of the socket."""

OWN = ("_", "OLDPWD", "PWD", "SHLVL")
"""Variables that a shell sets for each command. They may differ, as may those of DVC."""

INTERRUPTED = 130
"""The exit code of a stage that was interrupted."""

POLL = 0.05
"""Seconds between two checks whether DVC has ended."""


def ask() -> int | None:
    """Let the host, if there is one, run this command. Returns its exit code, or None if it must run here."""
    path = os.environ.get(ADDRESS)
    if path is None:
        return None
    with socket.socket(socket.AF_UNIX) as host:
        try:
            host.connect(path)
        except OSError:
            # `aft run` was killed: what DVC goes on to start ends at once, or it would do all the rest.
            return INTERRUPTED
        # On Ctrl-C the host, which gets it as well, stops the stage and answers.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        request = {"command": sys.argv, "folder": os.getcwd(), "environment": _compared(os.environ)}
        socket.send_fds(host, [b"."], [1, 2])
        host.sendall(json.dumps(request).encode() + b"\n")
        with host.makefile("r") as answers:
            answer = answers.readline()
        if answer.strip() == "decline":
            signal.signal(signal.SIGINT, before)
            return None
    return int(answer) if answer else 1


def repro(command: list[str], environment: Mapping[str, str], main: Callable[[], None]) -> int:
    """Run DVC, and here, one after another, the stages that it starts; DVC's exit code.

    Args:
        command: of DVC.
        environment: of DVC.
        main: runs the command in `sys.argv` and ends with `SystemExit`.

    Raises:
        KeyboardInterrupt: a stage was interrupted.
    """
    # A folder that only this user can enter. Not in the project: the path of a socket must be short.
    name = Path(tempfile.gettempdir()) / f"aft-{os.getuid()}"
    with scratch_folder(name) as folder, socket.socket(socket.AF_UNIX) as host:
        path = str(folder / "host")
        host.bind(path)
        host.listen()
        host.settimeout(POLL)
        given = {**environment, ADDRESS: path}
        dvc = subprocess.Popen(command, env=given)
        interrupted = False
        while dvc.poll() is None:
            try:
                client, _ = host.accept()
                with client:
                    client.settimeout(None)
                    # DVC does not hear Ctrl-C while a stage runs: after one, what it still starts ends at once.
                    run = partial(_run, main=main) if not interrupted else lambda command: INTERRUPTED
                    interrupted |= _serve(client, _compared(given), run) == INTERRUPTED
            except TimeoutError:
                pass
            except KeyboardInterrupt:
                interrupted = True
    if interrupted:
        raise KeyboardInterrupt
    return dvc.returncode


def _dvc(parent: int, arguments: list[str]) -> None:
    """Run DVC in this process, for as long as the process that started it is there."""
    from dvc.cli import main

    end_with(parent, started_by_main=True)
    sys.exit(main(arguments))


def _serve(client: socket.socket, environment: Mapping[str, str], run: Callable[[list[str]], int]) -> int | None:
    """Run one command; its exit code, or None if it was declined."""
    _, files, _, _ = socket.recv_fds(client, 1, 2)
    try:
        with client.makefile("r") as lines:
            request = json.loads(lines.readline())
        if request["folder"] != os.getcwd() or request["environment"] != environment:
            client.sendall(b"decline\n")
            return None
        with _output(files), _stopped_with(client):
            code = run(request["command"])
    finally:
        for file in files:
            os.close(file)
    with suppress(OSError):
        client.sendall(f"{code}\n".encode())
    return code


def _run(command: list[str], main: Callable[[], None]) -> int:
    """Run a command as its own process would; its exit code."""
    arguments, variables = sys.argv, dict(os.environ)
    sys.argv = command
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.argv = arguments
        # An option such as `--no-verify` sets one, for this stage alone.
        os.environ.clear()
        os.environ.update(variables)
    return 0


@contextmanager
def _output(files: list[int]) -> Iterator[None]:
    """Inside, standard output and error go to these files, those of child processes too."""
    _flush()
    kept = [os.dup(number) for number in (1, 2)]
    for number, file in zip((1, 2), files, strict=True):
        os.dup2(file, number)
    try:
        yield
    finally:
        _flush()
        for number, file in zip((1, 2), kept, strict=True):
            os.dup2(file, number)
            os.close(file)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # What the stage printed may have no reader any more.
        with suppress(OSError):
            stream.flush()


@contextmanager
def _stopped_with(client: socket.socket) -> Iterator[None]:
    """Inside, the stage is interrupted when the command that asked for it ends before it."""
    done = threading.Event()

    def watch() -> None:
        with suppress(OSError):
            client.recv(1)
        if not done.is_set():
            # A signal, because it also ends a wait of the main thread. Not SIGINT: under `nohup` that is ignored.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    watching = threading.Thread(target=watch, daemon=True, name="aft-client")
    watching.start()
    try:
        yield
    finally:
        done.set()
        # Wakes the thread; what is sent still arrives.
        with suppress(OSError):
            client.shutdown(socket.SHUT_RD)
        watching.join()
        signal.signal(signal.SIGUSR1, before)


def _compared(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in OWN and not name.startswith("DVC")}


if __name__ == "__main__":
    _dvc(int(sys.argv[1]), sys.argv[2:])
