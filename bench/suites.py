"""Named lists of problems with the speed that is asked of them."""

from __future__ import annotations

from dataclasses import replace

import models as end_to_end
from problems import Mean, Problem, Shape, Target

_ROW_OPS = ("softmax", "log_softmax")
_ROW_SHAPES = (((4096, 1024), -1), ((256, 32768), -1), ((65536, 64), -1), ((1024, 4096), 0))
_ACTIVATIONS = ("relu", "gelu", "silu", "sigmoid", "tanh")
# 16 M elements. A strided view of 4096x4096 is every second column of 4096x8192.
_LAYOUTS = ("contiguous", "transposed", "strided")
_SMALL_CALLS = ("relu", "gelu", "softmax", "log_softmax", "softmax_backward", "matmul")

_OBLONG = ((4096, 64, 4096), (64, 4096, 4096), (16, 4096, 4096))  # MxKxN

CALL_SECONDS = 6e-6
# Within 10 % of the better layout.
_AS_CONTIGUOUS = Target("times contiguous", 1 / 1.1)


def _times_torch(limit: float) -> Target:
    return Target("times torch", limit)


def rows() -> list[Problem]:
    """Softmax and log_softmax, forward and backward."""
    problems = []
    for name in _ROW_OPS:
        for shape, axis in _ROW_SHAPES:
            forward = 2.0 if shape == (256, 32768) else 1.3
            for op, limit in ((name, forward), (f"{name}_backward", 1.3)):
                problems.append(Problem(op, shape, "float32", axis, target=_times_torch(limit)))
                problems += [
                    Problem(op, shape, dtype, axis, target=_times_torch(1.0))
                    for dtype in ("float16", "bfloat16")
                ]
    return problems


def elementwise() -> list[Problem]:
    """Activations on 16 M elements in three layouts."""
    return [
        Problem(op, (4096, 4096), layout=layout, target=_times_torch(1.0))
        for op in _ACTIVATIONS
        for layout in _LAYOUTS
    ]


def products() -> list[Problem]:
    """Matrix products, and products of a matrix and a vector."""
    real = ("float32", "float64")
    asked: list[tuple[Shape, str, float]] = [
        ((n, n, n), dtype, 1.0) for n in (256, 512, 1024, 2048) for dtype in real
    ]
    asked += [(shape, dtype, 0.9) for shape in _OBLONG for dtype in real]
    asked += [
        ((n, n, n), dtype, 1.0)
        for n in (256, 1024, 2048)
        for dtype in ("bfloat16", "float16", "int8")
    ]
    asked += [((512, 512, 512), dtype, 1.0) for dtype in ("complex64", "complex128")]
    asked += [((1024, 32, 32, 32), dtype, 2.0) for dtype in real]
    found = [
        Problem("matmul", shape, dtype, target=Target("times best", limit))
        for shape, dtype, limit in asked
    ]
    found += [
        Problem("matmul", (512, 512, 512), dtype, target=Target("times numpy", 5.0))
        for dtype in ("int32", "int64")
    ]
    found += [
        Problem("matmul", (n, n, n), dtype, layout="transposed", target=_AS_CONTIGUOUS)
        for n in (1024, 2048)
        for dtype in ("float32", "float64", "bfloat16", "int8")
    ]
    return found + [
        Problem("gemv", (8192, 8192), dtype, layout=layout, target=Target("times best", 1.0))
        for dtype in real
        for layout in ("contiguous", "transposed")
    ]


_NORM_ROWS = ((4096, 1024), (256, 32768), (65536, 64))
_BATCH_NORM = (32, 64, 56, 56)
_GROUP_NORM = (32, 256, 28, 28)


def norm() -> list[Problem]:
    """Normalisations of rows, of batches in both layouts, and of 32 groups, with gradients."""
    found = []
    for op in ("layer_norm", "rms_norm"):
        for shape in _NORM_ROWS:
            found.append(Problem(op, shape, axis=-1, target=_times_torch(1.3)))
            found.append(Problem(f"{op}_backward", shape, axis=-1, target=_times_torch(1.5)))
    for layout in ("contiguous", "channels_last"):
        for op in ("batch_norm", "batch_norm_backward"):
            found.append(Problem(op, _BATCH_NORM, axis=1, layout=layout, target=_times_torch(1.2)))
    for op in ("group_norm", "group_norm_backward"):
        found.append(Problem(op, _GROUP_NORM, axis=1, target=_times_torch(1.5)))
    return found


