"""Time that a run still takes: estimates of its jobs, corrected by those that have ended."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

OVER = 0.1  # share of its time that a job which is over its estimate is expected to take more


@dataclass(frozen=True)
class Running:
    """A job that runs: its rule, its first output, and when it started in seconds."""

    rule: str
    output: str
    since: float


@dataclass
class _Ended:
    """Jobs of one rule that have ended: their number, their time, and what was estimated."""

    jobs: int = 0
    seconds: float = 0.0
    estimated: float = 0.0


class TimeLeft:
    """Forecast of the end of a run, job by job.

    A rule's jobs are expected to be off from their estimates by the ratio that those which have
    ended were off by; where nothing of a rule has ended, by the ratio over all rules. A job that is
    over its time is expected to take a tenth of that time more.
    """

    def __init__(self, waiting: Mapping[str, str]) -> None:
        """Take the rule of every job that is to run, by its first output."""
        self.waiting = dict(waiting)
        self.estimates: Mapping[str, float] = {}  # seconds by first output; 0 where unknown
        self._ended: dict[str, _Ended] = defaultdict(_Ended)

    def start(self, job: Running) -> None:
        """Note that a job runs."""
        self.waiting.pop(job.output, None)

    def end(self, job: Running, now: float) -> None:
        """Note that a job is done."""
        for ended in (self._ended[job.rule], self._ended[""]):
            ended.jobs += 1
            ended.seconds += now - job.since
            ended.estimated += self.estimates.get(job.output, 0.0)

    def seconds(self, running: list[Running], unnamed: int, elapsed: float, now: float) -> float:
        """Return the seconds until the last job ends; NaN before the first has ended.

        Args:
            running: the jobs that run. unnamed: jobs to run that are neither named nor running.
            elapsed: seconds since the first job started. now: on the clock of the jobs' starts.
        """
        whole = self._ended[""]
        if not whole.jobs or elapsed <= 0:
            return float("nan")
        longest = [
            max(self._expected(job.rule, job.output) - (now - job.since), OVER * (now - job.since))
            for job in running
        ]
        work = sum(longest) + unnamed * whole.seconds / whole.jobs
        work += sum(self._expected(rule, output) for output, rule in self.waiting.items())
        busy = whole.seconds + sum(now - job.since for job in running)
        return max(work / max(1.0, busy / elapsed), max(longest, default=0.0))

    def _expected(self, rule: str, output: str) -> float:
        """Return the seconds that a job is expected to take."""
        estimate, whole = self.estimates.get(output, 0.0), self._ended[""]
        for ended in (self._ended.get(rule), whole):
            if ended and estimate and ended.estimated:
                return estimate * ended.seconds / ended.estimated
        ended = self._ended.get(rule, whole)
        return ended.seconds / ended.jobs
