"""The simulator itself: planted bugs are reported where they stand, correct kernels pass.

The kernels are in ``native/sim_*.cc``, several in one file because a compiler run costs more
than a test. A line that a message must name carries the mark ``// at: name`` in its source.
"""

import ctypes
import math
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sim_native
from sim_native import COMPILER, Builds, SimLaunch, launch

WARPS = (32, 64)
SEEDS = range(20)

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: set NNKERNELS_CXX")


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    return Builds(tmp_path_factory.mktemp("sim"))


@pytest.fixture(scope="session", params=WARPS, ids="warp{}".format)
def warp(request):
    return request.param


@pytest.fixture(scope="session")
def bugs(build, warp):
    return build("sim_bugs.cc", f"-DNNK_SIM_WARP={warp}")


@pytest.fixture(scope="session")
def kernels(build, warp):
    return build("sim_kernels.cc", f"-DNNK_SIM_WARP={warp}")


@pytest.fixture(scope="session")
def undetected(build):
    """The planted bugs with the race detector off: poison and order alone."""
    return build("sim_bugs.cc", "-DNNK_SIM_WARP=32", "-DNNK_SIM_NO_RACES")


def place(name):
    return sim_native.place("sim_bugs.cc", name)


def data(size, seed=0):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def nans(*shape):
    return np.full(shape, np.nan, np.float32)


# ---- planted bugs ----------------------------------------------------------------------------

# kernel, both places (the message begins with either)
RACES = [
    ("read_before_barrier", "neighbour write", "neighbour read"),
    ("read_before_barrier_in_a_warp", "lane write", "lane read"),
    ("write_before_barrier", "shift read", "shift write"),
    ("reduce_without_first_barrier", "partial write", "partial read"),
    ("all_write_one_value", "same value", "same value"),
    ("write_after_read_by_all", "read by all", "write by one"),
    ("write_after_own_read", "read of both", "write of one"),
    ("write_after_second_read", "second read", "write after it"),
    ("reused_as_another_type", "half write", "float read"),
    ("copy_read_by_others_before_barrier", "landed copy", "read of a landed copy"),
]


@pytest.mark.parametrize(("symbol", "first", "second"), RACES)
def test_race_is_reported_with_every_seed(bugs, symbol, first, second):
    for seed in SEEDS:
        message = launch(bugs, symbol, nans(1024), data(256), shared=128, seed=seed)
        assert message.startswith((place(first) + ": ", place(second) + ": ")), message
        assert place(first) in message
        assert place(second) in message
        # A landed copy is read either too early or before the barrier.
        assert "data race: thread " in message or "asynchronous copy" in message


def test_shuffle_orders_no_other_warp(bugs):
    for seed in SEEDS:
        message = launch(bugs, "shuffle_as_barrier", nans(128), data(128), seed=seed)
        assert "data race" in message
        assert place("other warp write") in message
        assert place("other warp read") in message


@pytest.mark.parametrize(
    ("symbol", "right"),
    [
        ("read_before_barrier", lambda x: np.roll(x[:64], -1)),
        ("read_before_barrier_in_a_warp", lambda x: np.roll(x[:32], -1)),
        ("write_before_barrier", lambda x: np.roll(x[:64], -1)),
        ("reduce_without_first_barrier", lambda x: np.repeat([x.sum(), 2 * x.sum()], 256)),
        ("copy_read_by_others_before_barrier", lambda x: x[:1]),
    ],
)
def test_missing_barrier_gives_wrong_values_within_20_seeds(undetected, symbol, right):
    x = data(256)
    expected = right(x)
    wrong = 0
    for seed in SEEDS:
        out = nans(1024)
        assert launch(undetected, symbol, out, x, seed=seed) == ""
        wrong += not np.allclose(out[: expected.size], expected, rtol=1e-4, atol=1e-4)
    assert wrong > 0


