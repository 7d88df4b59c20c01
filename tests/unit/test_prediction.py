"""What a study expects of a further latent space: the fit, its intervals, its limits."""

from itertools import combinations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from benchmarks.prediction import made_up, simulate
from diffusability.analysis.frames import read_table
from diffusability.analysis.prediction import (
    FEWEST,
    Forecast,
    Points,
    chosen_line,
    points_of,
    predictable_panels,
    predictions,
)
from diffusability.study.planning.tables import TABLES
from tests.conftest import REPOSITORY
from tests.unit.measurement_table import measurement_table

GALLERY = REPOSITORY / "docs/gallery/fashion/tables/predictions.csv"


def by_hand(points: Points) -> tuple[int, ...]:
    """Return the columns that predict left-out clusters best, one refit per cluster."""
    errors = {}
    for columns in [*combinations(range(4), 1), *combinations(range(4), 2)]:
        x = points.x[:, columns]
        squares = []
        for group in points.groups:
            own = points.clusters == group
            fit = LinearRegression().fit(x[~own], points.y[~own])
            squares.append(((fit.predict(x[own]) - points.y[own]) ** 2).mean())
        errors[columns] = np.mean(squares)
    return min(errors, key=errors.__getitem__)


def test_metrics_are_chosen_and_clusters_predicted_without_them() -> None:
    points = made_up(np.random.default_rng(3), 5, 3, 0.5)
    fit = Forecast(points)
    assert fit.line.columns == by_hand(points)
    for group in points.groups:
        own = points.clusters == group
        rest = points.of(~own)
        columns = by_hand(rest)
        assert chosen_line(rest).columns == columns
        line = LinearRegression().fit(rest.x[:, columns], rest.y)
        np.testing.assert_allclose(fit.predicted[own], line.predict(points.x[own][:, columns]))
    squares = [
        ((fit.predicted - points.y)[points.clusters == g] ** 2).mean() for g in points.groups
    ]
    assert fit.error == pytest.approx(np.mean(squares) ** 0.5)


def test_leverage_is_the_diagonal_of_the_hat_matrix() -> None:
    points = made_up(np.random.default_rng(0), 5, 3, 0.5)
    fit = Forecast(points)
    design = np.column_stack([np.ones(15), points.x[:, fit.line.columns]])
    hat = design @ np.linalg.inv(design.T @ design) @ design.T
    np.testing.assert_allclose(fit.line.leverage(points.x), np.diag(hat))
    assert not fit.outside(points.x.mean(axis=0))
    assert fit.outside(points.x.mean(axis=0) + 100)


@pytest.mark.parametrize(("clusters", "each", "noise"), [(6, 3, 0.3), (8, 2, 1.0)])
def test_intervals_hold_as_often_as_they_say(clusters: int, each: int, noise: float) -> None:
    found = simulate(clusters, each, noise, 1.0, studies=40, seed=1)
    assert 0.7 <= found["held_all"] <= 0.9
    assert 0.7 <= found["held"] <= 0.9
    assert found["refused"] < 0.1


def test_a_study_whose_metrics_say_nothing_cannot_predict() -> None:
    rng = np.random.default_rng(2)
    said = [not Forecast(made_up(rng, 6, 3, 1.0, signal=0.0)).lack for _ in range(25)]
    assert np.mean(said) < 0.3
    sure = [not Forecast(made_up(rng, 8, 3, 0.1)).lack for _ in range(10)]
    assert np.mean(sure) > 0.8


def test_the_table_says_how_well_left_out_clusters_are_predicted() -> None:
    table = measurement_table(24, backbones=("sit-b", "lightningdit-b"), scales=(1.0, 1.5))
    found = predictions(table)
    assert list(found.columns) == list(TABLES["predictions"].columns)
    assert list(found["backbone"]) == ["sit-b", "lightningdit-b"]
    assert set(found["guidance"]) == {1.0}  # the smallest
    assert (found["spearman"] > 0.5).all()
    assert found["held"].between(0.6, 1).all()
    assert found["metrics"].str.contains("velocity.viv").all()
    (panel, _) = predictable_panels(table)
    points = points_of(table, panel, "conv-f2d4")
    fit = Forecast(points)
    row = found.iloc[0]
    assert (row["n"], row["clusters"]) == (24, 6)
    assert row["error_factor"] == pytest.approx(np.exp(fit.error))
    assert row["spearman"] == pytest.approx(fit.spearman)


@pytest.mark.parametrize(
    ("count", "note"), [(2, "clusters are too few"), (FEWEST - 1, f"it takes {FEWEST}")]
)
def test_too_few_tokenizers_are_said_to_be(count: int, note: str) -> None:
    found = predictions(measurement_table(count, seeds=1, retrained=0, backbones=("sit-b",)))
    assert note in found["note"].iloc[0]
    assert found["spearman"].isna().all()


def test_intervals_hold_on_left_out_clusters_of_the_gallery_study() -> None:
    """By its table, which `test_gallery` recomputes."""
    table = read_table(GALLERY)
    found = table[table["target"] == "generation.fd_judge"]
    assert 0.7 <= found["held"].mean() <= 0.9
    page = (REPOSITORY / "docs/statistics.md").read_text()
    assert f"intervals hold for {found['held'].mean():.2f} of the tokenizers" in page
    for row in found.itertuples():
        assert f"{row.spearman:.2f} | {row.error_factor:.2f} | {row.held:.2f}" in page
    assert not any(found["note"] == "")
