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

    If the server is killed, the fork works to its end, and its status is lost. Then this function
    returns: the caller finds what the fork has made, and otherwise resumes or fails as it did.
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
        pid, forwarded = int(started), []
        before = {
            name: signal.signal(name, lambda number, _: forwarded.append(_send(pid, number)))
            for name in FORWARDED
        }
        ended = answers.readline()  # nothing if the server was killed, once the fork has ended, too
    if ended:
        _exit_as(int(ended))
    if forwarded:  # it was told to end
        _exit_as(-forwarded[-1])
    for name, handler in before.items():
        signal.signal(name, handler)


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


def _send(pid: int, number: int) -> int:
    """Send a signal to the fork, which may have ended already; return its number."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    return number


def _exit_as(status: int) -> None:
    """Exit like the fork: with its status, or by the signal that ended it (negative)."""
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)
