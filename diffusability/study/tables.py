"""Every table of a study, declared once: its columns, what it is made from, and its code.

To add a table: declare it here, write the function, and put its caption into
`report/tables/<name>.rst`. Rules, readers, claims and the report follow from the declaration.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from diffusability.errors import StudyError
from diffusability.study.problems import nearest

Kind = Literal["text", "number", "integer", "truth", "guidance"]
BEST = "best"  # the guidance scale that is best for each tokenizer


@dataclass(frozen=True)
class Table:
    """One table of a study.

    Attributes:
        columns: kind of each column. An empty cell is "" in a text and missing in any other kind;
            a `guidance` is a scale, `BEST`, or missing where none applies.
        code: `module:function` that makes it: from the plan, or from the tables of `made_from` in
            their order, with `analysis=` the options of the analysis if it takes them. Claims are
            checked against all tables of `made_from` at once.
        made_from: names of tables; empty for what is collected from artifacts.
        models: whether it is of generated images, and left out where there are none.
    """

    columns: Mapping[str, Kind]
    code: str
    made_from: tuple[str, ...] = ()
    models: bool = False

    def function(self) -> Callable[..., Any]:
        """Import and return the function that makes the table."""
        return import_function(self.code)


def import_function(code: str) -> Callable[..., Any]:
    """Import and return what `module:function` names."""
    module, _, name = code.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


def _text(*names: str) -> dict[str, Kind]:
    return dict.fromkeys(names, "text")


def _number(*names: str) -> dict[str, Kind]:
    return dict.fromkeys(names, "number")


def _integer(*names: str) -> dict[str, Kind]:
    return dict.fromkeys(names, "integer")


def _interval(name: str) -> dict[str, Kind]:
    """A statistic with its intervals over tokenizers and over clusters."""
    return _number(name, *(f"{name}_{end}" for end in _ENDS))


_ENDS = ("low", "high", "cluster_low", "cluster_high")
_GUIDANCE: dict[str, Kind] = {"guidance": "guidance"}
_IDENTITY = _text("tokenizer", "family", "cluster")
_PANEL = _text("target", "backbone") | _GUIDANCE | _text("family")
_VALUE = _number("value", *_ENDS)
_COUNTS = _number("n", "clusters")
_NOTE = _text("note")
_CORRELATION = (
    _interval("pearson")
    | _number("pearson_p", "pearson_p_holm", "pearson_p_by")
    | _interval("spearman")
    | _number("spearman_p")
    | _interval("kendall")
    | _number("kendall_p")
    | _interval("pearson_within")
    | _number("pearson_within_p")
    | _number(*(f"pearson_between{end}" for end in ("", "_low", "_high", "_p")))
    | _interval("pearson_partial")
    | _number("pearson_partial_p")
    | _number(*(f"pearson_disattenuated{end}" for end in ("", "_low", "_high")))
    | _number("expected_sign")
    | _COUNTS
    | _NOTE
)
_ANALYSIS = "diffusability.analysis"

TABLES: Mapping[str, Table] = {
    "measurements": Table(
        columns=_text("study", "dataset")
        | _IDENTITY
        | _integer("tokenizer_seed")
        | _text("backbone")
        | _integer("seed")
        | _GUIDANCE
        | _text("metric")
        | _number("value", "stderr")
        | _integer("n")
        | _text("unit")
        | {"higher_is_better": "truth"}
        | _text("flags", "options", "fingerprint"),
        code=f"{_ANALYSIS}.measurements:tabulate",
    ),
    "profiles": Table(
        columns=_IDENTITY
        | _text("backbone")
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
        columns=_PANEL | _text("metric") | _CORRELATION,
        code=f"{_ANALYSIS}.correlation:correlate",
        made_from=("measurements",),
        models=True,
    ),
    "intercorrelations": Table(
        columns=_text("target", "family", "metric") | _CORRELATION,
        code=f"{_ANALYSIS}.correlation:intercorrelate",
        made_from=("measurements",),
    ),
    "comparisons": Table(
        columns=_text("kind", "target")
        | _GUIDANCE
        | _text("family", "metric_a", "metric_b", "backbone_a", "backbone_b")
        | _number("r_a", "r_b")
        | _VALUE
        | _number("williams_p")
        | _COUNTS
        | _NOTE,
        code=f"{_ANALYSIS}.comparison:compare",
        made_from=("measurements",),
        models=True,
    ),
    "proxies": Table(
        columns=_PANEL
        | _text("metric_a", "metric_b")
        | _number("r_a", "low_a", "high_a", "r_b", "low_b", "high_b")
        | _VALUE
        | _text("better")
        | _COUNTS
        | _NOTE,
        code=f"{_ANALYSIS}.comparison:compare_proxies",
        made_from=("measurements", "correlations"),
        models=True,
    ),
    "regressions": Table(
        columns=_PANEL
        | _text("metric_1", "metric_2")
        | _interval("r2")
        | _number("r2_adj", "q2", "q2_rank")
        | _number(*(f"beta_{k}{end}" for k in (1, 2) for end in ("", "_low", "_high", "_wild_p")))
        | _number("vif", "ordering", "ordering_low", "ordering_high", "ordering_pairs", "regret")
        | _COUNTS
        | _NOTE,
        code=f"{_ANALYSIS}.regression:regress",
        made_from=("measurements",),
        models=True,
    ),
    "selection": Table(
        columns=_PANEL
        | _text("perspective")
        | _number("candidates")
        | _text("naive_metric")
        | _number("naive_r", "naive_r2", "naive_q2", "nested_q2", "optimism")
        | _text("chosen")
        | _number("agreement")
        | _COUNTS
        | _NOTE,
        code=f"{_ANALYSIS}.selection:choose_metrics",
        made_from=("measurements",),
        models=True,
    ),
    "noise_floor": Table(
        columns=_PANEL
        | _number("tokenizers", "runs", "repeated", "retrained", "mean", "variance_tokenizers")
        | _number("variance_tokenizer_seeds", "variance_diffusion_seeds", "run_sd", "run_cv")
        | _number("resolvable_gap", "run_reliability", "run_reliability_low")
        | _number("run_reliability_high", "reliability", "low", "high")
        | _NOTE,
        code=f"{_ANALYSIS}.noise_floor:noise_floor",
        made_from=("measurements",),
        models=True,
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
        columns=_text("target", "backbone", "family", "statistic")
        | _VALUE
        | _COUNTS
        | _number("guidance_scales")
        | _NOTE,
        code=f"{_ANALYSIS}.sampling:guidance_optima",
        made_from=("measurements",),
        models=True,
    ),
    "profile_relations": Table(
        columns=_PANEL | _text("statistic") | _VALUE | _COUNTS | _NOTE,
        code=f"{_ANALYSIS}.sampling:relate_profiles",
        made_from=("measurements", "profiles"),
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
        code=f"{_ANALYSIS}.latent_findings:latent_findings",
        made_from=("measurements", "spectra"),
    ),
    "claims": Table(
        columns=_text("network", "id", "section", "statement", "verdict", "expected")
        | _number("value", "low", "high")
        | _text("reason", "table", "statistic")
        | _number("rows")
        | _text("refuted_by", "exact"),
        code=f"{_ANALYSIS}.verdicts:check_by_network",
        made_from=(
            *("correlations", "intercorrelations", "comparisons", "regressions", "noise_floor"),
            *("comparability", "guidance", "profile_relations", "latent_findings"),
        ),
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