_POOL = (32, 64, 112, 112)
_SMALL_POOL = ((64, 20, 8, 8), (64, 16, 28, 28), (8, 64, 56, 56))


def pool() -> list[Problem]:
    """Maxima of 3x3 with stride 2 and averages of 2x2, with gradients, in both layouts; also of
    small images.
    """
    return [
        Problem(op, shape, layout=layout, target=_times_torch(limit))
        for shapes, limit in (((_POOL,), 1.5), (_SMALL_POOL, 1.0))
        for shape in shapes
        for layout in ("contiguous", "channels_last")
        for op in ("max_pool", "max_pool_backward", "avg_pool", "avg_pool_backward")
    ]


_IMAGES, _LARGER = (8, 64, 56, 56), (8, 64, 112, 112)
_SMALL_IMAGES = ((64, 16, 8, 8), (64, 16, 28, 28), (8, 3, 56, 56))
_OF_SMALL_IMAGES = (
    *(("pad", "reflect"), ("pixel_unshuffle", ""), ("unfold", "")),
    *((op, "linear x2") for op in ("interpolate", "interpolate_backward")),
    *((op, "") for op in ("grid_sample", "grid_sample_backward")),
)


def windows() -> list[Problem]:
    """Padding, windows and resampling of images in both layouts, with gradients; some of small
    images.
    """
    found = []
    for layout in ("contiguous", "channels_last"):
        asked = [("pad", _LARGER, "reflect", 1.0), ("pad", _LARGER, "constant", 1.0)]
        asked += [("pad_backward", _LARGER, "reflect", 1.0)]
        asked += [(op, _IMAGES, "", 1.0) for op in ("unfold", "fold")]
        asked += [(op, _LARGER, "", 1.0) for op in ("pixel_shuffle", "pixel_unshuffle")]
        for case in ("nearest x2", "linear x2", "linear x0.5", "linear x1.5", "cubic x2"):
            limit = 1.5 if case.startswith("linear") else 1.0
            asked += [("interpolate", _IMAGES, case, limit)]
            asked += [("interpolate_backward", _IMAGES, case, limit)]
        asked += [(op, _IMAGES, "", 1.0) for op in ("grid_sample", "grid_sample_backward")]
        found += [
            Problem(op, shape, layout=layout, case=case, target=_times_torch(limit))
            for op, shape, case, limit in asked
            # Columns have no channels apart from taps.
            if op != "fold" or layout == "contiguous"
        ]
        found += [
            Problem(op, shape, layout=layout, case=case, target=_times_torch(1.0))
            for shape in _SMALL_IMAGES
            for op, case in _OF_SMALL_IMAGES
        ]
    return found


# Channels and side of the image, outputs, kernel and stride: all that differ in ResNet-50, with the
# stride in the 3x3 as torchvision has it, "version 1.5". He et al. 2016, table 1.
_RESNET50 = (
    (3, 224, "64 7x7/2"),
    (64, 56, "64 1x1"),
    (64, 56, "64 3x3"),
    (64, 56, "256 1x1"),
    (256, 56, "64 1x1"),
    (256, 56, "128 1x1"),
    (128, 56, "128 3x3/2"),
    (128, 28, "512 1x1"),
    (256, 56, "512 1x1/2"),
    (512, 28, "128 1x1"),
    (128, 28, "128 3x3"),
    (512, 28, "256 1x1"),
    (256, 28, "256 3x3/2"),
    (256, 14, "1024 1x1"),
    (512, 28, "1024 1x1/2"),
    (1024, 14, "256 1x1"),
    (256, 14, "256 3x3"),
    (1024, 14, "512 1x1"),
    (512, 14, "512 3x3/2"),
    (512, 7, "2048 1x1"),
    (1024, 14, "2048 1x1/2"),
    (2048, 7, "512 1x1"),
    (512, 7, "512 3x3"),
)
_CONVOLUTIONS = ("conv", "conv_backward_data", "conv_backward_weight")


