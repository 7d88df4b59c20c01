"""Requests to stop: SIGTERM (schedulers, Snakemake) and SIGINT (Ctrl-C) end a run cleanly."""

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

# a scheduler signals every process of a job, and torchrun forwards its own copy: a second signal
# within this time is the same request
SAME_REQUEST_SECONDS = 2.0


class Interruption:
    """Context that records a stop signal instead of exiting; a second request kills."""

    def __init__(self) -> None:
        """Start without a request."""
        self.reason: str | None = None
        self._asked = 0.0
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        """Install the handlers, where possible (in the main thread)."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Restore the previous handlers."""
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.reason is None:
            self.reason = f"stopped by {signal.Signals(number).name}"
            self._asked = time.monotonic()
        elif time.monotonic() - self._asked > SAME_REQUEST_SECONDS:
            signal.signal(number, self._former[signal.Signals(number)])
            os.kill(os.getpid(), number)
