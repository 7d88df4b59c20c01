"""Snakemake forked from a process that has imported it: a start takes a third of the time.

A job on Slurm is two Snakemakes inside the first one, each of which imports for a second to run for
half of one. `serving(folder)` yields a command to call in the place of `python -m snakemake`: it
hands arguments, folder, environment and streams to that process and ends as Snakemake does.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STREAMS = (0, 1, 2)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Start the process and yield the command; stop it at the end. The folder's path is short."""
    address = folder / "snakemake.socket"  # of at most some hundred characters
    address.unlink(missing_ok=True)
    server = subprocess.Popen([sys.executable, __file__, "serve", str(address)])
    try:
        while not address.exists():
            if server.poll() is not None:
                raise RuntimeError(f"warm_snakemake ended with {server.returncode}")
            time.sleep(0.05)
        yield f'"{sys.executable}" -S -E "{Path(__file__).resolve()}" "{address}"'
    finally:
        server.terminate()
        server.wait()
        address.unlink(missing_ok=True)


def ask(address: str, arguments: list[str]) -> int:
    """Have Snakemake run with this process's folder, environment and streams; return its status."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        call = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        socket.send_fds(connection, [b"x"], STREAMS)
        connection.sendall(json.dumps(call).encode())
        connection.shutdown(socket.SHUT_WR)
        status = connection.recv(1)
    return status[0] if status else 1  # it was killed


def serve(address: str) -> None:
    """Fork for every call, until terminated."""
    import snakemake.cli  # noqa: F401  # what follows is what the workflow's rules import, too

    with socket.socket(socket.AF_UNIX) as listener:
        scratch = f"{address}.new"  # who sees the address can connect
        listener.bind(scratch)
        listener.listen(128)
        os.rename(scratch, address)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _answer(connection)
            connection.close()
            _reap()


def _reap() -> None:
    """Take note of the forks that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _answer(connection: socket.socket) -> None:
    """Run one call in this fork, and end it."""
    from snakemake import cli

    _, streams, _, _ = socket.recv_fds(connection, 1, len(STREAMS))
    for stream, own in zip(streams, STREAMS, strict=True):
        os.dup2(stream, own)
        os.close(stream)
    call = json.loads(b"".join(iter(lambda: connection.recv(65536), b"")))
    os.chdir(call["folder"])
    os.environ.clear()
    os.environ.update(call["environment"])
    sys.path[0] = call["folder"]  # as `python -m` has it
    program = Path(cli.__file__).with_name("__main__.py")
    sys.argv = [str(program), *call["arguments"]]
    status = 1
    try:
        cli.main(call["arguments"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send(bytes([status & 0xFF]))
        os._exit(status)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
