"""Linear maps as tokenizers: exact inverses, isometries, PCA against scikit-learn, layouts."""

import pytest
import torch
from sklearn.decomposition import PCA

from diffusability.errors import StudyError
from diffusability.study.entries.tokenizer import LinearTokenizer
from diffusability.tokenizers.linear import (
    HaarTokenizer,
    Isometry,
    PermutationTokenizer,
    PixelTokenizer,
    ProjectionTokenizer,
    image_moments,
    principal_directions,
    random_directions,
)
from diffusability.tokenizers.posterior import LOGVAR_RANGE
from diffusability.tokenizers.serpentine import serpentine, to_grid, to_vector
from tests.unit.fisher_examples import normal


def images(count: int = 5, size: int = 8) -> torch.Tensor:
    return normal(count, 3, size, size).float().tanh()


def linear(source: str, channels: int, factor: int = 1) -> LinearTokenizer:
    entry = {"source": source, "channels": channels, "factor": factor}
    return LinearTokenizer.model_validate(entry)


def permutation(positions: bool) -> PermutationTokenizer:
    source = "permuted-positions" if positions else "permuted-pixels"
    tokenizer = PermutationTokenizer(linear(source, 3), 3, 8)
    tokenizer.draw(torch.Generator().manual_seed(0))
    return tokenizer


def projection(rows: torch.Tensor | None = None) -> ProjectionTokenizer:
    """Random directions of 3 x 8 x 8 images to a latent of 2 x 4 x 4."""
    tokenizer = ProjectionTokenizer(linear("projection", 2, 2), 3, 8).double()
    if rows is None:
        rows = random_directions(192, 32, torch.Generator().manual_seed(1))
    tokenizer.set_directions(normal(192, seed=2), rows)
    return tokenizer


class TestSerpentine:
    def test_a_small_grid_by_hand(self) -> None:
        grid = to_grid(torch.arange(12)[None], (2, 2, 3))[0]
        assert grid.tolist() == [[[0, 1, 2], [5, 4, 3]], [[11, 10, 9], [6, 7, 8]]]

    @pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 2), (2, 3, 3), (4, 1, 1)])
    def test_consecutive_entries_are_neighbours_and_every_cell_is_taken(
        self, shape: tuple[int, int, int]
    ) -> None:
        order = serpentine(*shape)
        assert order.sort().values.tolist() == list(range(shape[0] * shape[1] * shape[2]))
        cells = torch.stack(torch.unravel_index(order, shape), dim=1)  # (d, 3)
        assert (cells.diff(dim=0).abs().sum(1) == 1).all()

    def test_inverse(self) -> None:
        vectors = normal(3, 24)
        assert torch.equal(to_vector(to_grid(vectors, (2, 3, 4))), vectors)

    def test_entries_that_do_not_fill_the_grid(self) -> None:
        with pytest.raises(StudyError, match="10 entries does not fill a latent of 1 x 3 x 3"):
            to_grid(normal(2, 10), (1, 3, 3))


@pytest.mark.parametrize(
    "tokenizer",
    [PixelTokenizer(linear("pixels", 3), 3), permutation(False), permutation(True)],
    ids=str,
)
def test_orders_of_pixels_are_undone_to_the_bit(tokenizer: Isometry) -> None:
    x = images()
    posterior = tokenizer.encode(x)
    assert posterior.mean.shape == x.shape
    assert (posterior.logvar == LOGVAR_RANGE[0]).all()
    assert torch.equal(tokenizer.decode(posterior.mean), x)
    assert torch.equal(posterior.mean.flatten(1).sort().values, x.flatten(1).sort().values)
    assert torch.equal(posterior.mean, x) == isinstance(tokenizer, PixelTokenizer)


def test_permuted_positions_keep_their_channels() -> None:
    x = images()
    moved = permutation(True).map(x).flatten(2)  # (B, 3, 64)
    columns = {tuple(column.tolist()) for column in x[0].flatten(1).T}
    assert {tuple(column.tolist()) for column in moved[0].T} == columns
    mixed = permutation(False).map(x)[0].flatten(1)
    assert {tuple(column.tolist()) for column in mixed.T} != columns


