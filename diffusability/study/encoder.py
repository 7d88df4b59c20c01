"""Frozen networks: targets of alignment and feature extractors of Fréchet distances."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from diffusability.study.spec import Spec, TrainSpec


class SupervisedEncoder(Spec):
    """A small convolutional classifier that the study trains itself on its own images.

    Its last feature map is the target of alignment; its pooled features and its class
    probabilities judge generated images when it serves as the extractor.
    """

    kind: Literal["supervised"]
    width: PositiveInt = Field(32, description="channels after the first convolution")
    features: PositiveInt = Field(64, description="channels of the last feature map")
    factor: Literal[1, 2, 4, 8, 16] = Field(
        2, description="image pixels per cell of the feature map, along one side"
    )
    seed: NonNegativeInt = Field(0, description="seed of initialisation and data order")
    train: TrainSpec


EncoderSpec = SupervisedEncoder
