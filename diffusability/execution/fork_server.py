"""A process that has imported the jobs' modules and forks for each job, in milliseconds.

A job of a small study spends a third of its time on starting Python and importing torch. A local
Snakemake therefore starts one process that has done both; each script asks it for a fork
(`fork_client`). A fork has the script's arguments, folder, environment, streams, exit status and
signals. The server only imports: it refuses to fork if that has started a thread or CUDA. It ends
with Snakemake, however that ends, while running forks continue. Clusters start ordinary processes.
"""

import contextlib
import gc
import importlib
import json
import logging
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusability.execution.fork_client import ADDRESS, STREAMS
from diffusability.study.planning.figures import FIGURES
from diffusability.study.planning.stages import STAGES, stage_code
from diffusability.study.planning.tables import TABLES

# imported before the first fork, with the code of all stages, tables and figures; a missing module
# is an error only in the job that needs it
LIBRARIES = (
    "torch",
    "torch._dynamo",  # a second of processor time: the first optimizer imports it
    "numpy",
    "pandas",
    "scipy.linalg",
    "scipy.optimize",
    "scipy.special",
    "scipy.stats",
    "sklearn.linear_model",
    "sklearn.manifold",
    "sklearn.neighbors",
    "statsmodels.api",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_pdf",
    "matplotlib.backends.backend_svg",
    "seaborn",
    "safetensors.torch",
)


def shared_modules() -> list[str]:
    """Return the modules that jobs import: libraries, and the code of stages, tables, figures."""
    stages = [module for stage in STAGES for module in stage_code(stage)]
    codes = [*(table.code for table in TABLES.values()), *(f.code for f in FIGURES.values())]
    drawn = [code.partition(":")[0] for code in codes]
    return list(dict.fromkeys([*LIBRARIES, "diffusability.stages.command", *stages, *drawn]))


def share_imports() -> None:
    """Start a server for the jobs of this process; it ends with this process.

    Without it, as where TMPDIR is too long for a socket's name, every job imports for itself.
    """
    try:
        os.environ.update(start(shared_modules()).environment)
    except OSError as error:
        logging.getLogger(__name__).warning(
            "%s: jobs import each for themselves, which is slower; TMPDIR may be too long", error
        )


@dataclass(frozen=True)
class Call:
    """Arguments and environment of a script."""

    argv: list[str]
    cwd: str
    environment: dict[str, str]