def resnet50() -> list[Problem]:
    """The convolutions of ResNet-50, batches of 1 and 8, with gradients; --layout, --dtype."""
    found = []
    for op in _CONVOLUTIONS:
        # Forward also none below; what gradients should reach is the mean.
        limit, least = (1.0, _times_torch(0.7)) if op == "conv" else (0.9, None)
        for batch in (1, 8):
            mean = Mean(f"{op}, batch {batch}", _times_torch(limit))
            found += [
                Problem(op, (batch, c, side, side), target=least, case=case, mean=mean)
                for c, side, case in _RESNET50
            ]
    return found


_DEPTHWISE = (((32, 112, 112), "32 3x3 g32"), ((384, 14, 14), "384 3x3 g384"))
_OTHER_RANKS = (((1, 64, 16384), "64 7"), ((1, 32, 32, 32, 32), "32 3x3x3"))
_SMALL = (((64, 1, 28, 28), "6 5x5"), ((64, 16, 8, 8), "32 3x3"), ((64, 16, 28, 28), "16 3x3"))
_BOTH_LAYOUTS = (
    ((8, 3, 224, 224), "64 7x7/2"),
    ((8, 64, 56, 56), "64 3x3"),
    ((8, 128, 56, 56), "128 3x3/2"),
    ((8, 1024, 14, 14), "256 1x1"),
)


def conv() -> list[Problem]:
    """Depthwise, 1-D, 3-D, float64, integer and channels-last convolutions, and of small images."""
    found = []
    depthwise = [((8, *image), case) for image, case in _DEPTHWISE]
    alone = [((1, *image), case) for image, case in _DEPTHWISE]
    for shape, case in (*alone, *depthwise, *_OTHER_RANKS, *_SMALL):
        for op in _CONVOLUTIONS:
            limit = _times_torch(1.0) if op == "conv" else None
            found.append(Problem(op, shape, target=limit, case=case))
    found += [
        Problem(op, (8, 64, 56, 56), "float64", target=_times_torch(3.0), case="64 3x3")
        for op in _CONVOLUTIONS
    ]
    found += [
        Problem("conv", (1, 64, 56, 56), dtype, target=_times_torch(3.0), case="64 3x3")
        for dtype in ("int8", "int32")
    ]
    found.append(Problem("conv_transpose", (8, 64, 28, 28), case="64 3x3/2"))
    for shape, case in (*_BOTH_LAYOUTS, *depthwise):
        for op in _CONVOLUTIONS:
            if (shape, case) not in depthwise:
                found.append(Problem(op, shape, case=case))
            found.append(
                Problem(op, shape, layout="channels_last", target=_AS_CONTIGUOUS, case=case)
            )
    return found


def fusion() -> list[Problem]:
    """Chains of elementwise operations on 16 M elements, and perceptrons, each one kernel;
    functions inside row kernels, beside the same in two; and an epilogue.
    """
    shape = (4096, 4096)
    found = [Problem("fused_chain", shape, target=Target("times numpy", 3.0))]
    found += [Problem(op, shape, target=_times_compiled(1.0)) for op in _FUSED]
    found.append(Problem("fused_chain", shape, "bfloat16", target=_times_torch(1.0)))
    found.append(Problem("mlp", (65536, 64, 64, 64), target=_times_torch(2.0)))
    found += [Problem("mlp", (65536, n, n, n), target=_times_torch(1.0)) for n in (16, 128)]
    found.append(Problem("mlp_backward", (65536, 64, 64, 64), target=_times_torch(1.0)))
    # A layer with bias, activation and residual, and the product that it is without these.
    for layer in ((2048, 512, 512), (1024, 1024, 1024)):
        found += [Problem("fused_linear", layer, target=_times_torch(1.0))]
        found += [Problem("linear", layer)]
    for op, inside in (("attention_scores", (8, 12, 512, 512)), ("residual_norm", (8192, 1024))):
        found += [Problem(op, inside, target=_times_torch(1.0)), Problem(f"{op}_steps", inside)]
    return found


_FUSED = ("fused_chain", "fused_gate")


def _times_compiled(limit: float) -> Target:
    return Target("times torch_compile", limit)


def calls() -> list[Problem]:
    """What a call costs that has next to nothing to compute."""
    return [
        Problem(
            op,
            (8, 8, 8) if op == "matmul" else (8, 8),
            axis=-1 if "softmax" in op else None,
            target=Target("seconds", CALL_SECONDS),
        )
        for op in _SMALL_CALLS
    ]


