"""Flags of measurements in plain words, and what a value is of where that is not the usual."""

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any

UNCONDITIONAL = "unconditional"  # as the flag ends of a metric of classes where there is one
UP_TO = " at v <= "  # in a flag, before the largest noise variance where it holds
LEAST_PSNR = 15.0  # dB: below it a decoder does not show the image
HARDLY_RECONSTRUCTED = (
    "images are hardly reconstructed, so that good values of other metrics say nothing of "
    "generated images"
)
# flags of measurements in plain words; a flag may go on after the key
FLAGS = {
    "classes too small to halve: no finite-sample correction": "too few images of a class to know "
    "by how much it is too low",
    "rank-deficient covariance factors": "too few images for covariance factors",
    "rank-deficient": "too few images for the number of features",
    "few-images-per-class": "few generated images per class",
    "points-limited-to-images": "fewer images than points were asked for",
    "repeats-overlap": "repeats share images: their spread is too small",
    "queries-are-the-pool": "neighbours are searched among the same images",
    "exact-images-": "images reconstructed without any error: ",
    "in-sample": "measured on images that the tokenizer was trained on",
    "model-error: A - B is not 0": "two estimates from the learned score differ",
    "model-error: (A - C) / B > 0.1": "the learned score is overfitted",
    "model-error: denoising": "the trained model fails: denoising",
    "defect: (A + C) / 2 is not B": "two estimates that must agree differ",
    "impossible value: FI > n / v": "Fisher information above that of noise: impossible",
    "impossible value: FIR < FI^2 / n": "Fisher rate below its least value: impossible",
    "extrapolation: sigma": "noise level",
    "data-limited: a bound": "too few images for the number of dimensions: a bound",
    "loose: bounds of v FI / n differ": "bounds of Fisher information are far apart",
}


def direction(better: bool | None, chance: float | None = None) -> str:
    """Return which values are better, and the value of latents that say nothing, if it is known."""
    level = "" if chance is None else f"chance {chance:.2g}"
    word = "" if better is None else "higher" if better else "lower"
    return f"{word} ({level})" if word and level else word or level


def in_plain_words(flag: str) -> str:
    """Return a flag in plain words, without the noise levels that it names."""
    flag = flag.partition(" (v = ")[0]
    for key, words in FLAGS.items():
        if flag.startswith(key):
            return words + flag.removeprefix(key)
    return flag


def reading(metric: str, options: Mapping[str, Any], flags: Collection[str]) -> str:
    """Return what a value is of, where that is not what its metric means by default, or nothing.

    Classes may be one, and without masks the neighbours of LNC are those of whole images.
    """
    said = [UNCONDITIONAL] if any(flag.endswith(UNCONDITIONAL) for flag in flags) else []
    if fnmatchcase(metric, "semantics.lnc*") and options.get("pooling") == "mean":
        said.append("without masks")
    return ", ".join(said)


def to_read(flags: Collection[str]) -> list[str]:
    """Return the flags that are to be read, in plain words: not what ``reading`` says.

    Of flags that differ only in the noise variance up to which they hold, as those of latents and
    of pixels of a deviation do, the one with the largest.
    """
    widest: dict[str, str] = {}
    for flag in flags:
        if flag and not flag.endswith(UNCONDITIONAL):
            what, _, v = flag.partition(UP_TO)
            known = widest.get(what, "").partition(UP_TO)[2]
            if what not in widest or float(v or 0) > float(known or 0):
                widest[what] = flag
    return [in_plain_words(flag) for flag in widest.values()]
