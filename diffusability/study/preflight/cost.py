"""What an artifact costs, counted from the study before anything has run.

A training step is three forward passes (forward, and backward to activations and to weights), with
activation checkpointing four.
For stages that need a GPU, operations are counted. For those that run on CPU cores, the time is in
proportion to the latent numbers that they read, as it was measured once (benchmarks/RESULTS.md).
"""

from dataclasses import dataclass, replace
from typing import Literal

from diffusability.study.core.spec import Precision, TrainSpec
from diffusability.study.entries.backbone import Backbone
from diffusability.study.entries.dataset import DecodedDataset
from diffusability.study.entries.encoder import EncoderEntry, RepresentationEncoder, TrainedEncoder
from diffusability.study.entries.operations import (
    Autoencoder,
    Size,
    backbone,
    discriminator,
)
from diffusability.study.entries.regularizer import Gpe
from diffusability.study.entries.tokenizer_entry import TokenizerEntry
from diffusability.study.entries.trained_tokenizer import TokenizerSpec
from diffusability.study.metrics.groups import METRIC_GROUPS, FisherMetric
from diffusability.study.metrics.perspectives import UniformityMetric
from diffusability.study.planning.plan import Artifact
from diffusability.study.planning.stages import IN_TF32
from diffusability.study.study import Study

BYTES = {"float32": 4, "bfloat16": 2}
TRAINING = 3  # passes of a step, in forward passes
RECOMPUTED = 1  # passes more, where blocks are computed again in the backward pass
TANGENT = 2  # a Jacobian-vector product: the pass and its derivative
CONDITIONS = 2  # with the label and without
PERCEPTUAL = 3  # both images forward, and back to the pixels of one
# the generator's step: forward, and back to pixels twice (for the adaptive factor too); its own:
# three passes of a real and three of a fake image
ADVERSARIAL = 9
BALANCING = 1  # an adaptive factor: the reconstruction's gradient once more, of inputs alone
Speed = Literal[Precision, "full fp32"]
# bf16: LightningDiT-B, compiled, trains on at least 1,190 images/s of an H100
# (hustvl/LightningDiT#74), which is 164 TFLOP/s; fp32: half of it, as the chip's peak in TF32 is
# half of that in bf16; without TF32 three fifths of the peak of 67 TFLOP/s. Neither is measured.
SUSTAINED: dict[Speed, float] = {"bf16": 160e12, "fp32": 80e12, "full fp32": 40e12}
EAGER = 0.6  # of these, of a diffusion training that is not compiled; assumed, not measured
MACHINE = "an H100-class GPU"
# CPU seconds per number of a latent, measured with 32 x 16 x 16 of them per image
PER_NUMBER = {"velocity": 4.7e-7, "semantics": 3.7e-7, "spatial": 1.5e-7, "smoothness": 7.3e-8}
PER_POINT = 1.6e-5  # of uniformity: CPU seconds per point and iteration of t-SNE
# of Fisher information: CPU seconds per product in spectra of all images and of every class, and
# per dimension of the distances between images; within a fifth of what four latent spaces of 128 to
# 8,192 dimensions took. As many images are compared as ``metrics.sample_fisher`` takes.
PER_PRODUCT, PER_DIMENSION, COMPARED, DISTANCES = 3.2e-10, 0.01, 2048, 1024
PER_FILE = 1 / 830  # CPU seconds per image file of which the index is built
DECODED = 300  # image files that a core decodes, resizes and crops to 256 pixels in a second


@dataclass(frozen=True)
class Work:
    """The counted cost of one artifact.

    Attributes:
        macs: multiply-accumulates in all; None where none are counted.
        speed: the precision that they run in, which says how fast.
        bytes: on disk when it is finished, the bulk that it stands for included.
        core_seconds: of a stage that needs no GPU, on one CPU core; None where it is not known.
        efficiency: share of the speed that is reached.
        decoded: image files that are decoded while the GPU works.
    """

    macs: int | None
    speed: Speed
    bytes: int
    core_seconds: float | None = None
    efficiency: float = 1.0
    decoded: int = 0

    @property
    def seconds(self) -> float | None:
        """On one GPU of the assumed speed."""
        if self.macs is None:
            return None
        return 2 * self.macs / SUSTAINED[self.speed] / self.efficiency


def _passes(train: TrainSpec) -> int:
    """Return the cost of a training step in forward passes."""
    return TRAINING + RECOMPUTED * train.activation_checkpointing