def gpu() -> list[Problem]:
    """On a GPU: large problems of every family, mostly in 16 bits, against CUDA's libraries."""
    low = ("float16", "bfloat16")
    found = [
        Problem("matmul", (4096, 4096, 4096), dtype, target=Target("times torch", 0.6))
        for dtype in low
    ]
    found += [
        Problem("matmul", (2048, 2048, 2048), dtype, target=_times_torch(limit))
        for dtype, limit in (("float16", 0.6), ("float32", 0.9), ("float64", 0.9))
    ]
    found += [Problem("matmul", (4096, 4096, 4096), "int8"), Problem("matmul", (16, 4096, 4096))]
    found.append(Problem("matmul", (4096, 32, 32, 32), "float16"))
    for layout in ("contiguous", "transposed"):
        found.append(Problem("gemv", (8192, 8192), layout=layout, target=_times_torch(0.9)))
    for op in ("softmax", "softmax_backward", "layer_norm", "layer_norm_backward"):
        for shape in ((16384, 4096), (1024, 65536)):
            found.append(Problem(op, shape, "float16", -1, target=_times_torch(1.0)))
    found.append(Problem("softmax", (4096, 16384), "float32", 0))
    found += [Problem(op, (8192, 8192), "float16") for op in ("gelu", "gelu_backward", "relu")]
    found.append(Problem("gelu", (8192, 8192), "float32", layout="transposed"))
    for op in ("mlp", "mlp_backward"):
        found.append(Problem(op, (262144, 64, 64, 64), "float16", target=_times_torch(2.0)))
    image = (64, 64, 56, 56)
    for layout in ("contiguous", "channels_last"):
        for op in ("batch_norm", "batch_norm_backward"):
            found.append(Problem(op, image, axis=1, layout=layout, target=_times_torch(1.0)))
        found += [Problem(op, image, layout=layout) for op in ("max_pool", "max_pool_backward")]
        for case in ("64 1x1", "64 3x3", "64 3x3 g64"):
            limit = _times_torch(0.8) if layout == "channels_last" else None
            found.append(Problem("conv", image, "float16", None, layout, limit, case))
        for op in _CONVOLUTIONS[1:]:
            found.append(Problem(op, image, "float16", layout=layout, case="64 3x3"))
    return found


def warpgroups() -> list[Problem]:
    """On a GPU of compute capability 9.0: what NNKERNELS_GPU_ARCH=sm_90 makes otherwise."""
    target = Target("times torch", 0.8)
    found = [
        Problem("matmul", (size,) * 3, dtype, layout=layout, target=target)
        for size, dtype, layout in (
            (4096, "float16", "contiguous"), (4096, "float16", "transposed"),
            (4096, "bfloat16", "contiguous"), (2048, "float16", "contiguous"),
            (1024, "float16", "contiguous"),
        )
    ]  # fmt: skip
    found += [Problem("matmul", (256, 4096, 4096), "float16", target=target)]
    found += [Problem("matmul", (4096,) * 3, "int8", layout="transposed")]
    for op in _CONVOLUTIONS:
        for image, case in (((32, 128, 28, 28), "128 3x3"), ((32, 256, 14, 14), "256 3x3")):
            found.append(Problem(op, image, "float16", None, "channels_last", target, case))
    return found


def models() -> list[Problem]:
    """Training steps of small networks, also on images of 8 x 8, and a block of a transformer."""
    found = [Problem(name, shape) for name, shape in end_to_end.SHAPES.items()]
    steps = ("lenet step", "resnet8 step")
    digits = [Problem(name, (64, 1, 8, 8)) for name in steps if name in end_to_end.SHAPES]
    return found + digits


OVERVIEW_SECONDS = 0.15  # for each provider of a row


