"""Every way to get a study file wrong gives one message: key path, reason, nearest valid name."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffusability.errors import StudyError
from diffusability.study.reading.load import load_study, read_yaml
from diffusability.study.reading.resolve import resolve_study
from tests.conftest import REPOSITORY

SMOKE = read_yaml(REPOSITORY / "studies" / "smoke.yaml")
BASE = "bases.conv-f2d4"
TOKENIZER = "tokenizers.conv-vf-glyph"
SIT = {"arch": "sit", "width": 16, "depth": 1, "heads": 1, "train": {"steps": 1}}
BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join(20 * [f'*a{n - 1}'])}]\n" for n in range(1, 9)
)
UNET = {
    **{"arch": "unet", "width": 8, "multipliers": [1, 1], "blocks": 1, "attention": []},
    "train": {"steps": 1},
}
EDM = {"process": "edm"}
CONTRASTIVE = {"kind": "contrastive", "factor": 2}
EQ = {"base": "conv-f2d4", "method": "eq", "operators": ["scale", "flip"]}


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the smoke study with the value at a dotted path replaced (or removed: ...).

    An empty path replaces the sections that the value names.
    """
    study = copy.deepcopy(SMOKE)
    if not path:
        return study | value
    *parents, last = path.split(".")
    inner = study
    for part in parents:
        inner = inner.setdefault(part, {})
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return study


