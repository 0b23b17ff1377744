"""Calls from many threads, changes of the number of threads, forks and the end of a process.

Whatever might hang runs in a process of its own, which is given up after two minutes.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from processes import finish, run_python, start_python
from threads import number_of_threads

import nnkernels as nnk
from nnkernels.dispatch import machines
from nnkernels.launch.cpu import CpuMachine
from nnkernels.launch.single_flight import SingleFlight

THREADS = 8
# Large enough for a launch to use several threads, small enough to overlap often.
LARGE = np.linspace(-3, 3, 300 * 700, dtype=np.float32).reshape(300, 700)
SMALL = np.ascontiguousarray(LARGE[:8, :8])

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@pytest.fixture(autouse=True)
def four_threads():
    """A pool with workers, also where there are fewer processors."""
    with number_of_threads(4):
        yield


CALLS = [
    lambda: nnk.relu(LARGE),
    lambda: nnk.softmax(LARGE),
    lambda: nnk.logsumexp(LARGE, axis=0),
    lambda: nnk.relu(LARGE.T),
    lambda: nnk.relu(SMALL),
    lambda: nnk.softmax_backward(LARGE, LARGE),
    lambda: nnk.swiglu(LARGE, LARGE[0]),
    lambda: nnk.matmul(LARGE[:40], LARGE.T),
]


def together(work, count=THREADS):
    """What ``work(i)`` returns in each of several threads that begin at the same time."""
    barrier = threading.Barrier(count)

    def begin(i):
        barrier.wait()
        return work(i)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(begin, range(count)))


def test_different_calls_at_once():
    expected = [call() for call in CALLS]

    def work(i):
        for round_ in range(16):
            at = (i + round_) % len(CALLS)
            if not np.array_equal(CALLS[at](), expected[at]):
                return at
        return None

    assert together(work) == [None] * THREADS


def test_one_call_at_once():
    expected = nnk.softmax(LARGE)
    results = together(lambda i: [nnk.softmax(LARGE) for _ in range(25)])
    assert all(np.array_equal(y, expected) for some in results for y in some)


def test_one_array_for_each_thread():
    """Results written in place do not end up in another thread's array."""

    def work(i):
        x = np.full((300, 700), i - 3, np.float32)
        for _ in range(30):
            nnk.relu(x, out=x)
            nnk.relu(np.full_like(x, -1))
        return x

    for i, x in enumerate(together(work)):
        assert (x == max(i - 3, 0)).all()


def test_number_of_threads_changes_meanwhile():
    expected = [call() for call in CALLS]
    stop = threading.Event()

    def change():
        for n in iter(lambda: 1 + len(seen) % 7, None):
            if stop.is_set():
                return
            seen.append(n)
            nnk.set_num_threads(n)

    def work(i):
        for round_ in range(12):
            at = (i + round_) % len(CALLS)
            if not np.array_equal(CALLS[at](), expected[at]):
                return at
        return None

    seen = []
    changer = threading.Thread(target=change)
    changer.start()
    try:
        wrong = together(work, 4)
    finally:
        stop.set()
        changer.join()
    assert wrong == [None] * 4
    assert len(seen) > 7


def test_new_number_of_threads_is_used():
    """A plan that was being made while the number changed must not outlive the change."""
    machine = machines.cpu_machine()
    x = LARGE[:200].copy()
    counts = []
    prepare = machine.prepare

    def late(*arguments):
        nnk.set_num_threads(3)  # between the look-up of the plan and the end of making it
        counts.append(machine.num_threads)
        return prepare(*arguments)

    machine.prepare = late
    try:
        nnk.set_num_threads(2)
        nnk.relu(x)
    finally:
        del machine.prepare
    plans = len(machine.plans)
    assert counts == [3]
    nnk.relu(x)
    assert len(machine.plans) == plans + 1


@pytest.mark.parametrize("threads", [1, 2, 5, 255, 10**9, 10**30])
def test_any_number_of_threads(threads):
    """More threads than processors, than blocks, than there can be."""
    expected = [call() for call in CALLS]
    nnk.set_num_threads(threads)
    assert machines.cpu_machine().num_threads == min(threads, 255)
    for call, wanted in zip(CALLS, expected, strict=True):
        assert np.array_equal(call(), wanted)