# kernel, place the message begins with, other places and words in it
REPORTS = [
    (
        "two_barriers",
        "barrier of some",
        ["divergent barrier", "thread 0 ", "thread 40 ", "at: barrier of others"],
    ),
    (
        "return_before_barrier",
        "barrier of the rest",
        ["divergent barrier", "thread 40 has returned", "at: last seen"],
    ),
    ("return_before_shuffle", "shuffle of the rest", ["divergent warp", "thread 37 has returned"]),
    (
        "barrier_against_shuffle",
        "shuffle of five",
        ["divergent warp", "is at the barrier", "at: barrier of three"],
    ),
    (
        "two_shuffles",
        "shuffle of some",
        ["divergent warp", "shuffle_xor<16>", "at: shuffle of others"],
    ),
    ("view_out_of_bounds", "view", ["index 6, count 1, extent 6"]),
    ("line_load_out_of_bounds", "line load", ["index 8, count 4, extent 10"]),
    ("line_load_partial_out_of_bounds", "line load_partial", ["index 8, count 3, extent 10"]),
    ("line_store_out_of_bounds", "line store", ["index -1, count 2, extent 10"]),
    ("line_store_partial_out_of_bounds", "line store_partial", ["index 8, count 4, extent 10"]),
    (
        "line_store_streaming_out_of_bounds",
        "line store_streaming",
        ["index 10, count 1, extent 10"],
    ),
    ("shared_load_out_of_bounds", "shared load", ["index 10, count 1, extent 10"]),
    ("shared_store_out_of_bounds", "shared store", ["index 10, count 1, extent 10"]),
    ("shared_load_vec_out_of_bounds", "shared load_vec", ["index 8, count 4, extent 10"]),
    ("shared_store_vec_out_of_bounds", "shared store_vec", ["index -4, count 4, extent 10"]),
    ("copy_async_out_of_bounds", "copy_async", ["index 8, count 4, extent 10"]),
    (
        "dynamic_shared_out_of_bounds",
        "dynamic_shared",
        ["61 elements of 4 bytes at byte 16 of 256"],
    ),
    ("copy_never_waited_for", "unwaited copy", ["never waited for"]),
    ("copy_never_committed", "uncommitted copy", ["never committed"]),
    ("copy_read_before_wait", "early read", ["asynchronous copy by thread", "at: pending copy"]),
    ("misaligned_load", "misaligned load", ["misaligned", "16 bytes"]),
    ("misaligned_store", "misaligned store", ["misaligned", "8 bytes"]),
    ("misaligned_shared_load", "misaligned shared load", ["misaligned", "16 bytes at byte 8"]),
    ("misaligned_shared_store", "misaligned shared store", ["misaligned", "8 bytes at byte 4"]),
    ("misaligned_copy_async", "misaligned copy", ["misaligned", "8 bytes"]),
    ("misaligned_dynamic_shared", "misaligned array", ["misaligned", "byte 4"]),
]


@pytest.mark.parametrize(("symbol", "at", "words"), REPORTS, ids=[row[0] for row in REPORTS])
def test_planted_bug_is_reported_at_its_line(bugs, symbol, at, words):
    for seed in (0, 1, 2):
        message = launch(bugs, symbol, nans(256), data(256), 10, shared=256, seed=seed)
        assert message.startswith(place(at) + ": "), message
        for word in words:
            assert (place(word[4:]) if word.startswith("at: ") else word) in message, message


def test_places_are_the_same_with_another_compiler(build):
    names = ("clang++", *(f"clang++-{version}" for version in range(25, 13, -1)))
    other = next(filter(None, map(shutil.which, names)), None)
    if other is None:
        pytest.skip("no clang++")
    library = build("sim_bugs.cc", "-DNNK_SIM_WARP=32", compiler=other)
    for symbol, at, _ in REPORTS:
        message = launch(library, symbol, nans(256), data(256), 10, shared=256)
        assert message.startswith(place(at) + ": "), message


def test_shared_memory_limit_names_both_numbers(bugs):
    def message(shared, limit):
        return launch(bugs, "static_and_dynamic_shared", None, shared=shared, limit=limit)

    assert message(1000, 1800) == ""
    assert message(1000, 1799).startswith(place("second array") + ": ")
    assert "1800 bytes" in message(1000, 1799)
    assert "1799" in message(1000, 1799)
    assert message(1000, 1399).startswith(place("first array") + ": ")
    assert message(1000, 999).startswith(place("entry") + ": ")
    assert "1000 bytes" in message(1000, 999)
    assert "999" in message(1000, 999)


