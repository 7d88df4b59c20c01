"""Faults at a chosen place: a process that is killed, or a disk that is full.

A place is the n-th event that changes files below results/: a file opened for writing, removed,
renamed or synchronised, a folder made or removed. Python reports them to audit hooks; `os.fsync`
and `os.pwrite` have no such report and are wrapped.
"""

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, Literal

Fault = Literal["none", "kill", "full"]
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
RELATIVE = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}  # may name an open folder last
GROWS = {"open", "os.rename", "os.mkdir", "fsync", "pwrite"}  # what a full disk refuses
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Injector:
    """Counts events, and causes a fault at one of them."""

    def __init__(self, folder: str, fault: Fault, at: int) -> None:
        """Watch a folder; `at` counts the events that the fault can hit, from 0."""
        self.count, self._folder, self._fault, self._at = 0, os.path.realpath(folder), fault, at
        self._inside = threading.local()

    def watch(self) -> None:
        """Begin; lasts as long as the process."""
        sys.addaudithook(self._hook)
        for name in ("fsync", "pwrite"):
            setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, whole: Any) -> Any:
        def call(descriptor: int, *rest: Any) -> Any:
            self._event(name, f"/proc/self/fd/{descriptor}")
            return whole(descriptor, *rest)

        return call

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if getattr(self._inside, "busy", False):
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes | os.PathLike) and flags & _WRITES:
                self._event(event, path, bool(flags & (os.O_CREAT | os.O_TRUNC)))
        elif event in CHANGES:
            path = arguments[1] if event == "os.rename" else arguments[0]
            if isinstance(path, int):
                path = f"/proc/self/fd/{path}"
            elif event in RELATIVE and arguments[-1] >= 0:  # relative to an open folder
                path = os.path.join(f"/proc/self/fd/{arguments[-1]}", os.fsdecode(path))
            self._event(event, path)

    def _event(self, event: str, path: Any, new: bool = True) -> None:
        with self._alone():
            place = os.path.realpath(os.fsdecode(path))
            if not place.startswith(f"{self._folder}/"):
                return
            if event == "os.mkdir" and os.path.isdir(place):
                return  # changes nothing
            if self._fault == "full" and event not in GROWS:
                return
            if self._fault == "full" and event == "open" and not new:
                return  # makes no file and empties none
            self.count += 1
            if self.count - 1 != self._at:
                return
        if self._fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self._fault == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), place)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self._inside.busy = True
        try:
            yield
        finally:
            self._inside.busy = False
