"""Inception as extractor: torch-fidelity's numbers, names of metrics, published references."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffusability.data.images import to_float
from diffusability.encoders.inception import InceptionV3, import_inception, load_inception
from diffusability.encoders.packages import ensure_torchvision
from diffusability.errors import ArtifactError, MeasurementError, StudyError
from diffusability.metrics.feature_moments import reference_image_side
from diffusability.study.core.names import distance_name
from diffusability.study.preflight.needs import missing, study_needs
from tests.unit.study_run import measurements, plan_of, run_plan

MODULE = "torch_fidelity.feature_extractor_inceptionv3"


@pytest.fixture(scope="module")
def extractor_class() -> Any:
    """The package's network, without a look at the weights that it is given."""
    try:
        ensure_torchvision()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is of the `paper` extra")

    class Random(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_args: Any, **_options: Any) -> None:
            """Keep the random weights."""

    def build(features: list[str], file: Any) -> Any:
        torch.manual_seed(0)
        return Random("random", features, file)

    return build


@pytest.mark.release
def test_numbers_are_those_of_the_package(extractor_class: Any, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pth"
    torch.save({}, empty)
    package = extractor_class(["2048", "logits_unbiased"], empty)
    published = tmp_path / "inception.pth"
    torch.save(package.state_dict(), published)
    import_inception(published, tmp_path / "model.safetensors")
    network = load_inception(tmp_path / "model.safetensors")
    assert (network.grid_channels, network.classes) == (2048, 1008)
    images = torch.randint(0, 256, (2, 3, 20, 20), dtype=torch.uint8)
    pooled, logits = package(images)
    features, spatial = network.features_and_spatial(to_float(images))
    torch.testing.assert_close(features, pooled)
    torch.testing.assert_close(network.logits(features), logits)
    torch.testing.assert_close(network.features(to_float(images)), pooled)
    # the first channels of the block's output are those of its first branch
    block: list[Tensor] = []
    package.Mixed_6d.register_forward_hook(lambda _m, _i, output: block.append(output))
    package(images)
    assert block[0].shape == (2, 768, 17, 17)
    assert spatial.shape == (2, 2023)
    maps = spatial.view(2, 17, 17, 7)
    torch.testing.assert_close(maps[1, 4, 5], block[0][1, :7, 4, 5])
    assert maps.std() > 0
    grey = to_float(images[:, :1])
    repeated = network.features(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(network.features(grey), repeated)


class Stub(nn.Module):
    """The parts of the package's network that are used, with a few features."""

    def __init__(self, _name: str, _features: list[str], file: Any) -> None:
        super().__init__()
        self.Mixed_6d = nn.Module()
        self.Mixed_6d.branch1x1 = nn.Conv2d(3, 8, 4, stride=4)
        self.Mixed_7c = nn.Conv2d(8, 6, 1)
        self.fc = nn.Linear(6, 1008)
        self.load_state_dict(torch.load(file, weights_only=True))
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Run the layers, on 8-bit colour images alone."""
        assert images.dtype == torch.uint8
        assert images.shape[1] == 3
        return self.Mixed_7c(self.Mixed_6d.branch1x1(images / 255).relu()).mean((2, 3))

    @staticmethod
    def weights() -> dict[str, Tensor]:
        """Weights that fit."""
        generator = torch.Generator().manual_seed(0)
        shapes = {
            "Mixed_6d.branch1x1.weight": (8, 3, 4, 4),
            "Mixed_6d.branch1x1.bias": (8,),
            "Mixed_7c.weight": (6, 8, 1, 1),
            "Mixed_7c.bias": (6,),
            "fc.weight": (1008, 6),
            "fc.bias": (1008,),
        }
        return {n: torch.randn(shape, generator=generator) for n, shape in shapes.items()}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the package by the stub."""
    module = ModuleType(MODULE)
    module.FeatureExtractorInceptionV3 = Stub  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, MODULE, module)


def study(**generation: Any) -> dict[str, Any]:
    """The smoke study with Inception as extractor of everything."""
    return {
        "encoders": {"inception": {"kind": "inception", "weights": "inception.pth"}},
        "metrics": {
            "continuity": {"extractor": "inception"},
            "reconstruction": {"extractor": "inception"},
            "generation": {"extractor": "inception", **generation},
        },
        "select": {"tokenizers": ["conv-base"]},
    }


def write_reference(path: Path, side: int | None = 8, dim: int = 6) -> None:
    """Write an npz as the ADM evaluator's, of `dim` pooled and 28 spatial features."""
    draw = np.random.default_rng(0)
    arrays = {}
    for mean, covariance, size in (("mu", "sigma", dim), ("mu_s", "sigma_s", 28)):
        features = draw.normal(size=(100, size))
        arrays[mean], arrays[covariance] = features.mean(0), np.cov(features, rowvar=False)
    if side is not None:
        arrays["arr_0"] = np.zeros((5, side, side, 3), dtype=np.uint8)
    np.savez(path, **arrays)


def test_metrics_are_named_fid(stub: None, workplace: Path) -> None:
    torch.save(Stub.weights(), "inception.pth")
    write_reference(workplace / "reference.npz")
    stages = ("reconstruction", "continuity", "generation")
    made = run_plan(plan_of(study()), *stages)
    assert "reconstruction.fid" in measurements(made["reconstruction/conv-base/s0"])
    assert "continuity.ifid" in measurements(made["continuity/conv-base/s0"])
    own = measurements(made["generation/conv-base/s0/sit-a/s0/guidance1"])
    assert own["generation.fid"]["options"]["dim"] == 6
    assert own["generation.sfid"]["options"]["dim"] == 28  # 7 channels, 2 x 2 positions
    assert own["generation.inception_score_inception"]["value"] > 1
    accuracy = own["generation.class_accuracy_inception"]
    assert accuracy["value"] is None
    assert "are not the dataset's" in accuracy["flags"][0]
    assert not any(name.startswith("generation.fd_") for name in own)

    plan = plan_of(study(reference_statistics="reference.npz", reference_count=100))
    assert [need.path for need in study_needs(plan.study)] == [
        Path("inception.pth"),
        Path("reference.npz"),
    ]
    assert not missing(study_needs(plan.study))
    made = run_plan(plan, "generation")
    published = measurements(made["generation/conv-base/s0/sit-a/s0/guidance1"])
    for name in ("generation.fid", "generation.sfid"):
        assert published[name]["options"]["reference_count"] == 100
        assert published[name]["value"] != own[name]["value"]
    name = "generation.kernel_distance_inception"  # moments are not enough for it
    assert published[name]["value"] == own[name]["value"]

    # the same by way of features that are extracted once for all sets of samples
    for options, expected in (
        ({}, own),
        ({"reference_statistics": "reference.npz", "reference_count": 100}, published),
    ):
        made = run_plan(plan_of(study(compared=60, **options)), "generation")
        shared = measurements(made["generation/conv-base/s0/sit-a/s0/guidance1"])
        for name in ("generation.fid", "generation.sfid"):
            assert shared[name]["value"] == pytest.approx(expected[name]["value"], rel=1e-6)


@pytest.mark.parametrize(
    ("side", "dim", "options", "message"),
    [
        (16, 6, {}, r"do not belong together.*\('inception', 16, 6\).*\('inception', 8, 6\)"),
        (8, 9, {}, r"do not belong together.*\('inception', 8, 9\).*\('inception', 8, 6\)"),
        (8, 6, {"reference_resolution": 16}, "hold images of 8 pixels per side, but .* says 16"),
        (None, 6, {}, "contain no images to read their size from"),
    ],
)
def test_references_of_another_kind_are_refused(
    stub: None,
    workplace: Path,
    side: int | None,
    dim: int,
    options: dict[str, Any],
    message: str,
) -> None:
    from diffusability.metrics.feature_moments import FeatureMoments
    from diffusability.stages.features import Features
    from diffusability.stages.generation import _distances
    from diffusability.stages.references import Reference, read_reference
    from diffusability.stages.sample_shards import SampleShards
    from diffusability.study.metrics.groups import GenerationMetric

    write_reference(workplace / "reference.npz", side, dim)
    spec = GenerationMetric.model_validate(
        {"extractor": "inception", "reference_statistics": "reference.npz", **options}
    )
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    drawn = Features(features, features[:, :0], features[:, :0])

    def moments(part: Tensor) -> FeatureMoments:
        return FeatureMoments.from_features(part, extractor="inception", resolution=8)

    extractor = SimpleNamespace(
        name="inception", shard_moments=lambda x, rows, _part: [moments(x[one]) for one in rows]
    )
    dealt = SampleShards(list(torch.arange(40).split(10)))
    with pytest.raises(MeasurementError, match=message):
        reference = Reference(features, {"inception": read_reference(spec, "inception")})
        _distances(extractor, reference, drawn, dealt)  # type: ignore[arg-type]


def test_the_size_of_reference_images_is_read_from_the_header(tmp_path: Path) -> None:
    write_reference(tmp_path / "with.npz", 24)
    write_reference(tmp_path / "without.npz", None)
    assert reference_image_side(tmp_path / "with.npz") == 24
    assert reference_image_side(tmp_path / "without.npz") is None
    (tmp_path / "broken.npz").write_bytes(b"PK")
    with pytest.raises(MeasurementError, match="cannot be read"):
        reference_image_side(tmp_path / "broken.npz")
    with pytest.raises(MeasurementError, match="do not exist"):
        reference_image_side(tmp_path / "absent.npz")


def _wrong_network(path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(2)}, path)


def _damaged(path: Path) -> None:
    path.write_bytes(b"\0" * 10)


def _absent(path: Path) -> None:
    path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_wrong_network, "not torch-fidelity's Inception weights"),
        (_damaged, "cannot be read"),
        (_absent, "no weights at"),
    ],
)
def test_a_wrong_weight_file_is_named(
    stub: None, tmp_path: Path, write: Callable[[Path], None], message: str
) -> None:
    write(tmp_path / "weights.pth")
    with pytest.raises(ArtifactError, match=message):
        import_inception(tmp_path / "weights.pth", tmp_path / "model.safetensors")


def test_the_extra_is_named_where_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, MODULE, None)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(StudyError, match=r"`torch_fidelity` does not import .* `paper` extra"):
        InceptionV3({})


@pytest.mark.parametrize(
    ("distance", "extractor", "name"),
    [
        ("fd", "judge", "fd_judge"),
        ("fd", "inception", "fid"),
        ("fd", "inception-spatial", "sfid"),
        ("ifd", "inception", "ifid"),
    ],
)
def test_only_inception_makes_a_fid(distance: str, extractor: str, name: str) -> None:
    assert distance_name(distance, extractor) == name