class Costs:
    """The counted costs of a study's artifacts."""

    def __init__(self, study: Study) -> None:
        """Take the sizes that everything depends on."""
        self.study, self.data = study, study.dataset
        self.images = study.dataset.counts()
        self.channels, self.side = self.data.image_channels, self.data.size

    def work(self, artifact: Artifact) -> Work:
        """Return the cost of one artifact of the study's plan."""
        found = self._work(artifact)
        if found.speed == "fp32" and artifact.stage not in IN_TF32:
            return replace(found, speed="full fp32")
        return found

    def _work(self, artifact: Artifact) -> Work:
        match artifact.stage:
            case "encoder":
                return self._encoder(self.study.encoders[artifact.labels["encoder"]])
            case "tokenizer":
                return self._tokenizer(self._entry(artifact))
            case "latents":
                return self._latents(self._entry(artifact))
            case "diffusion":
                return self._diffusion(artifact)
            case "samples":
                return self._samples(artifact)
            case "learned_fisher":
                return self._learned_fisher(artifact)
            case "generation":
                metric = self.study.generation
                count = self.study.sampling.count
                if metric.compared is None:
                    count += self.images.of(metric.reference)
                judged = count * self._features(metric.extractor).macs
                own = {metric.extractor}  # whose features of the samples are there already
                return self._with_fdr6(judged, self.study.sampling.count, own)
            case "generation_reference":
                metric = self.study.generation
                published = metric.reference_statistics is not None
                count = 0 if published else self.images.of(metric.reference)
                count += metric.compared or 0
                return Work(count * self._features(metric.extractor).macs, "fp32", 0)
            case "fdr6_reference":
                return self._with_fdr6(0, self.images.of("all"), set())
            case "dataset":
                return Work(None, "fp32", 0, PER_FILE * self._files(self.images.of("all")))
            case "fisher_toy":  # not known
                return Work(None, "fp32", 0)
            case "pixel_fisher":
                return Work(None, "fp32", 0, self._fisher(self.channels * self.side**2))
            case stage:
                entry = self._entry(artifact)
                on_cores = self._on_cores(stage, entry)
                return Work(self._measured(stage, entry), "fp32", 0, on_cores)

    def _on_cores(self, group: str, entry: TokenizerEntry) -> float | None:
        """Return the CPU seconds of a metric group without a network; None where not known."""
        options = self.study.selected_metrics.get(METRIC_GROUPS[group].name)
        if isinstance(options, UniformityMetric):
            points = min(options.points, self.images.of(options.split))
            return PER_POINT * points * options.iterations * options.repeats
        if isinstance(options, FisherMetric):
            channels, grid = self._latent(entry)
            return self._fisher(channels * grid**2)
        if options is None or group not in PER_NUMBER:
            return None
        channels, grid = self._latent(entry)
        return PER_NUMBER[group] * self.images.of(options.split) * channels * grid**2

    def _fisher(self, dimensions: int) -> float | None:
        """Return the CPU seconds of Fisher curves, but those of trained models."""
        options = self.study.selected_metrics.get("fisher")
        if not isinstance(options, FisherMetric):
            return None
        images, classes = self.images.of(options.split), self.data.num_classes
        compared, own = min(images, COMPARED), min(images // classes, COMPARED)
        products = compared * dimensions * min(compared, dimensions)
        if classes > 1:
            products += classes * own * dimensions * min(own, dimensions)
        return PER_PRODUCT * products + PER_DIMENSION * min(dimensions, DISTANCES)

    def _with_fdr6(self, macs: int, count: int, done: set[str]) -> Work:
        """Return other operations in float32 with those of FDr6 on so many images.

        Args:
            macs: the others. count: of images. done: extractors of FDr6 that need not run.
        """
        names = set(self.study.generation.fdr6 or ()) - done
        half = {n for n in names if isinstance(self.study.encoders[n], RepresentationEncoder)}
        macs += count * sum(self._features(name).macs for name in names - half)
        halved = count * sum(self._features(name).macs for name in half)  # they run in bf16
        return Work(macs + round(halved * SUSTAINED["full fp32"] / SUSTAINED["bf16"]), "fp32", 0)

    def _files(self, images: int) -> int:
        """Return how many of images are decoded from files: all, or none that memory holds."""
        return images if isinstance(self.data, DecodedDataset) else 0

    def _entry(self, artifact: Artifact) -> TokenizerEntry:
        return self.study.tokenizers[artifact.labels["tokenizer"]]

    def _network(self, entry: TokenizerEntry) -> Autoencoder | None:
        """Return the size of a tokenizer; an external one is not known before it is read."""
        return entry.cost(self.channels, self.side)

    def _features(self, name: str) -> Size:
        entry = self.study.encoders[name]
        return entry.cost(self.channels, self.side, self.data.num_classes)

    def _encoder(self, entry: EncoderEntry) -> Work:
        size = entry.cost(self.channels, self.side, self.data.num_classes)
        if isinstance(entry, TrainedEncoder):
            seen = entry.train.steps * entry.train.batch
            macs = _passes(entry.train) * seen * size.macs
            decoded = self._files(seen)
            return Work(macs, entry.train.precision, 4 * size.parameters, decoded=decoded)
        return Work(0, "fp32", 4 * size.parameters)

    def _tokenizer(self, entry: TokenizerEntry) -> Work:
        network = self._network(entry)
        if network is None or not isinstance(entry, TokenizerSpec):
            return Work(0, "fp32", 0 if network is None else 4 * network.whole.parameters)
        objective, train = entry.objective, entry.train
        an_image = _passes(train) * network.whole.macs
        if "encoder" in entry.encoders:
            an_image += self._features(entry.encoders["encoder"]).macs
        distance = 0
        if "perceptual" in entry.encoders:
            distance = self._features(entry.encoders["perceptual"]).macs
        an_image += PERCEPTUAL * distance
        if entry.regularizer.balanced:
            again = 1 + train.activation_checkpointing  # blocks are computed again for it
            an_image += BALANCING * (distance + again * network.decoder.macs)
        macs = train.steps * train.batch * an_image
        if isinstance(entry.regularizer, Gpe):  # encoder and decoder one after the other
            decoded = entry.regularizer.decoder_steps or train.steps
            halves = train.steps * TRAINING * network.encoder.macs
            halves += decoded * (network.encoder.macs + TRAINING * network.decoder.macs)
            macs = halves * train.batch
        if objective.gan:
            rounds = max(0, train.steps - objective.gan_start) * train.batch
            judged = ADVERSARIAL * discriminator(objective, self.channels, self.side).macs
            macs += rounds * (judged + BALANCING * distance)
        decoded = self._files(train.steps * train.batch)
        return Work(macs, train.precision, 4 * network.whole.parameters, decoded=decoded)

    def _latents(self, entry: TokenizerEntry) -> Work:
        channels, grid = self._latent(entry)
        count = self.images.of("all") * (1 + self.study.encoding.flip)  # mirrored ones beside
        moments = 2 * channels * grid**2  # mean and log-variance
        network = self._network(entry)
        macs = None if network is None else count * network.encoder.macs
        encoding = self.study.encoding
        size = count * moments * BYTES[encoding.dtype]
        if encoding.val_means is not None:  # longer means of single shards
            longer = BYTES[encoding.val_means] - BYTES[encoding.dtype]
            size += self.images.of("val") * (moments // 2) * longer
        return Work(macs, "fp32", size, decoded=self._files(count))

    def _latent(self, entry: TokenizerEntry) -> tuple[int, int]:
        """Return channels and side of a latent."""
        return entry.channels, self.side // entry.factor

    def _backbone(self, artifact: Artifact) -> tuple[Backbone, Size]:
        spec = self.study.backbones[artifact.labels["backbone"]]
        latent = self._latent(self._entry(artifact))
        return spec, backbone(spec, *latent, self.data.num_classes)

    def _diffusion(self, artifact: Artifact) -> Work:
        spec, size = self._backbone(artifact)
        seen = spec.train.steps * spec.train.batch
        kept = 1 + len(spec.train.snapshots)  # files of weights
        macs = _passes(spec.train) * seen * size.macs
        efficiency = 1.0 if spec.train.compile else EAGER
        weights = 4 * size.parameters * kept
        return Work(macs, spec.train.precision, weights, efficiency=efficiency)

    def _samples(self, artifact: Artifact) -> Work:
        sampling = self.study.sampling
        network = self._network(self._entry(artifact))
        an_image = 0 if network is None else network.decoder.macs
        if "control" not in artifact.spec:
            an_image += sampling.evaluations * self._evaluation(artifact)
        pixels = self.channels * self.side**2  # one byte each
        return Work(sampling.count * an_image, "fp32", sampling.count * pixels)

    def _evaluation(self, artifact: Artifact) -> int:
        """Return the operations of one evaluation of the guided model, per image."""
        passes = 1 if float(artifact.labels["guidance"]) == 1 else 2  # with and without the label
        _, size = self._backbone(artifact)
        return passes * size.macs

    def _learned_fisher(self, artifact: Artifact) -> Work:
        options = artifact.spec
        latents = min(options["latents"], self.images.of(options["split"]))
        products = latents * options["draws"] * options["probes"] * len(options["variances"])
        _, size = self._backbone(artifact)
        return Work(CONDITIONS * products * TANGENT * size.macs, "fp32", 0)

    def _measured(self, group: str, entry: TokenizerEntry) -> int | None:
        """Return the operations of a metric group's forward passes; None where none are counted.

        Raises:
            StudyError: the stage is no metric group.
        """
        options = self.study.selected_metrics.get(METRIC_GROUPS[group].name)
        passes = None if options is None else options.passes()
        network = self._network(entry)
        if options is None or passes is None or network is None:
            return None
        an_image = passes.encoder * network.encoder.macs + passes.decoder * network.decoder.macs
        if passes.extractor:
            an_image += passes.extractor * self._features(options.encoders["extractor"]).macs
        if passes.pool is not None:  # all pairs
            channels, grid = self._latent(entry)
            an_image += self.images.of(passes.pool) * channels * grid**2
        return self.images.of(options.split) * an_image
