"""Memory of large CPU results: used again when nothing looks at it any more, and never before."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nnkernels as nnk
from nnkernels.errors import BackendError
from nnkernels.launch import cpu, result_pool
from nnkernels.launch.cpu import CpuMachine
from nnkernels.launch.result_pool import SMALLEST_BYTES, ResultPool, pool_bytes

MIB = 1 << 20


def new(pool: ResultPool, size: int) -> np.ndarray:
    return pool.empty((size,), np.dtype(np.uint8), size)


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_is_used_again():
    pool = ResultPool(4 * MIB)
    first = new(pool, MIB)
    place = address(first)
    assert place % 64 == 0
    assert pool.waiting_bytes == 0
    del first
    assert MIB <= pool.waiting_bytes <= MIB + 64
    second = new(pool, MIB)
    assert address(second) == place
    assert pool.waiting_bytes == 0
    assert address(new(pool, MIB)) != place


@pytest.mark.parametrize(
    "look",
    [
        lambda a: a[5:],
        lambda a: a.reshape(2, -1).T,
        lambda a: memoryview(a),
        lambda a: a.view(np.float32)[::7],
        lambda a: np.asarray(a.data),
        lambda a: np.from_dlpack(a),
    ],
    ids=["slice", "transpose", "memoryview", "other dtype", "buffer", "dlpack"],
)
def test_not_while_something_looks_at_it(look):
    pool = ResultPool(4 * MIB)
    array = new(pool, MIB)
    view = look(array)
    del array
    assert pool.waiting_bytes == 0
    assert not np.shares_memory(new(pool, MIB), np.asarray(view))
    del view
    # The second block that was taken above waits too.
    assert pool.waiting_bytes >= 2 * MIB


def test_much_larger_blocks_are_not_taken():
    pool = ResultPool(64 * MIB)
    new(pool, 8 * MIB)
    small = new(pool, 7 * MIB)
    assert pool.waiting_bytes >= 8 * MIB
    del small
    kept = pool.waiting_bytes
    close = new(pool, 8 * MIB - MIB // 2)
    assert pool.waiting_bytes == kept - (8 * MIB + 64)
    assert close.nbytes == 8 * MIB - MIB // 2


def test_what_waited_longest_goes_first():
    pool = ResultPool(5 * MIB + 3 * 64)
    arrays = [new(pool, size * MIB) for size in (1, 2, 3)]
    while arrays:
        del arrays[0]
        assert pool.waiting_bytes <= pool.limit
    assert pool.waiting_bytes == 5 * MIB + 2 * 64


def test_what_was_freed_last_is_used_first():
    pool = ResultPool(4 * MIB)
    first, second = new(pool, MIB), new(pool, MIB)
    place = address(second)
    del first, second
    assert address(new(pool, MIB)) == place


def test_nothing_is_kept_with_a_limit_of_zero():
    pool = ResultPool(0)
    new(pool, MIB)
    assert pool.waiting_bytes == 0


def test_memory_that_waits_makes_room(monkeypatch):
    pool = ResultPool(64 * MIB)
    new(pool, MIB)
    real, refused = np.empty, []

    def tight(*arguments):
        if pool.waiting_bytes:
            refused.append(arguments)
            raise MemoryError
        return real(*arguments)

    monkeypatch.setattr(result_pool.np, "empty", tight)
    assert new(pool, 4 * MIB).nbytes == 4 * MIB
    assert refused


@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 7)), max_size=60))
def test_arrays_in_use_never_share_memory(steps):
    pool = ResultPool(20_000)
    live: list[tuple[int, np.ndarray]] = []
    for stamp, (take, which) in enumerate(steps):
        if take:
            array = new(pool, 1000 + 500 * which)
            array[...] = stamp
            live.append((stamp, array))
        elif live:
            del live[which % len(live)]
        assert pool.waiting_bytes <= 20_000
        assert all((array == number).all() for number, array in live)


def test_threads():
    pool = ResultPool(64 * MIB)
    faults = []

    def work(number: int) -> None:
        for _ in range(300):
            array = new(pool, 100_000)
            array[...] = number
            if not (array == number).all():
                faults.append(number)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not faults


def test_results_of_the_cpu_machine():
    with nnk.use_backend("cpu"):
        x = np.full(SMALLEST_BYTES // 4, 2.0, np.float32)
        y = nnk.relu(x)
        place = address(y)
        kept = y[-3:]
        del y
        z = nnk.relu(-x)
        assert address(z) != place
        assert kept.tolist() == [2.0] * 3
        del kept
        assert address(nnk.relu(x)) == place


@pytest.mark.parametrize(("text", "wanted"), [("", 256 * MIB), ("0", 0), ("12345", 12345)])
def test_limit(monkeypatch, text, wanted):
    monkeypatch.setenv("NNKERNELS_POOL_BYTES", text)
    assert pool_bytes() == wanted


@pytest.mark.parametrize("text", ["-1", "1e6", "256M", "all"])
def test_bad_limit(monkeypatch, text):
    monkeypatch.setenv("NNKERNELS_POOL_BYTES", text)
    with pytest.raises(BackendError, match=r"NNKERNELS_POOL_BYTES.*whole number of bytes"):
        CpuMachine()


@pytest.mark.parametrize(("model", "wanted"), [("AMD EPYC", 32 * MIB), ("Intel Xeon", 8 * MIB)])
def test_size_from_which_results_go_past_the_caches(monkeypatch, model, wanted):
    monkeypatch.setattr(cpu.cxx, "cpu_model", lambda: f"model name\t: {model}\nflags: avx2")
    assert CpuMachine().device.cache_bytes == wanted
