"""Client of the fork server: run this script in a fork of the server, or without it.

Only small modules of the standard library are imported here, because the server saves import time.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import time

ADDRESS = "DIFFUSABILITY_FORK_SERVER"  # environment variable: path of the server's socket
# environment variable of a job whose fork's status was lost: when it asked for the fork
LOST = "DIFFUSABILITY_LOST_FORK"
STREAMS = (0, 1, 2)
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def hand_over() -> None:
    """Let a fork of the server run this script, and exit with its status.

    The fork has this process's arguments, working directory, environment and streams; signals sent
    to this process are forwarded to it. Without a running server this function does nothing.

    If the server is killed, the fork works to its end, and its status is lost. Then this function
    returns, and `lost_fork` says since when the fork may have worked: the caller looks for what it
    has made, and otherwise resumes or fails as it did.
    """
    os.environ.pop(LOST, None)
    address = os.environ.get(ADDRESS)
    if not address:
        return
    asked = time.time()
    received: list[int] = []
    early: list[int] = []  # before there was a fork
    forks: list[int] = []  # process number of the fork

    def forward(number: int, _: object) -> None:
        received.append(number)
        for pid in forks:
            _send(pid, number)
        if not forks:
            early.append(number)

    before = {name: signal.signal(name, forward) for name in FORWARDED}
    ended = b""
    with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
        pid = _call(connection, address)  # an error: the server has ended
        os.environ[LOST] = str(asked)  # until its status is known
        if pid is not None:
            forks.append(pid)
            while early:
                _send(pid, early.pop(0))
            ended = _line(connection)  # nothing if the server was killed, once the fork has ended
    if ended:
        _exit_as(int(ended))
    if received:  # it was told to end
        _exit_as(-received[-1])
    for name, handler in before.items():
        signal.signal(name, handler)


def lost_fork() -> float | None:
    """Return when this process asked for a fork whose status was lost, in seconds since 1970."""
    asked = os.environ.get(LOST)
    return float(asked) if asked else None


def _call(connection: socket.socket, address: str) -> int | None:
    """Ask for a fork, wait while the server imports, and return the fork's process number.

    Returns:
        None if the server ended before it said that it forked.
    """
    connection.connect(address)
    call = {"argv": sys.argv, "cwd": os.getcwd(), "environment": dict(os.environ)}
    socket.send_fds(connection, [b"+"], STREAMS)
    connection.sendall(json.dumps(call).encode() + b"\n")
    started = _line(connection)
    return int(started) if started else None


def _line(connection: socket.socket) -> bytes:
    """Return what the server says, up to the end of the line; nothing if it has ended."""
    said = b""
    while not said.endswith(b"\n"):
        try:
            part = connection.recv(1)
        except ConnectionResetError:
            return b""
        if not part:
            return b""
        said += part
    return said


def _send(pid: int, number: int) -> None:
    """Send a signal to the fork, which may have ended already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _exit_as(status: int) -> None:
    """Exit like the fork: with its status, or by the signal that ended it (negative)."""
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)