def test_uninitialised_shared_memory_is_nan_in_every_block(bugs):
    out = np.zeros((5, 64), np.float32)
    assert launch(bugs, "uninitialised_shared", out, blocks=5, shared=128) == ""
    assert np.isnan(out).all()


def test_copy_lands_at_its_wait_only(undetected):
    out, x = np.zeros(64, np.float32), data(4)
    assert launch(undetected, "copy_read_before_wait", out, x) == ""
    assert (out[:32] == x[0]).all()
    assert np.isnan(out[32:]).all()


def test_assumed_warp_width(bugs, warp):
    out, x = nans(64), data(64)
    assert launch(bugs, "warp_of_32_assumed", out, x) == ""
    assert np.allclose(out, x.sum(), rtol=1e-5) == (warp == 32)


def test_stack_overrun(bugs):
    assert "overran its stack" in launch(bugs, "stack_overrun", nans(2))


def test_launch_after_a_failed_launch(bugs, kernels):
    x = data(64)
    for _ in range(50):
        assert launch(bugs, "read_before_barrier", nans(64), x, blocks=3) != ""
        out = nans(4, 96)
        assert launch(kernels, "grid", out, n=out.size, blocks=4) == ""
        assert (out == 4000 + np.arange(4)[:, None]).all()


def test_message_is_cut_to_its_buffer(bugs):
    full = launch(bugs, "two_barriers", None)
    assert launch(bugs, "two_barriers", None, message_bytes=20) == full[:19]
    call = SimLaunch(1, 0, 0, 0, 0, None)
    assert bugs.two_barriers(bytes(24), ctypes.byref(call)) == 1


# ---- order -----------------------------------------------------------------------------------


def order(library, seed, blocks=4):
    log = np.zeros(1 + 128 * blocks, np.int32)
    assert launch(library, "order_log", log, blocks=blocks, seed=seed) == ""
    assert log[0] == 128 * blocks
    return log[1:].reshape(blocks, 2, 64)


