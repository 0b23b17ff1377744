"""How reductions over channels are laid out: every way that the configuration knows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nnkernels.config import batch_norm as config
from nnkernels.config.batch_norm import ChannelProblem
from nnkernels.config.device import PROFILES, Device
from nnkernels.config.rows import ACROSS, ALONG, ANY_STEP, UNIT_STEP

CPU = Device("cpu", "host", 1, 2, 512 * 1024, 64, 8 << 20)
H100, MI250 = PROFILES["sm_90"], PROFILES["gfx90a"]


def problem(batch, channels, space, *, last=False, size=4, gap=0, alignment=16):
    """Dense x and y: images before or after which the channel lies; `gap` elements after each."""
    if last:
        inner, channel, steps = (batch * space,), size, (channels * size,)
    else:
        image = (channels * space + gap) * size
        inner, channel, steps = (batch, space), space * size, (image, size)
    if channels == 1 and not gap and not last:
        inner, steps = (batch * space,), (size,)
    return ChannelProblem(
        channels=channels,
        inner=inner,
        channel_strides=(channel, channel),
        inner_strides=(steps, steps),
        parameter_strides=(size,) * 4,
        itemsizes=(size, size),
        compute_itemsize=max(size, 4),
        channels_last=last,
        alignment=alignment,
    )


# What there is, on which device; layout, whether a block has a whole channel and applies what it
# found, whether channels are cut, and whether a group may cross the end of an axis.
WAYS = [
    # Channels enough, or too little to share; few channels and much to do.
    (problem(32, 64, 3136), CPU, ALONG, True, False, False),
    (problem(4, 3, 64), CPU, ALONG, True, False, False),
    (problem(32, 3, 3136), CPU, ALONG, False, True, False),
    (problem(32, 64, 49), CPU, ALONG, True, False, True),
    (problem(32, 64, 3136, last=True), CPU, ACROSS, False, True, False),
    (problem(2, 64, 25, last=True), CPU, ACROSS, True, False, False),
    (problem(2, 4096, 25, last=True), CPU, ACROSS, True, False, False),
    # Enough of them to share out, but more than a level-2 cache holds.
    (problem(2, 4096, 513, last=True), CPU, ACROSS, False, False, False),
    # As many channels as processors; short channels; few long ones, in parts.
    (problem(32, 256, 3136), H100, ALONG, True, False, False),
    (problem(32, 64, 196), H100, ALONG, True, False, False),
    (problem(32, 64, 3136), H100, ALONG, False, True, False),
    (problem(32, 512, 49), H100, ALONG, True, False, True),
    (problem(2, 512, 50), MI250, ALONG, True, False, True),
    (problem(32, 64, 3136, last=True), H100, ACROSS, False, True, False),
    (problem(2, 64, 8, last=True), H100, ACROSS, False, False, False),
    # Just more than a block takes by itself: as many channels as processors, and fewer.
    (problem(1, 110, 8196), MI250, ALONG, True, False, False),
    (problem(1, 109, 8196), replace(MI250, processors=600), ALONG, False, True, False),
]


@pytest.mark.parametrize(("what", "device", "layout", "applies", "cut", "crosses"), WAYS)
def test_every_way(what, device, layout, applies, cut, crosses):
    chosen = config.configure(what, device)
    found = (chosen.layout, chosen.applies, chosen.parts > 1, chosen.crosses)
    assert found == (layout, applies, cut, crosses)
    groups = what.length if layout == ACROSS else -(-what.length // chosen.vector)
    assert (chosen.parts - 1) * chosen.part_groups < groups <= chosen.parts * chosen.part_groups
    beside = chosen.threads // chosen.team * chosen.vector * chosen.columns
    if layout == ALONG:
        assert (chosen.tiles, chosen.threads) == (what.channels, chosen.team)
    else:
        assert (chosen.tiles - 1) * beside < what.channels <= chosen.tiles * beside
    assert device.warp <= chosen.threads <= 256


@pytest.mark.parametrize(("channels", "columns"), [(16, 1), (17, 2), (33, 4), (1000, 4)])
def test_a_thread_of_a_cpu_takes_as_many_channels_as_there_are(channels, columns):
    assert config.configure(problem(8, channels, 9, last=True), CPU).columns == columns


@pytest.mark.parametrize(("space", "threads"), [(64, 32), (1024, 32), (2048, 64), (32768, 256)])
def test_a_block_of_a_gpu_has_eight_groups_for_each_thread(space, threads):
    assert config.configure(problem(1, 256, space), H100).threads == threads


def test_a_whole_channel_of_a_large_result_goes_past_the_caches():
    large = problem(32, 64, 3136)
    assert config.configure(large, CPU).streaming
    assert not config.configure(problem(4, 64, 3136), CPU).streaming
    assert not config.configure(large, H100).streaming
    apart = replace(large, inner_strides=(large.inner_strides[0], (8 * 3136, 8)))
    assert not config.configure(apart, CPU).streaming


@pytest.mark.parametrize("last", [False, True])
def test_steps(last):
    dense = problem(32, 64, 64, last=last)
    assert config.configure(dense, H100).steps == (UNIT_STEP, UNIT_STEP)
    # Elements apart in one operand concern that one alone.
    strides = ((8,), (4,)) if last else (dense.inner_strides[0], (32768, 8))
    spread = replace(dense, **({"channel_strides": (8, 4)} if last else {"inner_strides": strides}))
    wanted = (ANY_STEP, UNIT_STEP) if last else (UNIT_STEP, ANY_STEP)
    for device in (CPU, H100):
        assert config.configure(spread, device).steps == wanted
    # A GPU reads 16 bytes at multiples of 16: neither addresses nor strides may spoil that.
    for spoilt in (replace(dense, alignment=4), problem(32, 64, 64, gap=1), problem(32, 65, 63)):
        assert config.configure(spoilt, H100).steps == (ANY_STEP, ANY_STEP)
        assert config.configure(spoilt, CPU).steps == (UNIT_STEP, UNIT_STEP)


def test_the_order_of_elements_depends_on_neither_strides_nor_addresses():
    def order(chosen):
        names = ("layout", "vector", "columns", "threads", "team", "parts", "part_groups")
        return [getattr(chosen, name) for name in names]

    for what, device, *_ in WAYS:
        spoilt = replace(
            what, alignment=1, inner_strides=tuple((*s[:-1], 3 * s[-1]) for s in what.inner_strides)
        )
        assert order(config.configure(spoilt, device)) == order(config.configure(what, device))


def test_blocks_of_a_cpu_do_not_depend_on_its_threads():
    many = replace(CPU, processors=64)
    for what, device, *_ in WAYS:
        if device is CPU:
            assert config.configure(what, many) == config.configure(what, CPU)


def test_indices_of_64_bits_where_an_array_is_large():
    assert config.configure(problem(32, 64, 3136), H100).index == "i"
    assert config.configure(problem(4096, 64, 3136), H100).index == "q"
