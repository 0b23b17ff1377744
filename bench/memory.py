"""How much memory a call takes beside its operands and results, as the operating system counts it.

Every number is from a process of its own, in which a provider makes its first call on the operands:
the most memory that the process had during the call, without the pages of files (code), less what
it had before and less the results. What a library keeps for its next calls thus counts, and so does
what it frees before it returns. What it needs once, whatever is computed, is there before: threads
are started by small calls, and kernels of nnkernels are loaded. One-time costs that remain are some
100 KiB of nnkernels and 1 to 2 MiB of PyTorch. Linux alone tells the peak, and lets it be reset.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fresh_process import description, output_of

_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5)
_DISABLE_HUGE_PAGES = 41  # PR_SET_THP_DISABLE: prctl(2)
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# So that no array of the call lies in memory of an earlier one, which is there already.
_FRESH_MEMORY = {"NNKERNELS_POOL_BYTES": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}


def extra_bytes(problem: Any, library: str, threads: int) -> int | None:
    """Of the first call of a library on a problem; None where Linux does not tell.

    Raises
    ------
    RuntimeError
        With the message of a process that failed.
    """
    if not os.access(_CLEAR_REFS, os.W_OK):
        return None
    request = json.dumps(description(problem))
    environment = dict.fromkeys(_THREAD_VARIABLES, str(threads)) | _FRESH_MEMORY
    arguments = [str(Path(__file__).resolve()), request, library, str(threads)]
    return int(output_of(arguments, "measures memory", environment))


def add(row: dict[str, Any], problem: Any, threads: int) -> None:
    """Add to a row, for every provider that was timed, what its call takes."""
    for name, timing in row["timings"].items():
        if timing["status"] == "ok" and name in _WARM_UPS:
            timing["extra_bytes"] = extra_bytes(problem, name, threads)


# ---- in the process ------------------------------------------------------------------------


def _main(request: str, name: str, threads: int) -> int:
    # Pages of 2 MiB would be counted whole.
    ctypes.CDLL(None).prctl(_DISABLE_HUGE_PAGES, 1, 0, 0, 0)
    import numpy as np
    from peers import OURS, OwnLibrary, as_tuple, open_peer
    from problems import Problem, known_ops, laid_out, random_operands

    import nnkernels as nnk

    fields = json.loads(request)
    problem = Problem(**fields | {"shape": tuple(fields["shape"])})
    nnk.set_num_threads(threads)

    def forward(op: str, x: np.ndarray) -> np.ndarray:
        positional, options = known_ops()[op].arguments([x], problem.options)
        return known_ops()[op].function(*positional, **options)

    library = OwnLibrary() if name == OURS else open_peer(name, False, threads)
    functions = library.functions(problem)
    assert functions is not None
    operands = random_operands(problem, forward)
    arrays = [library.adopt(laid_out(np, x, problem.layout)) for x in operands]
    del operands
    call = lambda: functions.call(*arrays)  # noqa: E731
    _WARM_UPS[name](call)
    result, extra = measured(call)
    return extra - sum(library.export(part).nbytes for part in as_tuple(result))


def measured(call: Callable[[], Any]) -> tuple[Any, int]:
    """What a call returns, and by how many bytes the memory of this process grew at most."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # free memory that is still the process's would be used first
    before = _status()["RssAnon"]
    _CLEAR_REFS.write_text(_RESET_PEAK)
    result = call()
    after = _status()
    return result, after["VmHWM"] - after["RssFile"] - after["RssShmem"] - before


def _status() -> dict[str, int]:
    lines = (line.split() for line in _STATUS.read_text().splitlines())
    return {words[0][:-1]: 1024 * int(words[1]) for words in lines if words[-1:] == ["kB"]}


def _warm_up_ours(call: Callable[[], Any]) -> None:
    """Plan the call and load its kernels, without running them; start the threads."""
    import numpy as np

    import nnkernels as nnk
    from nnkernels.dispatch.machines import cpu_machine

    machine: Any = cpu_machine()
    prepare = machine.prepare

    def load_only(*arguments: Any) -> Callable[[bytes], None]:
        prepare(*arguments)
        return lambda args: None

    machine.prepare = load_only
    try:
        call()
    finally:
        del machine.prepare
        machine.plans.clear()
    nnk.relu(np.zeros(1 << 18, np.float32))


def _warm_up_numpy(call: Callable[[], Any]) -> None:
    import numpy as np

    for dtype in (np.float32, np.float64, np.complex64):
        x = np.ones((128, 128), dtype)
        np.exp(x @ x * 0)


def _warm_up_torch(call: Callable[[], Any]) -> None:
    import torch

    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.ones((128, 128), dtype=dtype)
        torch.relu(x @ x)
        image = torch.ones((1, 8, 16, 16), dtype=dtype)
        torch.nn.functional.conv2d(image, image[:, :, :3, :3])


_WARM_UPS = {"nnkernels": _warm_up_ours, "numpy": _warm_up_numpy, "torch": _warm_up_torch}


def main(arguments: Sequence[str]) -> None:
    request, name, threads = arguments
    print(_main(request, name, int(threads)))


if __name__ == "__main__":
    main(sys.argv[1:])
