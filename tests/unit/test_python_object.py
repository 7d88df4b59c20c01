"""Tokenizers, encoders and regularizers of the user's own package, from study to latents."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusability.artifacts.job import Job
from diffusability.data.load import load_dataset
from diffusability.encoders.load import load_encoder
from diffusability.errors import ArtifactError, DiffusabilityError, StudyError
from diffusability.stages.make import make as make_artifact
from diffusability.study.planning.plan import Plan
from diffusability.study.preflight.needs import check_needs
from diffusability.study.reading.load import load_study
from diffusability.study.sources.content import content_digest
from diffusability.study.sources.python_object import code_digest
from diffusability.study.study import Study
from diffusability.tokenizers.load import load_tokenizer
from diffusability.tokenizers.python_object import probe_shape

SMOKE = Path(__file__).parents[2] / "studies" / "smoke.yaml"
PACKAGE = """
import torch
from torch import nn
from torch.nn import functional as F
from toy_package.scale import SCALE
from diffusability.tokenizers.regularizers.interface import Penalty, Regularizer


class MyVAE(nn.Module):
    def __init__(self, channels=4):
        super().__init__()
        self.down = nn.Conv2d(1, channels, 2, stride=2)
        self.up = nn.ConvTranspose2d(channels, 1, 2, stride=2)

    def encode(self, images):
        return SCALE * self.down(images)

    def decode(self, latents):
        return self.up(latents / SCALE)


class Both(MyVAE):
    def encode(self, images):
        mean = super().encode(images)
        return mean, torch.full_like(mean, -3.0)


class Output:
    def __init__(self, **parts):
        self.__dict__.update(parts)


class Diffusers(Both):
    def encode(self, images):
        mean, logvar = super().encode(images)
        return Output(latent_dist=Output(mean=mean, logvar=logvar))

    def decode(self, latents):
        return Output(sample=super().decode(latents))


class WrongShape(MyVAE):
    def encode(self, images):
        return super().encode(images)[:, :2]


class NotFinite(MyVAE):
    def encode(self, images):
        return super().encode(images) / 0


class Whole(MyVAE):
    def decode(self, latents):
        return super().decode(latents).long()


class Raising(MyVAE):
    def encode(self, images):
        raise KeyError("a key of my own")


class Drawing(MyVAE):
    def encode(self, images):
        mean = super().encode(images)
        return mean + torch.randn_like(mean)


class Counted(MyVAE):
    built = 0

    def __init__(self):
        super().__init__()
        type(self).built += 1
        for parameter in self.parameters():
            nn.init.constant_(parameter, 0.1)


class NoDecoder(nn.Module):
    def encode(self, images):
        return images


def make_vae(**options):
    return MyVAE(**options)


def make_number():
    return 3


class MyEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)  # stands for weights of its own
        self.grid = nn.Conv2d(1, 6, 2, stride=2)

    def forward(self, images):
        return self.grid(images)


class MyPenalty(Regularizer):
    def __init__(self, options, latent_channels, feature_channels, weight=0.1):
        super().__init__(options, latent_channels, feature_channels)
        self.seen, self.weight = (latent_channels, feature_channels), weight

    def penalties(self, posterior, latents, features):
        loss = posterior.mean.square().mean() + 0 * features.mean()
        return [Penalty("mine", loss, self.weight, adaptive=False)]
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in the working directory, weights for it elsewhere, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sys, "path", list(sys.path))
    forget()
    folder = Path("toy_package")
    folder.mkdir()
    (folder / "__init__.py").write_text(PACKAGE)
    (folder / "scale.py").write_text("SCALE = 2.0\n")
    torch.manual_seed(0)
    state = {
        "down.weight": torch.randn(4, 1, 2, 2),
        "down.bias": torch.zeros(4),
        "up.weight": torch.randn(4, 1, 2, 2),
        "up.bias": torch.zeros(1),
    }
    save_file(state, tmp_path / "vae.safetensors")
    yield folder
    forget()