class Server:
    """Handle of a running server."""

    def __init__(self, process: subprocess.Popen[bytes], address: str) -> None:
        """Keep the process, and the pipe whose closing tells it that its owner is gone."""
        self.process = process
        self.environment = {ADDRESS: address}  # tells scripts where the server is

    def stop(self) -> None:
        """End the server after its forks have ended."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def start(shared: Sequence[str]) -> Server:
    """Start a server that lives as long as this process; returns before its imports finish.

    Calls wait in the queue of its socket meanwhile. The socket ends with the server.
    """
    # short, because a socket's path is limited to 107 bytes
    folder = tempfile.mkdtemp(prefix="diffusability-")
    address = f"{folder}/socket"
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    one_thread["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # of pyarrow, if pandas has it
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind(address)
        except OSError:
            os.rmdir(folder)
            raise
        listener.listen(128)
        number = listener.fileno()
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "diffusability.execution.fork_server",
                address,
                str(number),
                *shared,
            ],
            stdin=subprocess.PIPE,  # open only in this process: it closes when this process ends
            env={**os.environ, **one_thread},
            pass_fds=[number],
            start_new_session=True,  # Ctrl-C reaches the scripts, which forward it
        )
    return Server(process, address)


class _Loop:
    """The server's loop: fork for every call, report every exit."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.working: set[int] = set()  # forks, by process number
        self.calls: dict[int, socket.socket] = {}  # connections to the waiting clients
        self.woken, wake = os.pipe()
        os.set_blocking(self.woken, False)
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake)

    def run(self) -> Call | None:
        """Return the call in a fork that was made for it; None when owner and forks are gone."""
        owner: list[int] = [sys.stdin.fileno()]
        while owner or self.working:
            sources: list[int | socket.socket] = [*owner, self.woken, *self.calls.values()]
            ready, _, _ = select.select([*sources, self.listener] if owner else sources, [], [])
            if self.woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.woken, 4096)
                self._reap()
            if owner and owner[0] in ready and not os.read(owner[0], 1):
                owner = []
                self.listener.close()
            for pid, connection in list(self.calls.items()):
                if connection in ready:  # a client sends nothing more: it was killed
                    self._kill(pid)
            if owner and self.listener in ready:
                call = self._accept()
                if call is not None:
                    return call
        return None

    def _accept(self) -> Call | None:
        """Fork for a new call; return it in the fork, None in the server."""
        connection, _ = self.listener.accept()
        line, streams = b"", list[int]()
        connection.settimeout(10)  # from a client that stopped in the middle
        with connection.makefile("rb") as reader, contextlib.suppress(OSError):
            _, streams, _, _ = socket.recv_fds(connection, 1, len(STREAMS))
            line = reader.readline()
        connection.settimeout(None)
        if not line.endswith(b"\n"):
            for descriptor in (*streams, connection.detach()):
                os.close(descriptor)
            return None
        pid = os.fork()
        if pid:
            for stream in streams:
                os.close(stream)
            self.working.add(pid)
            self.calls[pid] = connection
            with contextlib.suppress(OSError):
                connection.sendall(b"%d\n" % pid)
            return None
        self._become_a_job(streams, connection)
        return Call(**json.loads(line))

    def _become_a_job(self, streams: list[int], connection: socket.socket) -> None:
        """Close the server's files and take the client's streams.

        The connection stays open: to the client of a killed server its end is that of the fork.
        """
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for other in (self.listener, *self.calls.values()):
            other.close()
        connection.detach()
        for stream, own in zip(streams, STREAMS, strict=True):
            os.dup2(stream, own)
            os.close(stream)

    def _reap(self) -> None:
        """Send exit statuses to the clients of forks that have ended."""
        while self.working:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            self.working.remove(pid)
            if connection := self.calls.pop(pid, None):  # else it was killed
                with connection, contextlib.suppress(OSError):
                    connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))

    def _kill(self, pid: int) -> None:
        """Kill the fork of a client that was killed."""
        self.calls.pop(pid).close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _serve(address: str, listener: socket.socket, shared: list[str]) -> Call | None:
    """Import and fork until the owner is gone; return the call in each fork."""
    server = os.getpid()
    try:
        for module in shared:
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
        if reason := _not_to_fork():
            print(f"Every job starts Python anew: the fork server {reason}", file=sys.stderr)
            return None
        gc.freeze()  # collections in the forks leave shared memory alone
        return _Loop(listener).run()
    finally:
        if os.getpid() == server:
            listener.close()
            shutil.rmtree(Path(address).parent, ignore_errors=True)


def _not_to_fork() -> str:
    """Return why this process must not fork, or empty: only one thread survives, and no CUDA."""
    tasks = Path("/proc/self/task")  # of Linux
    threads = len(list(tasks.iterdir())) if tasks.exists() else threading.active_count()
    if threads > 1:
        return f"has {threads} threads"
    torch = sys.modules.get("torch")
    return "uses a GPU" if torch is not None and torch.cuda.is_initialized() else ""


def _run(call: Call) -> None:
    """Run the script of a call as `python SCRIPT ARGUMENTS` does."""
    os.chdir(call.cwd)
    os.environ.clear()
    os.environ.update(call.environment)
    del os.environ[ADDRESS]  # this is the fork
    sys.stdin = os.fdopen(0, closefd=False)
    sys.argv = call.argv
    sys.path[0] = str(Path(call.argv[0]).resolve().parent)
    runpy.run_path(call.argv[0], run_name="__main__")


if __name__ == "__main__":
    sys.stdin = os.fdopen(os.dup(0))  # the owner's pipe; 0 becomes the stream of each fork
    own = socket.socket(fileno=int(sys.argv[2]))
    if call := _serve(sys.argv[1], own, sys.argv[3:]):
        _run(call)
