"""What the gallery says of the Fisher studies is what the analysis makes of their tables."""

import re
from functools import cache

import pandas as pd
import pytest

from diffusability.analysis.frames import read_table
from diffusability.analysis.latent_spaces import latent_spaces
from diffusability.analysis.measurements import read_measurements
from diffusability.analysis.noise_floor import noise_floor
from diffusability.claims.claim import load_claims
from diffusability.claims.fisher_findings import check_fisher_claims
from diffusability.claims.latent_findings import latent_findings
from diffusability.claims.verdicts import check_claims
from diffusability.study.core.workflow_files import FISHER_CLAIMS, LATENT_CLAIMS
from diffusability.study.reading.load import load_study
from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "gallery" / "README.md"
IMAGES, TOY = (PAGE.parent / name / "tables" for name in ("fisher-images", "fisher-toy"))
ANALYSIS = load_study(REPOSITORY / "studies" / "fisher_images.yaml").analysis
PARTS = ("epsilon", "kappa", "fir_dimension", "fir_tangential", "fir_curvature")
SPACES = {
    "pixels": "pixels",
    "GPE": "gpe",
    "VAE": "vae",
    "VAE, means": "vae-means",
    "autoencoder": "ae",
    "PCA": "pca",
    "permuted pixels": "pixels-permuted",
    "random projection": "projection",
    "level of 8 x 8": "level-8x8",
    "level of 4 x 4": "level-4x4",
    "level of 2 x 2": "level-2x2",
}
NETWORKS = {
    "DiT": "dit-xs",
    "U-Net": "unet-xs",
    "DiT, as the paper estimates": "dit-xs, as the paper estimates",
    "U-Net, as the paper estimates": "unet-xs, as the paper estimates",
    "mixture fit": "mixture fit",
}
VERDICTS = {
    "FI: GPE nearer to pixels than the VAE": "gpe-nearer-in-fi",
    "FIR: GPE nearer to pixels than the VAE": "gpe-nearer-in-fir",
    "FIR: particularly at small noise": "gap-larger-at-small-noise",
    "FI: the same of posterior means": "gpe-nearer-in-fi-of-means",
    "FIR: the same of posterior means": "gpe-nearer-in-fir-of-means",
    "FIR: GPE nearer than the autoencoder": "gpe-nearer-than-autoencoder",
    "FI: finer levels nearer": "finer-levels-nearer-in-fi",
    "FIR: finer levels nearer": "finer-levels-nearer-in-fir",
    "FIR per dimension: finer levels nearer": "finer-levels-nearer-per-dimension",
    "MMSE rate: finer levels nearer": "finer-levels-nearer-in-mmse-rate",
}
LENGTHS = ("tiny", "tiny-long")  # 6,000 updates of 128 points, 50,000 of 32
TOY_NETWORKS = ("exact", "tiny", "edm")
TOY_VERDICTS = {
    "ReLU has the largest FI": "relu-deviates-most-fi",
    "ReLU has the largest FIR": "relu-deviates-most-fir",
    "tanh is closer than ReLU": "tanh-closer-than-relu",
    "GELU is closer than ReLU": "gelu-closer-than-relu",
    "sigmoid is closer than ReLU": "sigmoid-closer-than-relu",
    "slopes up to 1 approach the data": "leaky-below-one-approaches-data",
    "slopes above 1 approach the data": "leaky-above-one-approaches-data",
    "slopes above 1 lower FI": "leaky-above-one-lowers-fi",
    "slopes below 1 are bounded": "leaky-below-one-bounded",
    "linear in the stretch": "deviation-linear-in-eps",
    "linear in the dimension": "deviation-linear-in-dimension",
    "linear in the curvature": "deviation-linear-in-curvature",
}


@cache
def measurements() -> pd.DataFrame:
    return read_measurements(IMAGES / "measurements.csv.gz")


@cache
def image_verdicts() -> pd.DataFrame:
    """Return the verdicts on the claims on latent spaces, recomputed."""
    found = latent_findings(measurements(), read_table(IMAGES / "spectra.csv.gz", "spectra"))
    floor = noise_floor(measurements(), ANALYSIS)
    claims = load_claims(LATENT_CLAIMS)
    return check_claims(claims, measurements(), pd.DataFrame(), floor, found, ANALYSIS)


