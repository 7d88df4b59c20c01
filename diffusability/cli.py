"""`diffusability`: run and inspect studies and their results."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from diffusability import __version__
from diffusability.artifacts.atomic import disk_errors
from diffusability.artifacts.gc import (
    Garbage,
    find_evictable,
    find_garbage,
    find_leftovers,
    remove,
)
from diffusability.artifacts.inventory import damage, files, finished, is_done, lost
from diffusability.artifacts.records import find_studies
from diffusability.artifacts.result_card import result_cards, result_problems
from diffusability.artifacts.status import status_text
from diffusability.artifacts.why import explain
from diffusability.errors import ArtifactError, StudyError, exit_status
from diffusability.execution.gpus import machine_gpus
from diffusability.execution.plan_table import plan_table
from diffusability.execution.this_machine import measure
from diffusability.study.core.commands import Run, set_run
from diffusability.study.core.workflow_files import CLAIMS, default_study, workflow_folder
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.stages import BULK, CARD
from diffusability.study.reading.load import load_study
from diffusability.study.reading.study_file import schema
from diffusability.study.reading.yaml_file import read_overrides


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["run"]:  # all following arguments are for Snakemake, also --help
        return run_snakemake(words[1:])
    if words[:1] == ["score"]:
        return exit_status(lambda: _score(words[1:]))
    return exit_status(lambda: _run(_parser().parse_args(words)))


def _run(arguments: argparse.Namespace) -> int:
    """State what commands in messages have to name, and run the command."""
    snakefile = workflow_folder() / "Snakefile"
    found = snakefile == Path("Snakefile").absolute()
    arguments.config = read_overrides(arguments.config)
    set_run(Run(arguments.study or (), arguments.config, "" if found else str(snakefile)))
    arguments.study = arguments.study or [default_study()]
    try:
        return int(arguments.command(arguments))
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def _score(words: Sequence[str]) -> int:
    # imported here: torch is not needed for the other commands
    from diffusability.scoring.command import main as score

    return score(words)


def _schema(arguments: argparse.Namespace) -> int:
    print(schema(), end="")
    return 0


def run_snakemake(words: Sequence[str]) -> int:
    """Replace this process by Snakemake with the workflow's Snakefile and these arguments."""
    snakefile = str(workflow_folder() / "Snakefile")
    command = [sys.executable, "-m", "snakemake", "--snakefile", snakefile, *words]
    os.execv(sys.executable, command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="diffusability", description=__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser(
        "run", help=f"run Snakemake, with its own arguments, on the workflow in {workflow_folder()}"
    )
    commands.add_parser("score", help="measure latent spaces of your own (score --help)")

    def add(name: str, command: object, help_text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_text, description=help_text)
        sub.set_defaults(command=command)
        sub.add_argument(
            "--configfile",
            "--study",
            dest="study",
            action="append",
            help="study file (the default study); may be given again",
        )
        sub.add_argument(
            "--config",
            nargs="+",
            action="extend",
            default=[],
            metavar="KEY=VALUE",
            help="keys to set in the study, as for Snakemake: 'select={tokenizers: [a]}'",
        )
        return sub

    add("schema", _schema, "print the JSON schema of a study file, for editors")
    add("ls", _ls, "list the artifacts of a study and whether they are there").add_argument(
        "--missing", action="store_true", help="only those that are not there"
    )
    plan = add("plan", _plan, "estimated jobs, time and disk of a study, and its missing inputs")
    plan.add_argument(
        "--gpus",
        type=_count,
        nargs="+",
        help="numbers of GPUs that time is estimated for (8 64; on a machine without GPUs: this "
        "machine)",
    )
    plan.add_argument(
        "--claims", action="store_true", help="which claims of the paper the study can test"
    )
    add(
        "status",
        _status,
        "running jobs with their progress, and failed jobs with the end of their logs",
    )
    add("why", _why, "say why an artifact exists, or would be made").add_argument(
        "name",
        nargs="?",
        default="",
        metavar="PATH",
        help="path of an artifact, or the beginning of its name (all)",
    )
    add("verify", _verify, "hash every file and compare it with its provenance card").add_argument(
        "paths", nargs="*", type=Path, help="folders of artifacts (all)"
    )
    gc = add("gc", _gc, "list artifacts of no study that ran here or is here; --yes removes them")
    gc.add_argument(
        "--evict",
        nargs="*",
        choices=BULK,
        metavar="STAGE",
        help="choose only latents, samples (default: both) that no remaining job needs",
    )
    gc.add_argument(
        "--keep",
        type=_size,
        metavar="SIZE",
        help="choose latents and samples until at most SIZE is left (500GiB, 0), even if needed",
    )
    gc.add_argument(
        "--forget",
        action="append",
        default=[],
        metavar="NAME",
        help="name of a study whose artifacts go too, unless another study names them",
    )
    gc.add_argument("--yes", action="store_true", help="remove instead of listing")
    show = add("show", _show, "print the answer and the headline tables of a finished study")
    form = show.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="one row per tokenizer, as CSV")
    form.add_argument("--json", action="store_true", help="everything, as JSON")
    compare = add("compare", _compare, "compare two studies or two tokenizers")
    compare.add_argument("a", metavar="A", help="a study file, or a tokenizer of the study")
    compare.add_argument("b", metavar="B", help="a second one of the same kind")
    compare.add_argument(
        "--all", action="store_true", help="every metric instead of the headline ones"
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: not a number of 1 or more")
    return int(text)


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d*)?) *([KMGT]?)(i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text}: not a size such as 500GiB, 2T or 0")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


