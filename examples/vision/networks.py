"""The networks that `train.py` can train, and the gradient of their loss."""

from __future__ import annotations

from typing import Any

import numpy as np
from layers import (
    Array,
    Arrays,
    BatchNorm,
    Chain,
    Conv,
    Flatten,
    GlobalAverage,
    Layer,
    Linear,
    MaxPool,
    Pass,
    Residual,
)

import nnkernels as nnk


def lenet(image: tuple[int, int, int], classes: int) -> Chain:
    """LeNet: two convolutions with pooling, two dense layers.

    Of LeCun et al., "Gradient-based learning applied to document recognition", 1998, with the
    widths 20, 50 and 500 and the ReLU and maximum of later versions. The convolutions are padded,
    so that images of 8 x 8 do.

    Parameters
    ----------
    image : tuple of int
        Channels, height and width.
    classes : int
        How many there are.
    """
    channels, height, width = image
    return Chain(
        Conv("conv1", channels, 20, kernel=5, padding=2, bias=True, first=True, activation="relu"),
        MaxPool(),
        Conv("conv2", 20, 50, kernel=5, padding=2, bias=True, activation="relu"),
        MaxPool(),
        Flatten(),
        Linear("dense1", 50 * (height // 4) * (width // 4), 500, "relu"),
        Linear("dense2", 500, classes),
    )


def resnet8(image: tuple[int, int, int], classes: int) -> Chain:
    """ResNet of 8 layers: He et al., arXiv 1512.03385, section 4.2 with n = 1.

    The shortcuts that change the size are convolutions 1 x 1 (their option B).
    """
    widths = (16, 32, 64)
    blocks: list[Layer] = []
    for stage, width in enumerate(widths):
        before = widths[max(stage - 1, 0)]
        blocks.append(_block(f"block{stage + 1}", before, width, stride=1 if stage == 0 else 2))
    return Chain(
        Conv("conv1", image[0], 16, kernel=3, padding=1, first=True),
        BatchNorm("norm1", 16, "relu"),
        *blocks,
        GlobalAverage(),
        Linear("dense", widths[-1], classes),
    )


def _block(name: str, inputs: int, outputs: int, stride: int) -> Residual:
    main = Chain(
        Conv(f"{name}.conv1", inputs, outputs, kernel=3, stride=stride, padding=1),
        BatchNorm(f"{name}.norm1", outputs, "relu"),
        Conv(f"{name}.conv2", outputs, outputs, kernel=3, padding=1),
        BatchNorm(f"{name}.norm2", outputs),
    )
    if stride == 1 and inputs == outputs:
        return Residual(main)
    return Residual(
        main,
        Chain(
            Conv(f"{name}.shortcut", inputs, outputs, kernel=1, stride=stride),
            BatchNorm(f"{name}.norm3", outputs),
        ),
    )


MODELS = {"lenet": lenet, "resnet8": resnet8}


def loss_and_gradients(
    network: Layer, run: Pass, images: Array, targets: Array, scale: float = 1.0
) -> tuple[Array, Arrays]:
    """The mean cross-entropy of a batch, and its gradient with respect to each parameter.

    Parameters
    ----------
    network : Layer
        What gives the logits.
    run : Pass
        With the parameters, in training.
    images : array
        Of shape (N, C, H, W) and the dtype of the parameters.
    targets : array
        Probability of each class for each image, (N, classes): rows with a single one, if
        nothing is smoothed. In their dtype, float32 usually, the loss is computed.
    scale : float
        Of the gradients, so that those of float16 do not underflow.

    Returns
    -------
    loss : array
        Without axes, of the dtype of the targets.
    gradients : dict
        By name, of the dtypes of the parameters.
    """
    logits, back = network.forward(images, run)
    wide = logits.astype(targets.dtype, copy=False)
    log_probabilities, pullback = nnk.vjp(nnk.log_softmax, wide)
    loss = -(log_probabilities * targets).sum() / len(images)
    d_logits: Array = pullback(targets * (-scale / len(images)))[0]
    gradients: Arrays = {}
    back(d_logits.astype(logits.dtype, copy=False), gradients)
    return loss, gradients


def predictions(network: Layer, parameters: Arrays, statistics: Arrays, images: Array) -> Any:
    """The log-probabilities of each class, by the running statistics."""
    logits, _ = network.forward(images, Pass(parameters, statistics, training=False))
    return nnk.log_softmax(logits.astype(np.float32, copy=False))