CASES: list[tuple[str, Any, list[str]]] = [
    # unknown keys, at every depth, with the nearest valid one
    ("tokenisers", {}, ["tokenisers: unknown key", "did you mean `tokenizers`?"]),
    ("name", ..., ["name: this key is required"]),
    (f"{TOKENIZER}.wieght", 0.1, [f"{TOKENIZER}.wieght: unknown key", "`weight`"]),
    (f"{BASE}.train.step", 5, [".train.step: unknown key", "`steps`"]),
    (f"{BASE}.network.chanels", 5, [".network.chanels: unknown key", "`channels`"]),
    ("backbones.sit-a.heds", 2, ["backbones.sit-a.heds: unknown key", "`heads`"]),
    ("sampling.steps", 50, ["sampling.steps: unknown key", "evaluations"]),
    ("metrics.velocty", {}, ["metrics.velocty: unknown key", "`velocity`"]),
    ("metrics.semantics.k", 5, ["metrics.semantics.k: unknown key", "neighbours"]),
    ("select.tokenizer", "all", ["select.tokenizer: unknown key", "`tokenizers`"]),
    (
        "encoders.glyph",
        {"kind": "masked", "factor": 8, "train": {"steps": 5}},
        ["encoders.glyph.ratio: 0.6 hides 1 of 1 cells of 8 x 8 pixels"],
    ),
    # values of the wrong kind, in words of the file
    (
        "select.tokenizers",
        "conv-base",
        ["select.tokenizers: expected a list such as [conv-base], or `all`, got 'conv-base'"],
    ),
    ("select.metrics", ["fid"], ["1 problem", "select.metrics.0: unknown value `fid` (valid: con"]),
    ("select.seeds", 3, ["select.seeds: expected a list such as [3], got 3"]),
    ("select.seeds", [], ["select.seeds: expected at least 1 in the list, got []"]),
    ("sampling", [], ["sampling: expected a mapping of keys to values, got []"]),
    ("sampling.guidance", ["a"], ["1 problem", "sampling.guidance.0: expected a number, got 'a'"]),
    ("sampling.guidance_interval", [0.1], ["guidance_interval.1: is missing from the list, got"]),
    ("datasets.digits.size", "7", ["datasets.digits.size: unknown value `7` (valid: 16, 32, 8)"]),
    ("sampling.a[b]", 1, ["sampling.a[b]: unknown key"]),
    # names that do not exist
    ("select.dataset", "digit", ["select.dataset: unknown dataset `digit`", "`digits`"]),
    ("select.tokenizers", ["conv-bse"], ["unknown tokenizer `conv-bse`", "`conv-base`"]),
    ("select.backbones", ["sit"], ["select.backbones: unknown backbone `sit`", "`sit-"]),
    ("select.metrics", ["speed"], ["select.metrics", "unknown value `speed`", "velocity"]),
    ("select.repeats", {"x": {"seeds": [1]}}, ["select.repeats: unknown tokenizer `x`"]),
    (f"{TOKENIZER}.encoder", "gliph", [f"{TOKENIZER}.encoder: unknown encoder", "`glyph`"]),
    (f"{TOKENIZER}.base", "conv-f2d8", [f"{TOKENIZER}.base: unknown base", "`conv-f2d4`"]),
    ("metrics.generation.extractor", "judg", ["metrics.generation.extractor", "`judge`"]),
    (
        "encoders.eye",
        {"kind": "inception", "weights": "w.pth"},
        ["encoders.eye: an encoder of kind inception is called `inception`"],
    ),
    (
        "encoders.inception",
        {"kind": "supervised", "train": {"steps": 1}},
        ["encoders.inception: an encoder of kind inception"],
    ),
    (
        "metrics.generation.reference_statistics",
        "VIRTUAL.npz",
        ["metrics.generation.reference_statistics: holds moments of Inception", "`judge`"],
    ),
    ("metrics.generation.fdr6", ["glyph", "judge"], ["metrics.generation.fdr6", "at least 6"]),
    (
        "metrics.generation.fdr6",
        ["glyph", "judge", "gliph", "vgg", "glyph", "judge"],
        [
            "metrics.generation.fdr6: unknown encoder `gliph`",
            "metrics.generation.fdr6: `glyph` is named 2 times; six spaces must differ",
            "metrics.generation.fdr6: `judge` is named 2 times",
        ],
    ),
    ("encoders.eye", {"kind": "representation", "model": "dino"}, ["encoders.eye", "`dinov2`"]),
    ("metrics.generation.compared", 30, ["metrics.generation.compared", "40"]),
    ("metrics.generation.reference_count", 7, ["reference_statistics, which is not given"]),
    (
        "metrics.reconstruction.lpips",
        "judge",
        ["metrics.reconstruction.lpips: `judge` is of kind supervised", "fit: none"],
    ),
    ("metrics.reconstruction.lpips", "vgg", ["metrics.reconstruction.lpips: unknown encoder"]),
    (f"{TOKENIZER}.method", "mcoss", [f"{TOKENIZER}.method: unknown method `mcoss`", "`mcos`"]),
    ("tokenizers.conv-base.method", "mae", ["tokenizers.conv-base", "only arch vit has"]),
    (f"{BASE}.objective", {"perceptual": 1.0}, ["perceptual and perceptual_encoder"]),
    (
        f"{BASE}.objective",
        {"perceptual": 1.0, "perceptual_encoder": "vgg"},
        ["objective.perceptual_encoder: unknown encoder `vgg`"],
    ),
    (f"{TOKENIZER}.method", ..., [f"{TOKENIZER}: the key `method` is required"]),
    ("backbones.sit-a.arch", "sitt", ["backbones.sit-a.arch: unknown arch `sitt`", "`sit`"]),
    ("datasets.digits.kind", "mnist", ["datasets.digits.kind: unknown kind `mnist`", "digits"]),
    ("encoders.glyph.kind", "dino", ["encoders.glyph.kind: unknown kind `dino`", "supervised"]),
    # types and ranges
    (f"{BASE}.train.steps", 0, [".train.steps", "greater than 0", "got 0"]),
    (f"{BASE}.train.steps", "many", [".train.steps", "a whole number", "got 'many'"]),
    (f"{BASE}.train.lr", -1e-3, [".train.lr", "greater than 0"]),
    (f"{BASE}.train.lr", float("nan"), [".train.lr", "finite"]),
    (f"{BASE}.train.ema", 1.0, [".train.ema", "less than 1"]),
    (f"{BASE}.train.precision", "fp16", ["unknown value `fp16`", "`bf16`"]),
    (f"{BASE}.network.factor", 3, ["network.factor", "unknown value `3`"]),
    (f"{BASE}.network.multipliers", [1], ["factor 2 needs 2 multipliers", "got 1"]),
    ("backbones.sit-a.heads", 3, ["backbones.sit-a", "multiple of 4 x heads"]),
    ("backbones.sit-a.size", "B", ["backbones.sit-a", "already fixes depth, heads, width"]),
    ("backbones.sit-a.class_dropout", 2, ["backbones.sit-a.class_dropout", "less than or equal"]),
    ("sampling.guidance", [0.5], ["sampling.guidance.0", "greater than or equal to 1"]),
    ("sampling.guidance", [1.0, 1.0], ["sampling", "duplicate guidance scale"]),
    ("datasets.digits.val_fraction", 1.5, ["datasets.digits.val_fraction", "less than 1"]),
    ("analysis.confidence", 0.1, ["analysis.confidence", "greater than 0.5"]),
    ("name", "My Study", ["name", "pattern"]),
    # Python counts true as 1
    (f"{BASE}.train.steps", True, [".train.steps", "a whole number", "got 'true'"]),
    (f"{BASE}.train.lr", True, [".train.lr", "number", "got 'true'"]),
    (f"{BASE}.network.multipliers", [True, 1], ["network.multipliers.0", "got 'true'"]),
    ("select.seeds", [True], ["select.seeds.0", "got 'true'"]),
    ("metrics.semantics.neighbours", [True], ["metrics.semantics.neighbours.0", "got 'true'"]),
    ("sampling.seed", 2**63, ["sampling.seed: an integer above"]),
    ("sampling.guidance", [1.0e7], ["sampling.guidance.0", "less than or equal to 1000"]),
    (
        "sampling.guidance",
        [1, 1.0000000001],
        ["guidance 1.0000000001 has more than six significant digits; write 1"],
    ),
    # a plan counts the operations of every network, layer by layer
    ("backbones.sit-a.depth", 2**53, ["sit-a.depth: input should be less than or equal to 1000"]),
    (f"{BASE}.network.width", 10**9, [".network.width", "less than or equal to 65536"]),
    (f"{BASE}.network.multipliers", [1, 999], ["network.multipliers.1", "equal to 256"]),
    # lists where a name is expected
    ("backbones.sit-a.size", ["S"], ["backbones.sit-a: size ['S'] is none of"]),
    ("tokenizers.x", {"source": ["pixels"]}, ["tokenizers.x.source: unknown source `['pixels']`"]),
    ("tokenizers.x", {"source": "means", "of": 3}, ["x.of: expected the name of a tokenizer, got"]),
    ("tokenizers.x", {"source": "diffusers", "path": "x" * 5000}, ["x.factor: this key is req"]),
    # names are folders
    ("backbones", {"x" * 101: SIT}, ["backbones.'xxx", "longer than 100 characters"]),
    ("name", "x" * 101, ["name: string should have at most 100 characters"]),
    ("select.tokenizers", [2], ["select.tokenizers", "got 2; a name that reads as a number"]),
    (f"{TOKENIZER}.base", ["x"], [f"{TOKENIZER}.base: expected the name of an entry", "['x']"]),
    (f"{TOKENIZER}.base", {"a": 1}, [f"{TOKENIZER}.base: expected the name of an entry"]),
    # structure
    ("select.tokenizers", [], ["select.tokenizers", "at least 1"]),
    ("select.seeds", [], ["select.seeds", "at least 1"]),
    ("tokenizers", {}, ["tokenizers", "at least 1"]),
    ("tokenizers", ["conv-base"], ["tokenizers: expected a mapping"]),
    ("tokenizers.conv-base", "baseline", ["tokenizers.conv-base: expected a mapping"]),
    ("bases.unused", 3, ["1 problem;", "bases.unused: expected a mapping of names to values"]),
    ("bases.conv-f2d4", None, ["1 problem;", "bases.conv-f2d4: expected a mapping"]),
    # an empty entry is no reason to leave it out
    ("backbones.none", {}, ["backbones.none: the key `arch` is required"]),
    ("encoders.none", {}, ["encoders.none: the key `kind` is required"]),
    ("datasets.none", {}, ["datasets.none: the key `kind` is required"]),
    ("tokenizers.none", {}, ["tokenizers.none: holds no key"]),
    (f"{BASE}.network", {}, ["conv-base.network: the key `arch` is required"]),
    ("", {"bases": {"conv-f2d4": {}}}, ["tokenizers.conv-base.network", "conv-base.train: this"]),
    (f"{BASE}.base", "conv-f2d4", ["refers to itself: conv-f2d4 -> conv-f2d4"]),
    ("select.tokenizers", ["conv-base", "conv-base"], ["`conv-base` is named twice"]),
    ("backbones.sit-a.patch", 3, ["backbones.sit-a.patch: 3 does not divide the 4 x 4"]),
    ("backbones.sit-a.process", "vp", ["sit-a.process: unknown value `vp` (valid: edm, flow)"]),
    ("backbones.sit-a.edm", {}, ["backbones.sit-a: `edm` holds options of process edm"]),
    (
        "backbones.sit-a",
        SIT | EDM | {"time": "uniform"},
        ["backbones.sit-a: time: for process flow"],
    ),
    ("backbones.sit-a", SIT | EDM | {"edm": {"sigma": 1}}, ["sit-a.edm.sigma: unknown key"]),
    ("backbones.sit-a", SIT | EDM | {"patch": 3}, ["sit-a.patch: 3 does not divide the 4 x 4"]),
    ("backbones.sit-a", UNET | {"patch": 1}, ["backbones.sit-a.patch: unknown key"]),
    ("backbones.sit-a", UNET | {"width": 15}, ["backbones.sit-a: width 15 must be even"]),
    (
        "backbones.sit-a",
        UNET | {"attention": [16]},
        ["sit-a.attention: 16 is the side of no resolution (4, 2) of the 4 x 4 latent grid of `c"],
    ),
    (
        "backbones.sit-a",
        UNET | {"multipliers": [1, 1, 1, 1]},
        ["sit-a.multipliers: 4 resolutions need 3 halvings, too many for the 4 x 4 latent grid"],
    ),
    (
        "",
        {
            "backbones": {"sit-a": SIT | {"class_dropout": 1}},
            "sampling": {"guidance": [1, 1.5]},
        },
        ["sit-a.class_dropout: 1 trains an unconditional model, which guidance at 1.5 cannot"],
    ),
    (
        "",
        {
            "backbones": {"sit-a": SIT | {"class_dropout": 0}},
            "sampling": {"guidance": [1, 1.5]},
        },
        ["sit-a.class_dropout: 0 trains no model without labels, away from which guidance at 1.5"],
    ),
    # a GAN that never runs, and images that networks of the objective cannot look at
    (
        f"{BASE}.objective",
        {"gan": 0.5},
        [
            "tokenizers.conv-base: objective.gan_start: the GAN would begin at step 2500, and "
            "train.steps is"
        ],
    ),
    (
        f"{BASE}.objective",
        {"gan": 0.5, "gan_start": 0},
        [
            "objective.gan_layers: 3 layers of stride 2 need images of 24 pixels a side",
            "have 8; set it to 1",
        ],
    ),
    (
        TOKENIZER,
        EQ | {"objective": {"gan": 0.5, "gan_start": 0, "gan_layers": 1}},
        [
            f"{TOKENIZER}.objective.gan_layers: 1 layers of stride 2 need images of 6 pixels",
            "the smallest of this training have 2; set objective.gan to 0",
        ],
    ),
    (
        TOKENIZER,
        EQ | {"network": {"factor": 8, "multipliers": [1, 1, 1, 1]}},
        [f"{TOKENIZER}.operators: scale does not exist on a latent grid of 1 x 1"],
    ),
    (
        "",
        {
            "datasets": {"digits": {"kind": "digits", "size": 16}},
            "encoders": SMOKE["encoders"] | {"vgg": {"kind": "lpips", "weights": "vgg16.pth"}},
            "tokenizers": SMOKE["tokenizers"]
            | {"conv-vf-glyph": EQ | {"objective": {"perceptual": 1, "perceptual_encoder": "vgg"}}},
        },
        [
            f"{TOKENIZER}.objective.perceptual_encoder: `vgg` needs images of 16 pixels a side, "
            "and method eq scales those of 16 down to 4",
        ],
    ),
    # options that nothing would use
    (
        "",
        {
            "backbones": {"u": UNET | EDM},
            "sampling": {"shift": 0.3, "guidance_interval": [0.1, 1], "evaluations": 3},
        },
        [
            "sampling.shift: for process flow, which no backbone has; leave it out",
            "sampling.guidance_interval: for process flow, which no backbone has",
        ],
    ),
    (
        "sampling",
        {"guidance": [1.0], "guidance_interval": [0.1, 1], "guidance_channels": 3},
        [
            "sampling.guidance_interval: every guidance scale is 1, which is no guidance; leave it",
            "sampling.guidance_channels: every guidance scale is 1",
        ],
    ),
    ("sampling.edm", {"churn": 3}, ["sampling.edm: for process edm, which no backbone has"]),
    (
        "encoders.judge",
        CONTRASTIVE | {"train": {"steps": 1, "accumulation": 2}},
        ["encoders.judge: train.accumulation must be 1: the loss compares all views"],
    ),
    (
        "encoders.judge",
        CONTRASTIVE | {"dense": 0.5, "train": {"steps": 1, "compile": True}},
        ["encoders.judge: train.compile must be false: it compiles a forward pass"],
    ),
    ("sampling", {"solver": "heun", "evaluations": 4}, ["heun spends 2 x steps - 1 evaluations"]),
    (
        "",
        {"backbones": {"u": UNET | EDM}, "sampling": {"solver": "heun", "evaluations": 1}},
        ["sampling.evaluations: 1 is one step of heun; the levels of `u` (process edm) need two"],
    ),
    ("sampling.edm", {"sigma_min": 90}, ["sampling.edm: sigma_min 90.0 is not below sigma_max"]),
    ("sampling.edm", {"churn_min": 9, "churn_max": 8}, ["churn_min 9.0 is above churn_max 8.0"]),
    ("datasets.digits.content", "mine", ["datasets.digits.content: unknown key"]),
    (
        "datasets.digits",
        {"kind": "tar", "path": "nowhere", "content": "mine"},
        ["datasets.digits.content: follows from the other keys and cannot be set; remove it"],
    ),
    ("encoders.glyph.factor", 16, ["encoders.glyph.factor: 16 does not divide the image size 8"]),
]