def forget() -> None:
    """Let the package be imported anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "toy_package"]:
        del sys.modules[name]


def study(tmp_path: Path, **tokenizer_entry: Any) -> Study:
    entry = {"source": "python", "factor": 2, "channels": 4} | tokenizer_entry
    return load_study(SMOKE, {"tokenizers": {"mine": entry}, "select": {"tokenizers": ["mine"]}})


def make(plan: Plan, *stages: str) -> dict[str, Path]:
    """Make the artifacts of some stages; return their folders by stage."""
    made = {}
    for artifact in plan.of_stage(*stages):
        job = Job.from_json(artifact.job())
        with job.writing() as folder:
            make_artifact(job, folder)
        made[artifact.stage] = job.path
    return made


def fingerprint(found: Study) -> str:
    return Plan(found).of_stage("tokenizer")[0].fingerprint


@pytest.mark.parametrize(
    ("name", "logvar"),
    [("MyVAE", -30.0), ("make_vae", -30.0), ("Both", -3.0), ("Diffusers", -3.0)],
)
def test_a_tokenizer_goes_from_study_to_latents(
    package: Path, tmp_path: Path, name: str, logvar: float
) -> None:
    weights = str(tmp_path / "vae.safetensors")
    found = study(tmp_path, object=f"toy_package.{name}", weights=weights)
    check_needs(found)
    made = make(Plan(found), "dataset", "tokenizer", "latents")
    data = load_dataset(made["dataset"])
    loaded = load_tokenizer(made["tokenizer"], data, "cpu")
    images = torch.rand(3, 1, 8, 8)
    posterior = loaded.encode(images)
    assert posterior.mean.shape == (3, 4, 4, 4)
    assert posterior.logvar.unique().tolist() == [logvar]
    assert loaded.decode(posterior.mean).shape == images.shape
    assert (made["latents"] / "latents.json").exists()
    assert found.tokenizers["mine"].family == "python-f2d4"


def test_the_artifact_carries_the_weights(package: Path, tmp_path: Path) -> None:
    weights = tmp_path / "vae.safetensors"
    made = make(
        Plan(study(tmp_path, object="toy_package:MyVAE", weights=str(weights))),
        "dataset",
        "tokenizer",
    )
    weights.unlink()
    loaded = load_tokenizer(made["tokenizer"], load_dataset(made["dataset"]), "cpu")
    assert loaded.encode(torch.ones(1, 1, 8, 8)).mean.abs().sum() > 0


def test_identity_is_the_content_of_code_and_weights(package: Path, tmp_path: Path) -> None:
    weights = tmp_path / "vae.safetensors"
    entry = {"object": "toy_package.MyVAE", "weights": str(weights)}
    first = fingerprint(study(tmp_path, **entry))
    assert fingerprint(study(tmp_path, **entry | {"object": "toy_package:MyVAE"})) == first
    moved = tmp_path / "elsewhere.safetensors"
    moved.write_bytes(weights.read_bytes())
    assert fingerprint(study(tmp_path, **entry | {"weights": str(moved)})) == first
    assert fingerprint(study(tmp_path, **entry | {"object": "toy_package:Both"})) != first
    assert fingerprint(study(tmp_path, **entry | {"options": {"channels": 5}})) != first
    (package / "scale.py").write_text("SCALE = 3.0\n")  # another module of the package
    second = fingerprint(study(tmp_path, **entry))
    assert second != first
    save_file({"down.bias": torch.ones(4)}, weights)
    assert fingerprint(study(tmp_path, **entry)) not in (first, second)


def test_code_that_changes_after_planning_is_refused(package: Path, tmp_path: Path) -> None:
    plan = Plan(study(tmp_path, object="toy_package:MyVAE"))
    make(plan, "dataset")
    (package / "scale.py").write_text("SCALE = 3.0\n")
    with pytest.raises(DiffusabilityError, match="has changed since the study was planned"):
        make(plan, "tokenizer")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"object": "toy_package:WrongShape"}, r"shape \(4, 2, 4, 4\).*expected \(4, 4, 4, 4\)"),
        ({"object": "toy_package:MyVAE", "factor": 4}, r"expected \(4, 4, 2, 2\)"),
        ({"object": "toy_package:MyVAE", "channels": 3}, r"expected \(4, 3, 4, 4\)"),
        ({"object": "toy_package:NotFinite"}, "256 of 256 values not finite"),
        ({"object": "toy_package:Whole"}, "decode returns the images of type torch.int64"),
        ({"object": "toy_package:Raising"}, r"encode raised KeyError for \(4, 1, 8, 8\)"),
        ({"object": "toy_package:Drawing"}, "encode gives other values when it is called again"),
        ({"object": "toy_package:NoDecoder"}, "it has no method `decode`"),
        ({"object": "toy_package:make_number"}, "gives a int, a torch.nn.Module is needed"),
        ({"object": "toy_package:MyVAE", "options": {"width": 3}}, "calling it with width raised"),
    ],
)
def test_what_it_returns_is_checked(
    package: Path, tmp_path: Path, entry: dict[str, Any], message: str
) -> None:
    plan = Plan(study(tmp_path, **entry))
    make(plan, "dataset")
    with pytest.raises(StudyError, match=message):
        make(plan, "tokenizer")


def test_weights_that_are_drawn_anew_are_refused_where_it_is_built_again(
    package: Path, tmp_path: Path
) -> None:
    made = make(Plan(study(tmp_path, object="toy_package:MyVAE")), "dataset", "tokenizer")
    message = r"other weights each time .*first down.weight.*--weights"
    with pytest.raises(StudyError, match=message):
        load_tokenizer(made["tokenizer"], load_dataset(made["dataset"]), "cpu")
    with pytest.raises(StudyError, match=message):
        probe_shape({"source": "python", "object": "toy_package:MyVAE"}, 1, 8)


def test_a_class_is_built_no_more_often_than_its_check_needs(package: Path, tmp_path: Path) -> None:
    entry = {"source": "python", "object": "toy_package:Counted"}
    assert probe_shape(entry, 1, 8) == (2, 4)
    counted = sys.modules["toy_package"].Counted
    assert counted.built == 2  # two builds are compared
    weighted = entry | {"weights": str(tmp_path / "vae.safetensors")}
    assert probe_shape(weighted, 1, 8) == (2, 4)
    assert counted.built == 3
    made = make(Plan(study(tmp_path, **entry)), "dataset", "tokenizer")
    assert counted.built == 4
    load_tokenizer(made["tokenizer"], load_dataset(made["dataset"]), "cpu")
    assert counted.built == 5  # which every later job needs anyway


def test_a_score_decodes_before_any_job(package: Path) -> None:
    for name, message in (("Whole", "decode returns the images of"), ("NoDecoder", "`decode`")):
        with pytest.raises(StudyError, match=message):
            probe_shape({"source": "python", "object": f"toy_package:{name}"}, 1, 8)


def test_weights_that_are_not_finite_are_refused(package: Path, tmp_path: Path) -> None:
    weights = load_file(tmp_path / "vae.safetensors")
    weights["up.bias"][0] = torch.inf
    save_file(weights, tmp_path / "broken.safetensors")
    broken = str(tmp_path / "broken.safetensors")
    plan = Plan(study(tmp_path, object="toy_package:MyVAE", weights=broken))
    make(plan, "dataset")
    with pytest.raises(ArtifactError, match=r"weights of `toy_package:MyVAE`: 1 .*first up.bias"):
        make(plan, "tokenizer")


def test_a_checkpoint_of_two_networks_is_refused(package: Path, tmp_path: Path) -> None:
    state = load_file(tmp_path / "vae.safetensors")
    torch.save({"model": state, "ema": state, "step": 3}, tmp_path / "two.pt")
    plan = Plan(study(tmp_path, object="toy_package:MyVAE", weights=str(tmp_path / "two.pt")))
    make(plan, "dataset")
    with pytest.raises(ArtifactError, match=r"holds `model` and, of the same tensors, `ema`; save"):
        make(plan, "tokenizer")


def test_weights_of_another_module_are_refused(package: Path, tmp_path: Path) -> None:
    save_file({"down.bias": torch.ones(4)}, tmp_path / "other.safetensors")
    weights = str(tmp_path / "other.safetensors")
    plan = Plan(study(tmp_path, object="toy_package:MyVAE", weights=weights))
    make(plan, "dataset")
    with pytest.raises(StudyError, match="(?s)do not fit it.*Missing key"):
        make(plan, "tokenizer")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"object": "no_such_package.MyVAE"}, "code of `no_such_package:MyVAE`: not at"),
        ({"object": "toy_package.MyVEA"}, "`MyVEA` is not defined in .*__init__.py"),
        ({"object": "toy_package.MyVAE", "weights": "no/such.safetensors"}, "not at no/such.safe"),
    ],
)
def test_what_is_missing_is_named_before_the_first_job(
    package: Path, tmp_path: Path, entry: dict[str, Any], message: str
) -> None:
    found = study(tmp_path, **entry)
    assert len(Plan(found)) > 3  # planned all the same
    with pytest.raises(StudyError, match=message):
        check_needs(found)


def test_an_encoder_and_a_regularizer(package: Path, tmp_path: Path) -> None:
    kind = {"kind": "python", "object": "toy_package:MyEncoder", "factor": 2, "features": 6}
    entry = {
        "base": "conv-f2d4",
        "method": "python",
        "object": "toy_package:MyPenalty",
        "encoder": "mine",
        "options": {"weight": 0.5},
        "train": {"steps": 2},
    }
    found = load_study(
        SMOKE,
        {
            "encoders": {"mine": kind},
            "tokenizers": {"regular": entry},
            "select": {"tokenizers": ["regular"], "backbones": "all", "metrics": ["velocity"]},
            "metrics": {"generation": {"extractor": "mine"}},
        },
    )
    check_needs(found)
    made = make(Plan(found), "dataset", "encoder", "tokenizer")
    model = load_encoder(made["encoder"], load_dataset(made["dataset"]), "cpu")
    assert model.grid(torch.rand(2, 1, 8, 8)).shape == (2, 6, 4, 4)
    assert model.features(torch.rand(2, 1, 8, 8)).shape == (2, 6)
    assert "mine" in (made["tokenizer"] / "history.csv").read_text().splitlines()[0]


def test_an_encoder_is_checked(package: Path, tmp_path: Path) -> None:
    kind = {"kind": "python", "object": "toy_package:MyEncoder", "factor": 2, "features": 7}
    overrides = {"encoders": {"glyph": None}, "metrics": {"generation": {"extractor": "mine"}}}
    found = load_study(SMOKE, overrides | {"encoders": {"mine": kind}})
    plan = Plan(found)
    make(plan, "dataset")
    (wrong,) = [a for a in plan.of_stage("encoder") if a.labels["encoder"] == "mine"]
    job = Job.from_json(wrong.job())
    with pytest.raises(StudyError, match=r"the feature map of shape \(4, 6, 4, 4\)"):
        make_artifact(job, tmp_path)


def test_content_is_remembered_until_a_file_changes(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in package.iterdir():
        os.utime(file, (1e9, 1e9))
    first = content_digest(package)
    monkeypatch.setattr("diffusability.study.sources.content._sha256", lambda file: "0" * 64)
    assert content_digest(package) == first  # nothing is read
    package.rename(tmp_path / "moved")
    monkeypatch.undo()
    assert content_digest(tmp_path / "moved") == first
    (tmp_path / "moved" / "scale.py").write_text("SCALE = 3.0\n")
    assert content_digest(tmp_path / "moved") != first
    assert content_digest(tmp_path / "nothing") is None


def test_the_code_of_a_module_has_what_it_imports_from_its_folder(package: Path) -> None:
    Path("own.py").write_text("import torch\n\nclass MyVAE: ...\n")
    assert code_digest("own:MyVAE") == content_digest(Path("own.py"))
    Path("own.py").write_text("from layers import Block\n\nclass MyVAE: ...\n")
    Path("layers.py").write_text("def late():\n    from toy_package.scale import SCALE\n")
    Path("other.py").write_text("")
    digests = [code_digest("own:MyVAE")]
    for file in ("layers.py", "toy_package/scale.py"):
        Path(file).write_text(Path(file).read_text() + "# edited\n")
        digests.append(code_digest("own:MyVAE"))
    assert len(set(digests)) == 3
    Path("other.py").write_text("# not imported\n")
    assert code_digest("own:MyVAE") == digests[-1]


def test_an_installed_module_is_its_own_file(
    monkeypatch: pytest.MonkeyPatch, package: Path
) -> None:
    Path("own.py").write_text("import layers\n")
    Path("layers.py").write_text("")
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"purelib": str(Path.cwd())})
    assert code_digest("own:MyVAE") == content_digest(Path("own.py"))