PLACES = """
import os, pathlib
import numpy as np
import nnkernels as nnk

def allowed(task):
    status = (task / "status").read_text()
    places = status.partition("Cpus_allowed_list:")[2].split()[0]
    return {n for part in places.split(",")
            for n in range(int(part.split("-")[0]), int(part.split("-")[-1]) + 1)}

cpus = sorted(os.sched_getaffinity(0))
nnk.set_num_threads(3)
x = np.ones(1 << 20, np.float32)
for _ in range(3):
    assert nnk.relu(x).sum() == x.size
tasks = [t for t in pathlib.Path("/proc/self/task").iterdir()
         if (t / "comm").read_text().strip() == "nnkernels"]
print(len(tasks), len(cpus), *(len(allowed(t)) for t in tasks))
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="reads Linux's /proc")
def test_workers_keep_off_the_processor_of_the_caller():
    tasks, cpus, *allowed = map(int, run_python(PLACES).split())
    assert tasks == 2
    # All but one; where there is only one, that one.
    assert all(count == max(cpus - 1, 1) for count in allowed)


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="sets a process's processors, on Linux alone"
)
def test_one_processor_is_enough():
    one = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    assert run_python(one + PLACES).split()[1:] == ["1", "1", "1"]


def test_an_error_in_one_thread_leaves_the_others_alone():
    expected = nnk.softmax(LARGE)

    def work(i):
        for _ in range(20):
            if i % 2:
                with pytest.raises(nnk.ShapeError):
                    nnk.softmax(LARGE, axis=2)
                with pytest.raises(nnk.ShapeError):
                    nnk.softmax(LARGE, out=LARGE[:, ::-1])
            elif not np.array_equal(nnk.softmax(LARGE), expected):
                return False
        return True

    assert all(together(work))


def test_backend_is_the_thread_s_own():
    """``use_backend`` in one thread does not move the others."""
    inside, leave = threading.Event(), threading.Event()

    def elsewhere():
        with nnk.use_backend("reference"):
            inside.set()
            leave.wait(60)

    other = threading.Thread(target=elsewhere)
    other.start()
    assert inside.wait(60)
    try:
        assert machines.for_numpy() is machines.cpu_machine()
        assert np.array_equal(nnk.relu(SMALL), SMALL.clip(0))
    finally:
        leave.set()
        other.join()


def test_one_compile_for_eight_threads():
    made = []

    def make(key):
        made.append(key)
        time.sleep(0.05)
        return f"value of {key}"

    flight = SingleFlight(make)
    assert together(lambda i: flight.get(i % 2)) == ["value of 0", "value of 1"] * 4
    assert sorted(made) == [0, 1]


def test_failed_compile_is_tried_again():
    answers = iter([ValueError("once"), "value"])

    def make(key):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    flight = SingleFlight(make)
    with pytest.raises(ValueError, match="once"):
        flight.get("key")
    assert flight.get("key") == "value"


# ---- forks ---------------------------------------------------------------------------------

SETUP = """
import os, signal, sys, threading, time
import numpy as np
import nnkernels as nnk

nnk.set_num_threads(4)
x = np.linspace(-3, 3, 300 * 700, dtype=np.float32).reshape(300, 700)
expected = nnk.relu(x), nnk.softmax(x)

def right():
    return np.array_equal(nnk.relu(x), expected[0]) and np.array_equal(nnk.softmax(x), expected[1])

def wait_for(child):
    _, status = os.waitpid(child, 0)
    assert status == 0, f"status {status:#x} of the child"
"""

AFTER_THE_POOL_STARTED = """
def threads():
    return len(os.listdir("/proc/self/task"))

before = threads()
for _ in range(5):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        # On a pool of its own, and with a new kernel.
        fine = all(right() for _ in range(10)) and threads() > 1
        fine = fine and np.allclose(nnk.tanh(x), np.tanh(x), rtol=1e-5)
        os._exit(0 if fine else 1)
    assert right()
    wait_for(child)
assert right() and threads() <= before
print("fine")
"""

WHILE_OTHERS_LAUNCH = """
stop = threading.Event()
wrong = []

def work():
    while not stop.is_set():
        if not right():
            wrong.append("result")

others = [threading.Thread(target=work) for _ in range(3)]
for thread in others: thread.start()
for _ in range(40):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if all(right() for _ in range(3)) else 1)
    wait_for(child)
stop.set()
for thread in others: thread.join()
assert not wrong
print("fine")
"""

WHILE_ANOTHER_COMPILES = """
from nnkernels.compile import cxx

compile_ = cxx._compile
compiling = threading.Event()

def slowly(*arguments):
    compiling.set()
    time.sleep(3)
    compile_(*arguments)