@cache
def toy_verdicts() -> pd.DataFrame:
    """Return the verdicts on the claims on toys, recomputed."""
    return check_fisher_claims(load_claims(FISHER_CLAIMS), pd.read_csv(TOY / "curves.csv.gz"))


def with_error(value: float, error: float, digits: int) -> str:
    return f"{value:.{digits}f}" + (f" ± {error:.{digits}f}" if error == error else "")


def space_rows() -> dict[str, list[str]]:
    """Return stretch, reconstruction and generation of every space."""
    table = latent_spaces(measurements()).set_index(["tokenizer", "backbone"])
    metric = measurements()
    rfd = metric[metric["metric"] == "reconstruction.fd_judge"].groupby("tokenizer")["value"].mean()
    rows = {}
    for words, name in SPACES.items():
        both = [table.loc[(name, backbone)] for backbone in ("dit-xs", "unet-xs")]
        distances = [with_error(row["distance"], row["distance_stderr"], 1) for row in both]
        geometry = [f"{both[0]['stretch_ratio']:.2f}", f"{both[0]['mse']:.3f}"]
        rows[words] = [*geometry, f"{rfd[name]:.1f}", *distances]
    return rows


def part_rows() -> dict[str, list[str]]:
    """Return the parts of the deviation, of the first training of every encoder."""
    own = measurements()
    own = own[own["tokenizer_seed"] == 0].set_index(["tokenizer", "metric"])
    rows = {}
    for words, name in SPACES.items():
        if name not in ("pixels", "vae-means"):  # no encoder; that of the VAE
            cells = [own.loc[(name, f"distortion.{part}")] for part in PARTS]
            numbers = [with_error(c["value"], c["stderr"], 2) for c in cells[:2]]
            rows[words] = numbers + [f"{round(c['value'], 3) + 0.0:+.3f}" for c in cells[2:]]
    return rows


def verdict_rows(verdicts: pd.DataFrame, claims: dict[str, str], networks) -> dict[str, list[str]]:
    """Return the verdict on every claim by network; a dash where there is none."""
    found = verdicts.set_index(["id", "network"])["verdict"].to_dict()
    return {
        words: [found.get((claim, network), "-") for network in networks]
        for words, claim in claims.items()
    }


def image_rows() -> dict[str, list[str]]:
    return verdict_rows(image_verdicts(), VERDICTS, NETWORKS.values())


def toy_rows() -> dict[str, list[str]]:
    return verdict_rows(toy_verdicts(), TOY_VERDICTS, TOY_NETWORKS)


def training_rows() -> dict[str, list[str]]:
    """Return both estimates of FI of a short and of a long training, and the exact FI."""
    table = pd.read_csv(TOY / "training_length.csv").set_index(["space", "network"])
    rows = {}
    for space in ("data", "tanh"):
        for at in (0, 3):  # of the noise variances
            own = {name: table.loc[(space, name)].iloc[at] for name in ("exact", *LENGTHS)}
            cells = [f"{own['exact']['fi']:.2f}"]
            for length in LENGTHS:
                cells += [f"{own[length]['fi']:.2f}", f"{own[length]['fi_score']:.2f}"]
            rows[f"{space}, v = {own['exact']['v']:.2g}"] = cells
    return rows


@pytest.mark.parametrize("rows", [space_rows, part_rows, image_rows, toy_rows, training_rows])
def test_every_number_and_verdict_of_a_table_is_recomputed(rows) -> None:
    text = PAGE.read_text()
    for words, cells in rows().items():
        found = re.findall(rf"^\| {re.escape(words)} \|(.*)\|$", text, flags=re.MULTILINE)
        assert cells in [[part.strip() for part in line.split("|")] for line in found], words


@pytest.mark.parametrize(("folder", "recomputed"), [(IMAGES, image_verdicts), (TOY, toy_verdicts)])
def test_the_ledgers_of_the_gallery_follow_from_its_measurements(folder, recomputed) -> None:
    columns = ["id", "network", "verdict"]
    stored = read_table(folder / "claims.csv")[columns].fillna("")
    made = recomputed()[columns].fillna("")
    assert sorted(stored.itertuples(index=False)) == sorted(made.itertuples(index=False))


def test_what_the_page_says_of_the_contrast() -> None:
    table = latent_spaces(measurements()).drop_duplicates("tokenizer").set_index("tokenizer")
    stretch = table["stretch_ratio"]
    assert stretch["gpe"] < 1.5
    assert stretch["vae"] > 5
