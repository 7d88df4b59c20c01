"""LPIPS as perceptual term and as metric: one artifact of weights, imported once."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffusability.encoders.packages import ensure_torchvision
from diffusability.errors import ArtifactError, MeasurementError, StudyError
from diffusability.metrics.reconstruction import measure_lpips
from diffusability.stages import inputs
from diffusability.study.reading.load import merge
from diffusability.tokenizers.interface import Tokenizer
from diffusability.tokenizers.perceptual import LpipsPerceptual
from tests.unit.study_run import measurements, plan_of, run_plan


class Stub(nn.Module):
    """The structure of the package's network, one layer deep."""

    def __init__(self, net: str, pnet_rand: bool, verbose: bool) -> None:
        super().__init__()
        self.net = nn.Module()
        self.net.slice1 = nn.Sequential()
        self.net.slice1.add_module("0", nn.Conv2d(3, 2, 1))
        self.lin0 = nn.Conv2d(2, 1, 1, bias=False)
        self.lins = nn.ModuleList([self.lin0])
        nn.init.constant_(self.lin0.weight, 0.5)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Weigh squared differences of features."""
        features = [self.net.slice1(images) for images in (a, b)]
        return self.lin0((features[0] - features[1]).square()).mean((1, 2, 3), keepdim=True)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the package by the stub."""
    module = ModuleType("lpips")
    module.LPIPS = Stub  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lpips", module)


def write_trunk(path: Path, scale: float = 1.0) -> None:
    """Write a state dict of torchvision's names that fits the stub."""
    weights = {"features.0.weight": torch.full((2, 3, 1, 1), scale)}
    torch.save(weights | {"features.0.bias": torch.zeros(2)}, path)


def study(**objective: Any) -> dict[str, Any]:
    """The smoke study at 16 pixels with an LPIPS encoder, and one tokenizer."""
    return {
        "datasets": {"digits": {"size": 16}},
        "encoders": {"vgg": {"kind": "lpips", "weights": "vgg16.pth"}},
        "tokenizers": {"conv-base": {"objective": objective}},
        "metrics": {"reconstruction": {"lpips": "vgg"}},
        "select": {"tokenizers": ["conv-base"]},
    }


def history(folder: Path) -> list[dict[str, float]]:
    """Return the rows of a tokenizer's history."""
    header, *rows = (folder / "history.csv").read_text().splitlines()
    return [
        dict(zip(header.split(","), map(float, row.split(",")), strict=True)) for row in rows if row
    ]


def test_a_tokenizer_is_trained_and_measured_with_lpips(
    stub: None, workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_trunk(workplace / "vgg16.pth")
    caplog.set_level("INFO")
    plan = plan_of(study(perceptual=1.0, perceptual_encoder="vgg"))
    made = run_plan(plan, "encoder")
    (workplace / "vgg16.pth").unlink()  # the artifact holds trunk and linear layers
    made |= run_plan(plan, "reconstruction")
    assert (made["encoder/vgg"] / "history.csv").read_text() == "step\n"
    assert "the perceptual distance is LPIPS, `vgg`" in caplog.text
    assert all(row["perceptual"] > 0 for row in history(made["tokenizer/conv-base/s0"]))
    cell = measurements(made["reconstruction/conv-base/s0"])["reconstruction.lpips"]
    assert cell["value"] > 0
    assert cell["stderr"] > 0
    assert cell["higher_is_better"] is False


def test_every_image_is_decoded_once(
    stub: None, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_trunk(workplace / "vgg16.pth")
    plan = plan_of(study(perceptual=1.0, perceptual_encoder="vgg"))
    run_plan(plan, "latents", "encoder")
    decoded = []
    original = inputs.load_tokenizer

    def counting(*arguments: Any) -> Tokenizer:
        tokenizer = original(*arguments)
        decode = tokenizer.decode
        tokenizer.decode = lambda z: decoded.append(len(z)) or decode(z)
        return tokenizer

    monkeypatch.setattr(inputs, "load_tokenizer", counting)
    made = run_plan(plan, "reconstruction")
    cell = measurements(made["reconstruction/conv-base/s0"])["reconstruction.lpips"]
    assert sum(decoded) == cell["n"]


def test_features_of_the_study_stay_a_choice(
    workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    over = study(perceptual=1.0, perceptual_encoder="glyph")
    del over["metrics"], over["encoders"]
    made = run_plan(plan_of(over), "tokenizer")
    assert "the perceptual distance compares features of `glyph`" in caplog.text
    assert all(row["perceptual"] > 0 for row in history(made["tokenizer/conv-base/s0"]))


def test_the_metric_joins_without_renaming_what_was_there() -> None:
    without, with_it, off = study(), study(), study()
    del without["metrics"]
    off["metrics"]["reconstruction"]["lpips"] = None
    names = [
        {f"{a.stage}/{a.name}": a.fingerprint for a in plan_of(over)}
        for over in (without, with_it, off)
    ]
    assert names[0] == names[2]
    changed = {key for key in names[1] if names[0].get(key) != names[1][key]}
    assert changed == {"encoder/vgg", "reconstruction/conv-base/s0"}
    renamed = study()
    renamed["encoders"]["other"] = renamed["encoders"].pop("vgg")
    renamed["metrics"]["reconstruction"]["lpips"] = "other"
    after = {f"{a.stage}/{a.name}": a.fingerprint for a in plan_of(renamed)}
    assert after["reconstruction/conv-base/s0"] == names[1]["reconstruction/conv-base/s0"]


def test_images_that_vanish_in_the_trunk_are_refused() -> None:
    small = merge(study(), {"datasets": {"digits": {"size": 8}}})
    with pytest.raises(StudyError, match=r"encoders.vgg: LPIPS needs images of 16 pixels .* 8"):
        plan_of(small)


def test_weights_of_another_package_version_are_refused(stub: None, tmp_path: Path) -> None:
    write_trunk(tmp_path / "vgg16.pth")
    distance = LpipsPerceptual.from_vgg(tmp_path / "vgg16.pth")
    distance.network.more = nn.Linear(1, 1)
    distance.save(tmp_path / "model.safetensors")
    with pytest.raises(
        ArtifactError,
        match="another version .*Make it again with: snakemake -c1 -f",
    ):
        LpipsPerceptual.load(tmp_path / "model.safetensors")


def test_the_mean_over_images() -> None:
    cell = measure_lpips(torch.tensor([0.1, 0.2, 0.6]))
    assert cell.value == pytest.approx(0.3)
    # standard deviation of (0.1, 0.2, 0.6) is sqrt(0.07)
    assert cell.stderr == pytest.approx((0.07 / 3) ** 0.5)
    with pytest.raises(MeasurementError, match="two image pairs"):
        measure_lpips(torch.tensor([0.1]))


@pytest.mark.release
def test_the_package_itself(tmp_path: Path) -> None:
    try:
        ensure_torchvision()
        import lpips
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is of the `paper` extra")
    torch.manual_seed(0)
    package = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    names = {n: "features." + n.split(".", 1)[1] for n, _ in package.net.named_parameters()}
    state = package.net.state_dict()
    torch.save({names[n]: state[n] for n in names}, tmp_path / "vgg16.pth")
    LpipsPerceptual.from_vgg(tmp_path / "vgg16.pth").save(tmp_path / "model.safetensors")
    distance = LpipsPerceptual.load(tmp_path / "model.safetensors")
    first, second = torch.rand(2, 2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(distance(first, second), package(first, second).flatten())
        assert distance(first, first).abs().max() == 0
