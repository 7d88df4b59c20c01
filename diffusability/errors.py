"""The errors a person is meant to read: one message that says what, where, and what to do."""


class DiffusabilityError(Exception):
    """Base of every error whose message is written for the person at the terminal.

    Scripts and the command line print such a message without a traceback; anything else that is
    raised is a defect of ours and keeps its traceback.
    """

    exit_code = 1


class StudyError(DiffusabilityError):
    """The study file asks for something that does not exist or cannot work."""

    exit_code = 2


class ArtifactError(DiffusabilityError):
    """An artifact on disk is missing, incomplete, altered, or not the one that was asked for."""


class DataError(DiffusabilityError):
    """Files of a dataset are missing, damaged, changed, or not laid out as the study declares."""


class ArtifactBusyError(ArtifactError):
    """Another process is writing the artifact; trying again later is right (EX_TEMPFAIL)."""

    exit_code = 75


class MeasurementError(DiffusabilityError):
    """The data given to a metric cannot carry that metric (too few samples, one class, NaN...)."""


class TrainingError(DiffusabilityError):
    """A training run cannot go on: a loss that is not finite, a checkpoint of another run."""


class TrainingInterrupted(DiffusabilityError):  # noqa: N818 - an interruption is not an error
    """The run saved its state and stopped before its last step; the same command resumes it."""

    exit_code = 75
