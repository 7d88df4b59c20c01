"""Where the workflow's own files are, from any directory, in a checkout and once installed."""

import os
from pathlib import Path

# the rules set it for their jobs; the shell commands of the rules name the scripts by it, so that
# they are the same text wherever the workflow is
VARIABLE = "DIFFUSABILITY_WORKFLOW"
PACKAGE = Path(__file__).resolve().parents[2]
CAPTIONS = PACKAGE / "report" / "captions"
CLAIMS = PACKAGE / "claims" / "study.yaml"  # what the paper says, as data
LATENT_CLAIMS = PACKAGE / "claims" / "fisher_latents.yaml"  # the second paper, of images
FISHER_CLAIMS = PACKAGE / "claims" / "fisher_toy.yaml"  # and of its toy data
DEFAULT_STUDY = "config.yaml"  # beside the Snakefile; run where no other is given
NO_FILE = "none"  # instead of a study file: the whole study is given by other means


def workflow_folder() -> Path:
    """Return the folder of Snakefile, rules/, scripts/, envs/, config.yaml and studies/.

    In a job, that of the workflow which started it; else the current folder if it is one; else
    the checkout that the package belongs to, or the copy in the installed package.
    """
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    candidates = (Path.cwd(), PACKAGE / "workflow")
    return next((folder for folder in candidates if is_workflow(folder)), PACKAGE.parent)


def is_workflow(folder: Path) -> bool:
    """Whether the folder holds this workflow, and not some other Snakefile."""
    return (folder / "Snakefile").is_file() and (folder / "rules" / "fisher.smk").is_file()


def default_study() -> str:
    """Return the path of the study that is run where none is given."""
    return shown(workflow_folder() / DEFAULT_STUDY)


def toy_study() -> str:
    """Return the path of the toy study of Fisher information."""
    return shown(workflow_folder() / "studies" / "fisher_toy.yaml")


def shown(path: str | Path) -> str:
    """Return a path relative to the current folder where it is below it, else whole."""
    whole, here = Path(path).absolute(), Path.cwd()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)
