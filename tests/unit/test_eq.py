"""The equivariance regularizer: scales that stay whole, transformations, branches."""

from fractions import Fraction

import pytest
import torch
from pydantic import ValidationError

from diffusability.errors import StudyError
from diffusability.tokenizers.regularizers.eq import Transformation, whole_scales
from tests.unit.networks import regularizer


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def test_scales_of_the_paper_grid_and_of_any_other():
    assert whole_scales((16, 16)) == [Fraction(k, 16) for k in range(4, 16)]
    assert whole_scales((6, 4)) == [Fraction(1, 2)]
    assert whole_scales((7, 5)) == []
    for grid in [(8, 8), (12, 18), (7, 7), (32, 16)]:
        scales = whole_scales(grid)
        assert scales
        assert all(Fraction(1, 4) <= s < 1 for s in scales)
        assert all((s * side).denominator == 1 for s in scales for side in grid)


@pytest.mark.parametrize("operators", [("scale",), ("flip",), ("rotation",), ("scale", "rotation")])
def test_image_and_latent_stay_in_the_ratio_of_the_factor(operators):
    made, generator = regularizer("eq", operators=operators, probability=1.0), seeded()
    latents, images = normal(2, 3, 8, 12), normal(2, 1, 32, 48)
    seen = set()
    for _ in range(60):
        choice = made.draw((8, 12), 2, generator)
        assert made.prepare_images(images, choice) is images
        moved, target = made.transform(latents, images, choice)
        assert [4 * side for side in moved.shape[2:]] == list(target.shape[2:])
        seen.add((choice.scale, choice.flip, choice.turns))
        assert (choice.scale != 1) == ("scale" in operators)
        assert bool(choice.flip) == ("flip" in operators)
        assert bool(choice.turns) == ("rotation" in operators)
    scales = 3 if "scale" in operators else 1  # {1, 2, 3}/4
    other = 3 if {"flip", "rotation"} & set(operators) else 1
    assert len(seen) == scales * other


def test_transformations_by_hand():
    grid = torch.arange(4.0).view(1, 1, 2, 2)
    assert Transformation(turns=1).apply(grid).flatten().tolist() == [1, 3, 0, 2]
    assert Transformation(flip=(3,)).apply(grid).flatten().tolist() == [1, 0, 3, 2]
    assert Transformation(flip=(2,)).apply(grid).flatten().tolist() == [2, 3, 0, 1]
    assert Transformation(scale=Fraction(1, 2)).apply(grid).flatten().tolist() == [1.5]
    both = Transformation(scale=Fraction(1, 2), turns=1, flip=(3,))
    tall = torch.arange(8.0).view(1, 1, 4, 2)  # means 1.5 and 5.5, one column
    assert both.apply(tall).tolist() == [[[[1.5, 5.5]]]]


def test_branches_have_their_probabilities():
    made, generator, steps = (
        regularizer("eq", operators=("scale", "flip"), probability=0.5, prior_probability=0.25),
        seeded(),
        4000,
    )
    images, latents = normal(1, 1, 16, 16), normal(1, 3, 8, 8)
    counts = {"equivariance": 0, "prior": 0, "plain": 0}
    for _ in range(steps):
        choice = made.draw((8, 8), 1, generator)
        if choice is None:
            counts["plain"] += 1
        elif choice.before_encoding:
            counts["prior"] += 1
            small = made.prepare_images(images, choice)
            assert small.shape[-1] == 16 * choice.scale < 16
            assert made.transform(latents, small, choice) == (latents, small)
            assert (choice.flip, choice.turns) == ((), 0)
        else:
            counts["equivariance"] += 1
    for name, probability in (("equivariance", 0.5), ("prior", 0.125), ("plain", 0.375)):
        error = (probability * (1 - probability) / steps) ** 0.5
        assert abs(counts[name] / steps - probability) < 4 * error, name


def test_flips_alone_have_no_downscaled_images():
    made, generator = (
        regularizer("eq", operators=("flip",), probability=0.0, prior_probability=1.0),
        seeded(),
    )
    assert all(made.draw((8, 8), 1, generator) is None for _ in range(20))


def test_eq_refuses_what_cannot_work():
    with pytest.raises(StudyError, match="no scale keeps a latent grid of 7x5"):
        regularizer("eq", operators=("scale",)).draw((7, 5), 1, seeded())
    for wrong in [(), ("shear",)]:
        with pytest.raises(ValidationError, match="operators"):
            regularizer("eq", operators=wrong)
