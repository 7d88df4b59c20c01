"""Progress of long work: a bar on a terminal, occasional lines in a log."""

import logging
import sys
import time
from pathlib import Path

from tqdm import tqdm

from diffusability.artifacts.progress import Progress as JobProgress
from diffusability.artifacts.progress import write_progress

LINE_EVERY_SECONDS = 10.0


class Progress:
    """Counts steps of `total`; shows the latest values and the remaining time."""

    def __init__(self, what: str, total: int, done: int = 0, state: Path | None = None) -> None:
        """Start at step `done`; progress is also written to a file in `state`."""
        self._state = state
        self._logger = logging.getLogger(what)
        self._total, self._begun, self._done = total, done, done
        self._start = self._last = time.monotonic()
        self._bar = (
            tqdm(total=total, initial=done, desc=what, leave=False) if sys.stderr.isatty() else None
        )

    def advance(self, values: dict[str, float] | None = None) -> None:
        """Count one step; `values` are shown when given."""
        self._done += 1
        text = " ".join(f"{name} {value:.4g}" for name, value in (values or {}).items())
        if self._bar is not None:
            self._bar.update()
            if text:
                self._bar.set_postfix_str(text)
        now = time.monotonic()
        if values is not None and now - self._last >= LINE_EVERY_SECONDS:
            self._last = now
            rate = (self._done - self._begun) / (now - self._start)
            left = (self._total - self._done) / rate
            if self._bar is None:
                self._logger.info(
                    "%d/%d %s (%.1f/s, %.0f s left)", self._done, self._total, text, rate, left
                )
            self._write(values, left)

    def _write(self, values: dict[str, float], left: float) -> None:
        if self._state is not None:
            losses = [f"{name} {value:.4g}" for name, value in values.items()]
            loss = losses[0] if losses else ""
            progress = JobProgress("running", self._done, self._total, loss, left)
            write_progress(self._state, progress)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