def test_order_is_drawn_from_the_seed(kernels):
    logs = [order(kernels, seed) for seed in SEEDS]
    for seed, log in zip(SEEDS, logs, strict=True):
        assert np.array_equal(log, order(kernels, seed))
    assert len({log.tobytes() for log in logs}) == len(logs)
    assert len({tuple(log[:, 0, 0] // 64) for log in logs}) > 5, "the order of blocks"
    assert len({tuple(log[0, 0] % 64) for log in logs}) == len(logs), "the order of threads"


def test_blocks_run_one_after_another_and_barriers_hold(kernels):
    for seed in SEEDS:
        log = order(kernels, seed)
        blocks = log // 64
        assert (blocks == blocks[:, :1, :1]).all()
        assert sorted(blocks[:, 0, 0]) == [0, 1, 2, 3]
        assert (np.sort(log % 64, axis=2) == np.arange(64)).all()


def test_either_warp_runs_ahead_in_some_seeds_and_none_in_others(build):
    library = build("sim_kernels.cc", "-DNNK_SIM_WARP=32")
    first_half = {tuple(np.unique(order(library, seed)[0, 0, :32] % 64 // 32)) for seed in SEEDS}
    assert first_half == {(0,), (1,), (0, 1)}


def test_two_threads_launch_at_once(kernels, bugs):
    expected = [order(kernels, seed) for seed in SEEDS]
    start = threading.Barrier(2)

    def work(offset):
        start.wait()
        for seed in list(SEEDS)[offset:] * 5:
            assert np.array_equal(order(kernels, seed), expected[seed])
            assert launch(bugs, "two_barriers", None, seed=seed) != ""

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work, 0), pool.submit(work, 7)]:
            done.result()


# ---- correct kernels -------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 7, 8, 32, 33, 64, 65, 96, 128, 256, 1024])
def test_reduce(build, warp, threads):
    library = build("sim_reduce.cc", f"-DNNK_SIM_WARP={warp}")
    blocks = 2
    x = data((blocks, threads), seed=threads)
    wide = x.astype(np.float64)
    top = wide.max(axis=1)
    expected = [
        wide.sum(axis=1),
        np.full(blocks, threads * (threads - 1) / 2),
        top,
        top,
        np.exp(wide - top[:, None]).sum(axis=1),
        np.full(blocks, threads),
        wide.mean(axis=1),
        ((wide - wide.mean(axis=1, keepdims=True)) ** 2).sum(axis=1),
    ]
    runs = set()
    for seed in SEEDS:
        out = nans(blocks, threads, 8)
        assert launch(library, f"reduce_{threads}", out, x, blocks=blocks, seed=seed) == ""
        np.testing.assert_allclose(
            out, np.stack(expected, axis=-1)[:, None].repeat(threads, axis=1), rtol=1e-5, atol=1e-5
        )
        runs.add(out.tobytes())
    assert len(runs) == 1, "the result depends on the order of threads"


def test_reduce_lanes(kernels, warp):
    x = data(128)
    widths = [1, 2, 4, 8, 16, 32, warp]
    for seed in SEEDS:
        out = nans(7, 128)
        assert launch(kernels, "lane_sums", out, x, seed=seed) == ""
        for row, width in zip(out, widths, strict=True):
            sums = x.reshape(-1, width).sum(axis=1).repeat(width)
            np.testing.assert_allclose(row, sums, rtol=1e-5, atol=1e-5)


def test_shuffles(kernels, warp):
    threads = 72
    out = np.zeros((6, 128, threads), np.float32)
    assert launch(kernels, "shuffles", out) == ""
    rank = np.arange(threads)
    lane, base = rank % warp, rank - rank % warp
    for row, width in zip(out, [1, 2, 8, 16, 32, warp], strict=True):
        for k in range(warp):
            # The PTX rules of shfl.bfly and shfl.idx: nothing from beyond the segment's end.
            across = np.where(lane ^ k <= (lane | (width - 1)), lane ^ k, lane)
            within = (lane & ~(width - 1)) | (k & (width - 1))
            for got, source in ((row[k], base + across), (row[64 + k], base + within)):
                np.testing.assert_array_equal(
                    got, np.where(source < threads, source, np.nan).astype(np.float32)
                )


def test_shuffle_of_a_struct(kernels):
    out = nans(64)
    assert launch(kernels, "shuffle_of_a_struct", out) == ""
    assert (out == 1).all()


def test_memory_ordered_by_warp_operations_is_no_race(kernels, warp):
    x = data(128)
    for seed in SEEDS:
        out = nans(128)
        assert launch(kernels, "warp_synchronous", out, x, seed=seed) == ""
        assert np.array_equal(out, np.roll(x.reshape(-1, warp), -3, axis=1).ravel())


def test_neighbouring_elements_are_no_race(kernels):
    x = data(64).astype(np.float16).astype(np.float32)
    for seed in SEEDS:
        out = nans(64)
        assert launch(kernels, "mixed_elements", out, x, shared=448, seed=seed) == ""
        assert np.array_equal(out, x + np.arange(64, dtype=np.float32))


def test_vectors(kernels):
    aligned = np.zeros(80, np.float32)
    start = -aligned.ctypes.data % 64 // 4
    x, out = aligned[start : start + 32], np.zeros(48, np.float32)
    x[:] = data(32)
    out = out[-out.ctypes.data % 64 // 4 :][:32]
    assert launch(kernels, "vectors", out, x) == ""
    assert np.array_equal(out, x)


@pytest.mark.parametrize("tiles", [0, 1, 2, 5])
def test_double_buffer(kernels, tiles):
    x = np.zeros((3 * tiles * 64 + 4,), np.float32)
    x = x[-x.ctypes.data % 16 // 4 :][: 3 * tiles * 64].reshape(3, tiles, 64)
    x[...] = data(x.shape)
    expected = (x[:, :, ::-1] * np.arange(1, tiles + 1)[:, None]).sum(axis=1)
    for seed in SEEDS:
        out = nans(3, 64)
        assert launch(kernels, "double_buffer", out, x, tiles, blocks=3, seed=seed) == ""
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_grid(kernels):
    assert launch(kernels, "grid", None, blocks=0) == ""
    for blocks in (1, 2, 300):
        out = nans(blocks, 96)
        assert launch(kernels, "grid", out, n=out.size, blocks=blocks) == ""
        assert (out == 1000 * blocks + np.arange(blocks)[:, None]).all()


def test_atomics(kernels):
    x = data(64)
    sums = set()
    for seed in SEEDS:
        out = np.zeros(4, np.float32)
        assert launch(kernels, "atomics", out, x, seed=seed, blocks=2) == ""
        np.testing.assert_allclose(out[0], 2 * x.sum(), rtol=1e-5)
        assert out[1:2].view(np.uint32)[0] == 128 * 0x7FFFFFFF % 2**32
        assert out[2:].view(np.uint64)[0] == 128 << 40
        sums.add(out[0])
    assert len(sums) > 1, "the order of additions depends on the seed"


# ---- numbers ---------------------------------------------------------------------------------


def test_half_to_float_is_exact(kernels):
    bits = np.arange(65536, dtype=np.uint16)
    out = np.zeros(65536, np.float32)
    assert launch(kernels, "halves_to_floats", out, blocks=256) == ""
    expected = bits.view(np.float16).astype(np.float32)
    nan = np.isnan(expected)
    assert np.array_equal(out.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])
    assert np.isnan(out[nan]).all()


def test_float_to_half_and_bfloat16_are_exact(kernels):
    import ml_dtypes

    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, np.uint32)
    # Every float16 and bfloat16 value, the midpoint above it, and the floats beside both.
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32).view(np.uint32)
    brains = np.arange(65536, dtype=np.uint32) << 16
    centres = (halves, halves + 0x1000, brains, brains + 0x8000)
    near = [
        (centre.astype(np.int64) + offset) % 2**32 for centre in centres for offset in (-1, 0, 1)
    ]
    tiny = np.float32([2.0**-25, -(2.0**-25), 65519.996, 65520, -65520, 3.4e38, np.inf]).view(
        np.uint32
    )
    x = np.concatenate([bits, tiny, *[a.astype(np.uint32) for a in near]]).view(np.float32)
    out = np.zeros(x.size, np.uint32)
    assert launch(kernels, "floats_to_halves", out, x, x.size, blocks=16) == ""
    nan = np.isnan(x)
    with np.errstate(over="ignore", invalid="ignore"):
        for got, dtype in ((out & 0xFFFF, np.float16), (out >> 16, ml_dtypes.bfloat16)):
            got = got.astype(np.uint16)
            assert np.array_equal(got[~nan], x.astype(dtype).view(np.uint16)[~nan])
            assert np.isnan(got.view(dtype)[nan].astype(np.float32)).all()
            assert np.array_equal(got[nan] >> 15, x.view(np.uint32)[nan] >> 31), "the sign of a NaN"


def test_mathematics(kernels):
    x = np.linspace(0.05, 3, 32, dtype=np.float32)
    out = nans(11, 32)
    assert launch(kernels, "mathematics", out, x) == ""
    w = x.astype(np.float64)
    expected = [
        np.exp(w),
        np.expm1(w),
        np.log(w),
        np.log1p(w),
        np.tanh(w),
        np.vectorize(math.erf)(w),
    ]
    expected += [np.vectorize(math.erfc)(w), np.sqrt(w), 1 / np.sqrt(w), w, w * w + w]
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-7)


# ---- builds ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [("-DNNK_SIM_UCONTEXT",), ("-fvisibility=hidden",), ("-O2",), ("-fsanitize=undefined",)],
)
def test_other_builds(build, flags):
    flags = ("-DNNK_SIM_WARP=32", *flags)
    if "-fsanitize=undefined" in flags:
        flags += ("-fsanitize-undefined-trap-on-error", "-DNNK_SIM_STACK=262144")
    library = build("sim_kernels.cc", *flags)
    order(library, 1)
    x = data(128)
    out = nans(128)
    assert launch(library, "warp_synchronous", out, x) == ""
    assert np.array_equal(out, np.roll(x.reshape(-1, 32), -3, axis=1).ravel())
    test_double_buffer(library, 3)
    test_neighbouring_elements_are_no_race(library)