def _load(arguments: argparse.Namespace) -> Plan:
    return Plan(load_study(arguments.study, arguments.config))


def _ls(arguments: argparse.Namespace) -> int:
    for artifact in _load(arguments):
        done = is_done(artifact)
        if done and arguments.missing:
            continue
        print(f"{'done   ' if done else 'missing'} {artifact.path}")
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    plan = _load(arguments)
    if arguments.claims:
        # imported here: pandas is not needed to list a plan
        from diffusability.claims.claim import load_claims
        from diffusability.claims.power import power_text

        confidence = plan.study.analysis.confidence
        print(power_text(plan.study, load_claims(CLAIMS), confidence))
    elif arguments.gpus is None and not machine_gpus(os.environ):
        print(plan_table(plan, here=measure()))
    else:
        print(plan_table(plan, arguments.gpus or (8, 64)))
    return 0


def _status(arguments: argparse.Namespace) -> int:
    print(status_text(_load(arguments)))
    return 0


def _why(arguments: argparse.Namespace) -> int:
    print(explain(_load(arguments), arguments.name))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    paths = [found for path in arguments.paths for found in _artifacts(path)] or list(finished())
    wrong = {path: problems for path in paths if (problems := damage(path))}
    cards = [] if arguments.paths else list(result_cards())
    found = [*chain.from_iterable(wrong.values())]
    plan = _load(arguments) if wrong or not arguments.paths else None
    if plan is not None and not arguments.paths:
        found += lost(plan)
    alone = not paths  # tables that were copied without the artifacts
    altered = [problem for card in cards for problem in result_problems(card, alone)]
    for problem in (*found, *altered):
        print(problem)
    print(f"{len(paths)} artifacts verified, {len(found)} problems")
    if cards:
        print(f"{len(cards)} cards of tables, figures and reports, {len(altered)} problems")
    if cards and alone:
        print("note: there are no artifacts here that tables could be compared with")
    own = {artifact.fingerprint for artifact in plan} if plan is not None else set()
    if any(path.exists() and path.name not in own for path in wrong):
        files = ", ".join(map(str, arguments.study))
        print(
            f"note: {files} does not name all of them; a command above works with the --configfile "
            "of the study that does, and is printed so by `diffusability verify --configfile FILE`"
        )
    return 1 if found or altered else 0


def _artifacts(path: Path) -> list[Path]:
    """Return the folder of an artifact, or those of all below it."""
    below = [file.parent for file in files(path) if file.name == CARD]
    return [path] if path in below or not below else below


def _gc(arguments: argparse.Namespace) -> int:
    evicts = arguments.evict is not None or arguments.keep is not None
    if evicts and arguments.forget:
        raise StudyError(
            "--evict lets go of no study; for that alone: diffusability gc --forget NAME --yes"
        )
    studies = find_studies(arguments.study, arguments.config, arguments.forget)
    there = {str(path) for path in finished()}
    for study in studies.named:
        if here := len(study.artifacts & there):
            print(f"kept: {here} artifacts of study `{study.study}` ({study.source})")
    for doubt in studies.doubts:
        print(f"unclear: {doubt}")
    if evicts:  # what is evicted can be made again, and nothing else goes
        garbage = find_evictable([_load(arguments)], arguments.evict or BULK, arguments.keep)
    else:
        garbage = find_garbage(studies.artifacts) + find_leftovers(studies.artifacts)
        if arguments.yes and studies.doubts and garbage:
            where = studies.doubts[0].partition(":")[0]
            raise ArtifactError(
                f"nothing was removed, because a study may name what would go ({where}); "
                "first mend what is unclear above"
            )
    freed = sum(_remove(item, arguments.yes) for item in garbage)
    if arguments.yes:
        for study in find_studies(arguments.study, arguments.config).named:
            if study.record is not None and study.study in arguments.forget:
                with disk_errors(study.record):
                    study.record.unlink()
    what = "removed" if arguments.yes else "to remove"
    print(f"{len(garbage)} folders and files, {freed / 2**20:.1f} MiB {what}")
    return 0


def _remove(item: Garbage, really: bool) -> int:
    """Remove what can go, or only say so; return the bytes that this frees."""
    gone = remove(item) if really else True
    verb = "would remove" if not really else "removed" if gone else "in use, kept"
    print(f"{verb} {item.path} ({item.bytes / 2**20:.1f} MiB: {item.reason})")
    return item.bytes * gone


def _show(arguments: argparse.Namespace) -> int:
    # imported here: pandas is not needed to list a plan
    from diffusability.analysis.headline import Headline

    headline = Headline.of(_load(arguments))
    if arguments.csv:
        print(headline.csv(), end="")
    else:
        print(headline.json() if arguments.json else headline.text())
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from diffusability.report.compare import comparison_text

    text = comparison_text(
        arguments.study, arguments.a, arguments.b, arguments.all, arguments.config
    )
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
