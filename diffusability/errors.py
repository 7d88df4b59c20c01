"""Errors for users: one message that says what, where, and what to do."""

import sys
from collections.abc import Callable


class DiffusabilityError(Exception):
    """Base class of errors whose message is written for the user.

    Scripts and the command line print it without a traceback; any other exception is a bug and
    keeps its traceback.
    """

    exit_code = 1


class StudyError(DiffusabilityError):
    """The study file asks for something that does not exist or cannot work."""

    exit_code = 2


class ArtifactError(DiffusabilityError):
    """An artifact on disk is missing, incomplete, altered, or not the requested one."""


class DataError(DiffusabilityError):
    """Files of a dataset are missing, damaged, changed, or not laid out as the study declares."""


class ArtifactBusyError(ArtifactError):
    """Another process is writing the artifact; try again later (EX_TEMPFAIL)."""

    exit_code = 75


class MeasurementError(DiffusabilityError):
    """The data do not allow the metric (too few samples, one class, NaN...)."""


class TrainingError(DiffusabilityError):
    """A training run cannot continue: a non-finite loss, a checkpoint of another run."""


class TrainingInterrupted(DiffusabilityError):  # noqa: N818 - an interruption is not an error
    """The run saved its state and stopped before its last step; the same command resumes it."""

    exit_code = 75


def exit_status(work: Callable[[], int | None]) -> int:
    """Return the exit status of `work`: what it returns, or that of its error, which is printed."""
    try:
        return work() or 0
    except DiffusabilityError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