class TestProjection:
    def test_isometry_on_its_span(self) -> None:
        tokenizer = projection()
        a = normal(6, 32, seed=3)
        x = (tokenizer.mean + a @ tokenizer.rows).view(6, 3, 8, 8)
        z = to_vector(tokenizer.encode(x).mean)
        torch.testing.assert_close(z, a, rtol=0, atol=1e-6)  # directions are kept in float32
        torch.testing.assert_close(torch.pdist(z), torch.pdist(x.flatten(1)), rtol=1e-6, atol=0)
        torch.testing.assert_close(tokenizer.decode(to_grid(z, (2, 4, 4))), x, rtol=0, atol=1e-6)

    def test_decoding_is_least_squares(self) -> None:
        tokenizer = projection()
        x = images().double()
        centred = x.flatten(1) - tokenizer.mean
        best = torch.linalg.lstsq(tokenizer.rows.T, centred.T).solution  # (32, B)
        expected = tokenizer.mean + best.T @ tokenizer.rows
        found = tokenizer.decode(tokenizer.encode(x).mean).flatten(1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)

    def test_random_directions_are_orthonormal_and_seeded(self) -> None:
        rows = random_directions(40, 7, torch.Generator().manual_seed(1))
        torch.testing.assert_close(rows @ rows.T, torch.eye(7, dtype=torch.float64))
        assert torch.equal(rows, random_directions(40, 7, torch.Generator().manual_seed(1)))
        assert not torch.equal(rows, random_directions(40, 7, torch.Generator().manual_seed(2)))

    def test_principal_directions_are_those_of_scikit_learn(self) -> None:
        x = (normal(300, 12) @ normal(12, 12, seed=1) + 3.0).view(300, 3, 2, 2)
        mean, covariance = image_moments(x.split([7, 120, 1, 172]))
        reference = PCA(5).fit(x.flatten(1).numpy())
        rows = principal_directions(covariance, 5)
        torch.testing.assert_close(mean, torch.from_numpy(reference.mean_))
        signs = torch.from_numpy(reference.components_).mul(rows).sum(1).sign()
        expected = signs[:, None] * torch.from_numpy(reference.components_)
        torch.testing.assert_close(rows, expected, rtol=0, atol=1e-9)
        assert (rows.gather(1, rows.abs().argmax(1, keepdim=True)) > 0).all()
        variances = ((x.flatten(1) - mean) @ rows.T).square().sum(0) / 299
        torch.testing.assert_close(variances, torch.from_numpy(reference.explained_variance_))

    def test_no_images(self) -> None:
        with pytest.raises(StudyError, match="nothing to fit"):
            image_moments([])

    def test_more_directions_than_dimensions(self) -> None:
        with pytest.raises(StudyError, match="208 orthonormal directions .* of 192 entries"):
            ProjectionTokenizer(linear("projection", 13, 2), 3, 8)


class TestHaar:
    def test_energy_of_the_band_and_of_the_rest_is_the_image(self) -> None:
        tokenizer, x = HaarTokenizer(linear("haar", 3, 4), 3), images().double()
        z = tokenizer.encode(x).mean
        assert z.shape == (5, 3, 2, 2)
        rest = x - tokenizer.decode(z)
        energy = z.square().sum() + rest.square().sum()
        assert float(energy) == pytest.approx(float(x.square().sum()), rel=1e-12)

    def test_isometry_on_images_of_constant_cells(self) -> None:
        tokenizer, coarse = HaarTokenizer(linear("haar", 1, 2), 1), normal(4, 1, 3, 3)
        x = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
        z = tokenizer.encode(x).mean
        torch.testing.assert_close(torch.pdist(z.flatten(1)), torch.pdist(x.flatten(1)))
        torch.testing.assert_close(tokenizer.decode(z), x)


def test_what_they_refuse() -> None:
    with pytest.raises(StudyError, match="4x4 pixels, it was made for 8x8 only"):
        permutation(False).encode(images(size=4))
    with pytest.raises(StudyError, match="cannot be masked"):
        PixelTokenizer(linear("pixels", 3), 3).encode(
            images(), torch.zeros(5, 8, 8, dtype=torch.bool)
        )
    with pytest.raises(StudyError, match="no layer of it is trained"):
        _ = PixelTokenizer(linear("pixels", 3), 3).encoder_last_weight
    with pytest.raises(StudyError, match="not divisible by the downsampling factor"):
        HaarTokenizer(linear("haar", 3, 4), 3).encode(images(size=6))
