"""Every table of a study, declared once: its columns, what it is made from, and its code.

To add a table: declare it here, write the function, and put its caption into
`report/captions/tables/<name>.rst`. Rules, readers, claims and the report follow from the
declaration.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from diffusability.errors import StudyError
from diffusability.lazy import load_code
from diffusability.study.core.problems import nearest

Kind = Literal["text", "number", "integer", "truth", "guidance"]
BEST = "best"  # the guidance scale that is best for each tokenizer


@dataclass(frozen=True)
class Table:
    """One table of a study.

    Attributes:
        columns: kind of each column. An empty cell is "" in a text and missing in any other kind;
            a `guidance` is a scale, `BEST`, or missing where none applies.
        code: `module:function` that makes it: from the plan, or from the tables of `made_from` in
            their order, with `analysis=` the options of the analysis if it takes them.
        made_from: names of tables; empty for what is collected from artifacts.
        further: columns that a file may lack, which are then empty.
        models: whether it is of generated images, and left out where there are none.
    """

    columns: Mapping[str, Kind]
    code: str
    made_from: tuple[str, ...] = ()
    further: tuple[str, ...] = ()
    models: bool = False

    def function(self) -> Callable[..., Any]:
        """Import and return the function that makes the table."""
        function: Callable[..., Any] = load_code(self.code)
        return function


def _text(*names: str) -> dict[str, Kind]:
    return dict.fromkeys(names, "text")


def _number(*names: str) -> dict[str, Kind]:
    return dict.fromkeys(names, "number")


def _integer(*names: str) -> dict[str, Kind]:
    return dict.fromkeys(names, "integer")


def _interval(name: str) -> dict[str, Kind]:
    """A statistic with its interval over clusters."""
    return _number(name, f"{name}_low", f"{name}_high")


_GUIDANCE: dict[str, Kind] = {"guidance": "guidance"}
_STEP = _integer("step")  # of the diffusion model's training
_IDENTITY = _text("tokenizer", "family", "cluster")
_PANEL = _text("target", "backbone") | _STEP | _GUIDANCE | _text("family")
_VALUE = _number("value", "low", "high")
_COUNTS = _number("n", "clusters")
_NOTE = _text("note")
_ANALYSIS, _CLAIMS = "diffusability.analysis", "diffusability.claims"

TABLES: Mapping[str, Table] = {
    "measurements": Table(
        columns=_text("study", "dataset")
        | _IDENTITY
        | _text("encoder")
        | _integer("tokenizer_seed")
        | _text("backbone")
        | _integer("seed")
        | _STEP
        | _GUIDANCE
        | _text("metric")
        | _number("value", "stderr")
        | _integer("n")
        | _text("unit")
        | {"higher_is_better": "truth"}
        | _text("flags", "options", "fingerprint")
        | {"failed": "truth"}
        | _text("failed_reason"),
        code=f"{_ANALYSIS}.measurements:tabulate",
        further=("encoder", "step", "failed", "failed_reason"),
    ),
    "profiles": Table(
        columns=_IDENTITY
        | _text("backbone")
        | _STEP
        | _GUIDANCE
        | _number("segment", "time", "value", "stderr", "n", "runs")
        | _NOTE,
        code=f"{_ANALYSIS}.sampling:collect_profiles",
        models=True,
    ),
    "spectra": Table(
        columns=_IDENTITY
        | _number("tokenizer_seed")
        | _text("order")
        | _number("permuted", "frequency", "power", "stderr"),
        code=f"{_ANALYSIS}.latent_spaces:collect_spectra",
    ),
    "correlations": Table(
        columns=_PANEL
        | _text("metric")
        | _interval("pearson")
        | _number("pearson_p", "pearson_p_holm", "pearson_p_by")
        | _interval("spearman")
        | _interval("pearson_partial")
        | _number("without_low", "without_high")
        | _text("influential")
        | _number("without_cluster_low", "without_cluster_high")
        | _text("influential_cluster")
        | _number("expected_sign")
        | {"at_chance": "truth", "failed": "truth"}
        | _COUNTS
        | _NOTE,
        code=f"{_ANALYSIS}.correlation:correlate",
        made_from=("measurements",),
        models=True,
    ),
    "declared_tests": Table(
        columns=_PANEL
        | _text("metric", "verdict", "reason")
        | _interval("turned_r")
        | _number("p", "p_holm")
        | _COUNTS,
        code=f"{_ANALYSIS}.declared:declared_tests",
        made_from=("correlations", "measurements"),
        models=True,
    ),
    "intercorrelations": Table(
        columns=_text("target", "family", "metric")
        | _interval("pearson")
        | _number("expected_sign")
        | {"at_chance": "truth"}
        | _COUNTS
        | _NOTE,
        code=f"{_ANALYSIS}.correlation:intercorrelate",
        made_from=("measurements",),
    ),
    "regressions": Table(
        columns=_PANEL
        | _text("metric_1", "metric_2")
        | _number("r2_adj")
        | _interval("q2")
        | _number("gain")
        | _COUNTS
        | _NOTE,
        code=f"{_ANALYSIS}.regression:regress",
        made_from=("measurements",),
        models=True,
    ),
    "predictions": Table(
        columns=_PANEL
        | _text("metrics")
        | _number("spearman", "skill", "error_factor", "held")
        | _COUNTS
        | _NOTE,
        code=f"{_ANALYSIS}.prediction:predictions",
        made_from=("measurements",),
        models=True,
    ),
    "noise_floor": Table(
        columns=_PANEL
        | _number("tokenizers", "runs", "repeated", "retrained", "mean", "variance_tokenizers")
        | _number("variance_tokenizer_seeds", "variance_diffusion_seeds", "run_sd")
        | _number("resolvable_gap", "reliability", "low", "high", "seeds_needed")
        | _NOTE,
        code=f"{_ANALYSIS}.noise_floor:noise_floor",
        made_from=("measurements",),
        models=True,
    ),
    "tokenizers": Table(
        columns=_IDENTITY
        | _number("psnr", "psnr_spread", "rfd", "smallest_gfd")
        | {"comparable": "truth"}
        | _text("reason"),
        code=f"{_ANALYSIS}.equal_reconstruction:tokenizers",
        made_from=("measurements",),
    ),
    "comparability": Table(
        columns=_text("family", "metric")
        | _number("mean", "value", "low", "high", "cv")
        | _COUNTS
        | _NOTE,
        code=f"{_ANALYSIS}.noise_floor:comparability",
        made_from=("measurements",),
    ),
    "guidance": Table(
        columns=_text("target", "backbone")
        | _STEP
        | _text("family", "statistic")
        | _VALUE
        | _COUNTS
        | _number("guidance_scales")
        | _NOTE,
        code=f"{_ANALYSIS}.sampling:guidance_optima",
        made_from=("measurements",),
        models=True,
    ),
    "latent_spaces": Table(
        columns=_text("tokenizer", "cluster", "role")
        | _number("runs")
        | _number(
            *(
                f"{name}{end}"
                for name in (
                    *("stretch_min", "stretch_max", "stretch_ratio", "stretch_q01", "stretch_q05"),
                    *(
                        "stretch_q50",
                        "stretch_q95",
                        "stretch_q99",
                        "stretch_q99_q01",
                        "mse",
                        "psnr",
                    ),
                )
                for end in ("", "_stderr")
            )
        )
        | _text("backbone")
        | _STEP
        | _GUIDANCE
        | _text("distance_metric")
        | _number("distance", "distance_stderr", "distance_runs"),
        code=f"{_ANALYSIS}.latent_spaces:latent_spaces",
        made_from=("measurements",),
    ),
    "latent_findings": Table(
        columns=_text("statistic", "dataset", "network", "metric", "space")
        | _number("v", "value", "low", "high")
        | _NOTE,
        code=f"{_CLAIMS}.latent_findings:latent_findings",
        made_from=("measurements", "spectra"),
    ),
    "claims": Table(
        columns=_text("network", "id", "section", "statement", "verdict", "expected")
        | _number("value", "low", "high", "power")
        | _text("reason", "statistic")
        | _number("rows", "n", "clusters")
        | _text("refuted_by", "exact"),
        code=f"{_CLAIMS}.verdicts:check_claims",
        made_from=("measurements", "profiles", "noise_floor", "latent_findings"),
        models=True,
    ),
}
CLAIMS_TABLE = "claims"
COLLECTED_TABLES = tuple(name for name, table in TABLES.items() if not table.made_from)
ANALYSIS_TABLES = tuple(n for n in TABLES if n not in (*COLLECTED_TABLES, CLAIMS_TABLE))


def table_named(name: str) -> Table:
    """Return the declaration of a table.

    Raises:
        StudyError: no table has this name.
    """
    if name not in TABLES:
        raise StudyError(f"no table is called `{name}`: {nearest(name, TABLES)}")
    return TABLES[name]
