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

ADDRESS = (
    "DIFFUSABILITY_FORK_SERVER"  # environment variable: process number and socket of the server
)
STREAMS = (0, 1, 2)
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def hand_over() -> None:
    """Let a fork of the server run this script, and exit with its status.

    The fork has this process's arguments, working directory, environment and streams; signals sent
    to this process are forwarded to it. Without a running server this function does nothing.
    """
    server, _, address = os.environ.get(ADDRESS, "").partition(":")
    if not address or not (connection := _connect(int(server), address)):
        return
    call = {"argv": sys.argv, "cwd": os.getcwd(), "environment": dict(os.environ)}
    with connection, connection.makefile("rb") as answers:
        socket.send_fds(connection, [b"+"], STREAMS)
        connection.sendall(json.dumps(call).encode() + b"\n")
        started = answers.readline()
        if not started:
            return  # the server ended before it forked
        pid = int(started)
        for name in FORWARDED:
            signal.signal(name, lambda number, _: _send(pid, number))
        ended = answers.readline()
    _exit_as(int(ended) if ended else _outlive(pid))


def _connect(server: int, address: str) -> socket.socket | None:
    """Return a connection as soon as the server listens; None if it has ended."""
    while _alive(server):
        if os.path.exists(address):
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(address)
            except OSError:
                connection.close()
                return None
            return connection
        time.sleep(0.02)  # the server is still importing
    return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _send(pid: int, number: int) -> None:
    """Forward a signal; the fork may have ended already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _outlive(pid: int) -> int:
    """Wait for a fork whose server was killed; its status is lost with the server.

    The caller gets a failure, and finds the finished artifact when it tries again.
    """
    while _alive(pid):
        time.sleep(0.1)
    return 1


def _exit_as(status: int) -> None:
    """Exit like the fork: with its status, or by the signal that ended it (negative)."""
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)