@pytest.mark.parametrize(
    ("path", "value", "expected"), CASES, ids=[f"{p}={v!r:.20}" for p, v, _ in CASES]
)
def test_problem_is_named(tmp_path: Path, path: str, value: Any, expected: list[str]) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(changed(path, value)))
    with pytest.raises(StudyError) as caught:
        load_study(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert "aborted before any job started" in message
    for part in expected:
        assert part in message, message


def test_factor_must_divide_the_image(tmp_path: Path) -> None:
    study = changed(f"{BASE}.network.factor", 16)
    study["bases"]["conv-f2d4"]["network"]["multipliers"] = [1, 1, 1, 1, 1]
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    with pytest.raises(StudyError, match="16 does not divide the image size 8"):
        load_study(file)


def test_bases_may_not_form_a_circle(tmp_path: Path) -> None:
    study = changed(f"{BASE}.base", "second")
    study["bases"]["second"] = {"base": "conv-f2d4"}
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    with pytest.raises(StudyError, match="refers to itself: conv-f2d4 -> second -> conv-f2d4"):
        load_study(file)


def test_a_base_may_be_empty() -> None:
    study = changed("bases.nothing", {})
    study["tokenizers"]["image"] = {"base": "nothing", "source": "pixels", "channels": 1}
    assert "image" in resolve_study(study, "here").selected_tokenizers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1, 2", "this is not YAML"),
        ("- just\n- a list\n", "a study is a mapping"),
        ("", "a study is a mapping"),
        ("name: a\nname: b\n", "line 2: duplicate key `name` (first on line 1)"),
        ("tokenizers:\n  x: {}\n  x: {}\n", "line 3: duplicate key `x` (first on line 2)"),
        ("? [a, b]\n: 1\n", "a key must be a plain name"),
        ('t: {1: a, "1": b}\n', "line 1: duplicate key `1` (first on line 1)"),
        # YAML 1.1 reads 64, 90, false, a date, 8 and 100; YAML 1.2 other things or text
        ("a:\n  steps: 0100\n", "line 2: `0100` means one thing in YAML 1.1"),
        ("steps: 1:30\n", "line 1: `1:30` means one thing"),
        ("compile: no\n", "write true, false or a decimal number, or put it in quotes"),
        ("name: 2001-01-01\n", "`2001-01-01` means one thing"),
        ("select: {tokenizers: [010]}\n", "`010` means one thing"),
        ("steps: 1_00\n", "`1_00` means one thing"),
        # nothing takes long
        (BOMB, "line 5: aliases expand to more than 100,000 values"),
        ("a: &a [*a]\n", "more than 50 levels of lists and mappings"),
        ("a: " + 300 * "[" + 300 * "]" + "\n", "more than 50 levels"),
        ("a: " + 5000 * "[" + "\n", "too deeply nested"),
        ("steps: " + 400 * "9" + "\n", "a number of 400 digits is too large"),
    ],
)
def test_file_is_no_study(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises(StudyError) as caught:
        load_study(file)
    assert expected in str(caught.value)
    assert str(file) in str(caught.value)


def test_names_are_what_is_written_and_numbers_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("{010: 1, 1e2: 1e-3, true: true, 1.50: -2, null: null, '007': '007', no: 0.5}")
    expected = {"010": 1, "1e2": 1e-3, "true": True, "1.50": -2, "null": None, "007": "007"}
    assert read_yaml(file) == expected | {"no": 0.5}


def test_overrides_that_contain_themselves_or_a_name_twice_are_refused() -> None:
    circle: dict[str, Any] = {}
    circle["a"] = circle
    with pytest.raises(StudyError, match="more than 50 levels"):
        load_study(REPOSITORY / "studies" / "smoke.yaml", circle)
    twice = {"backbones": {1: SIT, "1": SIT}}
    with pytest.raises(StudyError, match="backbones: duplicate key `1`"):
        load_study(REPOSITORY / "studies" / "smoke.yaml", twice)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such study file"):
        load_study(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(StudyError, match="cannot be read as text"):
        load_study(tmp_path / "binary.yaml")


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    study = changed(f"{BASE}.train.steps", 0)
    study["backbones"]["sit-a"]["arch"] = "mlp"
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    with pytest.raises(StudyError) as caught:
        load_study(file)
    message = str(caught.value)
    assert "3 problems" in message  # two tokenizers share the base, one backbone
    assert "tokenizers.conv-base.train.steps" in message
    assert "backbones.sit-a.arch" in message


def test_one_problem_does_not_hide_another(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        """
name: Bad Name
nonsense: 3
datasets: {digits: {kind: digits, size: 9}, d2: {kind: digitz}}
encoders: {judge: {kind: supervised, widht: 8, train: {steps: 3}}}
bases:
  b: {network: {arch: conv, chanels: 4, multipliers: [1, 1]}, train: {stepz: 3}}
tokenizers:
  t: {base: b, method: rapa, objective: {gann: 1}}
  u: {base: c, method: baseline}
backbones: {s: {arch: sitt}}
metrics: {velocity: {splt: all}, generation: {extractor: judge}}
select: {dataset: digit, tokenizers: [v], backbones: [s]}
"""
    )
    with pytest.raises(StudyError) as caught:
        load_study(file)
    paths = [line.strip().split(": ")[0] for line in str(caught.value).splitlines()[1:]]
    assert set(paths) == {
        "name",
        "nonsense",
        "datasets.digits.size",
        "datasets.d2.kind",
        "encoders.judge.widht",
        "tokenizers.t.network.chanels",
        "tokenizers.t.method",
        "tokenizers.t.objective.gann",
        "tokenizers.t.train.steps",
        "tokenizers.t.train.stepz",
        "tokenizers.u.base",
        "backbones.s.arch",
        "metrics.velocity.splt",
        "select.dataset",
        "select.tokenizers",
    }


def test_what_generates_from_latents_without_a_decoder_is_named() -> None:
    study = changed("tokenizers.z", {"source": "encoder", "encoder": "glyph", "factor": 2})
    study["tokenizers"]["z"]["channels"] = 16
    models, controls = "`backbones`", "`metrics.generation.controls`"
    study["metrics"]["generation"]["controls"] = ["gaussian"]

    def refused(makers: str) -> bool:
        with pytest.raises(StudyError) as caught:
            resolve_study(study, "here")
        advice = f"leave it out of `select.tokenizers`, or {makers} out of the study"
        return str(caught.value).endswith(advice)

    assert refused(f"{models} and {controls}")
    del study["backbones"]
    assert refused(controls)
    study["metrics"]["generation"].pop("controls")
    assert "z" in resolve_study(study, "here").selected_tokenizers  # the advice works
    study["metrics"]["generation"]["controls"] = ["gaussian"]
    study["select"]["tokenizers"] = ["conv-base"]
    found = resolve_study(study, "here")
    assert found.generates
    assert not found.has_models