cxx._compile = slowly
cxx.disk.is_whole = lambda path: False
other = threading.Thread(target=lambda: nnk.sigmoid(x))
other.start()
assert compiling.wait(60)
child = os.fork()
if child == 0:
    signal.alarm(60)
    cxx._compile = compile_
    # The lock of this kernel was held by a thread that does not exist here.
    os._exit(0 if np.allclose(nnk.sigmoid(x), 1 / (1 + np.exp(-x)), rtol=1e-5) else 1)
wait_for(child)
other.join()
print("fine")
"""

# Two times, because the second pool is started by a process that was itself forked.
MULTIPROCESSING = """
import multiprocessing

def work(scale):
    return float(nnk.softmax(x * scale).sum()), os.getpid()

context = multiprocessing.get_context("fork")
for _ in range(2):
    with context.Pool(2) as pool:
        results = pool.map_async(work, [1.0, 2.0, 3.0, 4.0]).get(60)
    assert all(abs(total - 300) < 0.01 for total, _ in results), results
    assert os.getpid() not in {process for _, process in results}
    assert right()
print("fine")
"""


@needs_fork
@pytest.mark.parametrize(
    "script",
    [AFTER_THE_POOL_STARTED, WHILE_OTHERS_LAUNCH, WHILE_ANOTHER_COMPILES, MULTIPROCESSING],
    ids=["pool", "launches", "compile", "multiprocessing"],
)
def test_fork(script, tmp_path):
    if "/proc/self" in script and not os.path.isdir("/proc/self/task"):
        pytest.skip("no /proc to count threads in")
    assert run_python(SETUP + script) == "fine\n"


# ---- the end of a process ------------------------------------------------------------------


@pytest.mark.parametrize(
    "ending",
    [
        "",  # the workers sleep
        "sys.exit()",
        "threading.Thread(target=lambda: [right() for _ in range(30)]).start()",
        "threading.Thread(target=lambda: [right() for _ in range(3000)], daemon=True).start()",
        "import atexit; atexit.register(lambda: print(np.array_equal(nnk.relu6(x), x.clip(0, 6))))",
    ],
    ids=["plain", "exit", "with a thread", "with a daemon", "call at exit"],
)
def test_process_ends(ending):
    printed = run_python(f"{SETUP}\nassert right()\n{ending}")
    assert printed == ("True\n" if "atexit" in ending else "")


def test_first_call_at_exit(tmp_path):
    """Even the first compile of a process, when no thread can be started any more."""
    script = """
import atexit, numpy as np, nnkernels as nnk
atexit.register(lambda: print(nnk.relu(np.array([-1.0, 2.0]))))
"""
    assert run_python(script, NNKERNELS_CACHE_DIR=tmp_path) == "[0. 2.]\n"


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no /proc")
def test_keyboard_interrupt_reaches_the_main_thread():
    """Workers block signals: a program that sleeps in its main thread is woken at once."""
    script = f"""
{SETUP}
assert right()
masks = []
for task in os.listdir("/proc/self/task"):
    if int(task) != os.getpid():
        for line in open(f"/proc/self/task/{{task}}/status"):
            if line.startswith("SigBlk"):
                masks.append(int(line.split()[1], 16) >> (signal.SIGINT - 1) & 1)
assert len(masks) >= 3 and sum(masks) == 3, masks
# Who starts tests in the background may have had the signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted")
"""
    process = start_python(script)
    assert process.stdout.readline() == "ready\n"
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert finish(process) == "interrupted\n"
    assert time.monotonic() - start < 30


LIMITED = """
import resource

x = np.zeros((1000, 20000), np.float32)
out = nnk.relu(x)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 300 * 2**20, -1))  # some forty stacks
nnk.set_num_threads(200)
out[...] = 1
nnk.relu(x, out=out)
assert not out.any()
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
threads = len(os.listdir("/proc/self/task"))
assert 4 < threads < 200, threads
nnk.relu(x, out=out)
assert len(os.listdir("/proc/self/task")) >= 200
print("fine")
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no /proc")
def test_no_more_threads_can_be_started():
    """A launch goes on with those that there are, and the next one tries again."""
    assert run_python(SETUP + LIMITED) == "fine\n"


def test_first_kernel_without_a_second_thread(tmp_path, monkeypatch):
    """Where Python can start none, the two compiles of the first kernel follow each other."""

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setenv("NNKERNELS_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with machines.use_machine(CpuMachine()):
        assert np.array_equal(nnk.relu(SMALL), SMALL.clip(0))