def overview() -> list[Problem]:
    """Every family once or twice, against all peers: three minutes."""
    rows_, image = (4096, 1024), (4, 64, 56, 56)
    found = [
        Problem("relu", (8, 8)),
        Problem("gelu", (2048, 2048)),
        Problem("gelu_backward", (2048, 2048), "bfloat16"),
        Problem("softmax", rows_, axis=-1),
        Problem("softmax_backward", rows_, axis=-1),
        Problem("matmul", (512, 512, 512)),
        Problem("matmul", (512, 512, 512), "bfloat16"),
        Problem("gemv", (2048, 2048)),
        Problem("layer_norm", rows_, axis=-1),
        Problem("batch_norm", image, axis=1, layout="channels_last"),
        Problem("conv", (1, *image[1:]), case="64 3x3"),
        Problem("conv_backward_weight", (1, *image[1:]), case="64 3x3"),
        Problem("max_pool", image),
        Problem("interpolate", image, layout="channels_last", case="linear x2"),
        Problem("fused_chain", (2048, 2048)),
        Problem("mlp", (8192, 64, 64, 64)),
        *models(),
    ]
    return [replace(problem, min_time=OVERVIEW_SECONDS) for problem in found]


def regression() -> list[Problem]:
    """A little of every family in some seconds each: what a change may have slowed down."""
    large, image = (1024, 1024), (8, 64, 56, 56)
    found = [
        Problem(op, large, dtype)
        for op in ("relu", "gelu", "gelu_backward")
        for dtype in ("float32", "bfloat16")
    ]
    found += [Problem("tanh", large, layout=layout) for layout in ("transposed", "strided")]
    for op in ("softmax", "softmax_backward", "log_softmax", "layer_norm", "layer_norm_backward"):
        found.append(Problem(op, large, axis=-1))
    found += [Problem("softmax", large, "float16", -1), Problem("softmax", large, axis=0)]
    for layout in ("contiguous", "channels_last"):
        for op in ("batch_norm", "batch_norm_backward"):
            found.append(Problem(op, image, axis=1, layout=layout))
        found += [Problem(op, image, layout=layout) for op in ("max_pool", "max_pool_backward")]
        found.append(Problem("interpolate", image, layout=layout, case="linear x2"))
    found += [Problem(op, image, axis=1) for op in ("group_norm", "group_norm_backward")]
    found += [
        Problem("matmul", (512, 512, 512), dtype)
        for dtype in ("float32", "float64", "bfloat16", "int8", "complex64")
    ]
    for shape in ((16, 1024, 1024), (256, 32, 32, 32)):
        found.append(Problem("matmul", shape))
    found += [
        Problem("gemv", (2048, 2048), layout=layout) for layout in ("contiguous", "transposed")
    ]
    for case in ("64 1x1", "64 3x3", "64 3x3 g64", "128 3x3/2"):
        found += [Problem(op, (1, *image[1:]), case=case) for op in _CONVOLUTIONS]
    return found + calls()


# What "--suite NAME" times.
SUITES = {
    "foundation": (rows, elementwise, calls),
    "rows": (rows,),
    "elementwise": (elementwise,),
    "products": (products,),
    "norm": (norm,),
    "pool": (pool,),
    "windows": (windows,),
    "conv": (conv,),
    "resnet50": (resnet50,),
    "fusion": (fusion,),
    "calls": (calls,),
    "gpu": (gpu,),
    "warpgroups": (warpgroups,),
    "models": (models,),
    "overview": (overview,),
    "regression": (regression,),
    "startup": (),
}
# Those of shapes, which --dtype and --layout may vary.
OF_SHAPES = ("resnet50",)
WITH_STARTUP = ("foundation", "startup")
# Those that are not against PyTorch alone.
PEERS = {
    "products": ("numpy", "torch"),
    "overview": ("numpy", "scipy", "torch"),
    "fusion": ("numpy", "torch", "torch_compile"),
}
MEANINGS = {
    "foundation": "rows, elementwise, calls and startup",
    "rows": rows.__doc__,
    "elementwise": elementwise.__doc__,
    "products": products.__doc__,
    "norm": norm.__doc__,
    "pool": pool.__doc__,
    "windows": windows.__doc__,
    "conv": conv.__doc__,
    "resnet50": resnet50.__doc__,
    "fusion": fusion.__doc__,
    "calls": calls.__doc__,
    "gpu": gpu.__doc__,
    "warpgroups": warpgroups.__doc__,
    "models": models.__doc__,
    "overview": overview.__doc__,
    "regression": regression.__doc__,
    "startup": "Import time and first calls, from a cold and from a warm cache.",
}


def problems_of(suite: str) -> list[Problem]:
    return [problem for part in SUITES[suite] for problem in part()]
