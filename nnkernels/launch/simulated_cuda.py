"""A user's CUDA kernel in the simulator: its text compiled as C++, its arguments checked."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np

from nnkernels.compile import cxx
from nnkernels.config.device import Device
from nnkernels.dispatch.dtypes import numpy_dtype
from nnkernels.errors import BackendError, CompileError, DTypeError
from nnkernels.launch import simulation_seed
from nnkernels.launch.sim import _MESSAGE_BYTES, _SimLaunch

# Dynamic shared memory that a text may name: what a block of any architecture may have at most.
_DYNAMIC_BYTES = 227 * 1024
_MOST_THREADS = 1024
# Matrix cores, where they are not those of sm_80 and its successors: see platform/gpu.cuh.
_MATRIX_CORES = {"gfx90a": "MmaGfx90a", "gfx1100": "MmaGfx1100"}

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_DYNAMIC = re.compile(r"\bextern\s+__shared__\b([^;{}]*?)(\w+)\s*\[\s*\]\s*;")


class _CudaLaunch(ctypes.Structure):
    # The same layout as CudaLaunch in cuda_src/platform/sim_cuda.cuh.
    _fields_ = (
        ("launch", _SimLaunch),
        ("args", ctypes.c_void_p),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("array_count", ctypes.c_int32),
        ("arrays", ctypes.c_void_p),
    )


class _CudaParameter(ctypes.Structure):
    # The same layout as CudaParameter there.
    _fields_ = (
        ("kind", ctypes.c_char),
        ("target", ctypes.c_char),
        ("constant", ctypes.c_bool),
        ("bytes", ctypes.c_int32),
        ("target_bytes", ctypes.c_int32),
    )


@dataclass(frozen=True)
class Parameter:
    """A parameter of a kernel; see ``CudaParameter`` in ``cuda_src/platform/sim_cuda.cuh``."""

    kind: str
    target: str
    constant: bool
    bytes: int
    target_bytes: int

    def describe(self) -> str:
        """What it is, in words."""
        if self.kind != "p":
            return _in_words(self.kind, self.bytes)
        target = "anything" if self.target == "*" else _in_words(self.target, self.target_bytes)
        return f"a pointer to {'const ' * self.constant}{target}"


_WORDS = {"f": "float", "i": "int", "u": "uint"}
_NAMES = {"h": "float16", "b": "bfloat16", "?": "bool"}


def _in_words(kind: str, size: int) -> str:
    if kind == "s":
        return f"a struct of {size} bytes"
    return _NAMES.get(kind) or f"{_WORDS[kind]}{8 * size}"


@dataclass(frozen=True)
class Kernel:
    """One compiled kernel and its parameters."""

    name: str
    path: str
    library: str
    entry: Any
    parameters: tuple[Parameter, ...]

    def launch(
        self,
        machine: Any,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: tuple[Any, ...],
        shared_bytes: int,
    ) -> None:
        """Run it on a machine of the simulator.

        Raises
        ------
        DTypeError
            For arguments of other number or types than the parameters.
        BackendError
            For a launch that no GPU could do, and for what the simulator finds in the kernel.
        """
        device: Device = machine.device
        shape = check_launch(grid, block, shared_bytes)
        if shared_bytes > min(device.shared_limit, _DYNAMIC_BYTES):
            raise BackendError(
                f"{self.name}: {shared_bytes} bytes of shared memory are more than a block of "
                f"{machine.name} may have ({device.shared_limit})"
            )
        values = self._values(args)
        pointers = (ctypes.c_void_p * max(len(values), 1))(*(v.ctypes.data for v in values))
        bounds = [end for x in args if isinstance(x, np.ndarray) for end in _extent(x)]
        extents = (ctypes.c_void_p * max(len(bounds), 1))(*bounds)
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        launch = _CudaLaunch(
            _SimLaunch(
                shape[0] * shape[1] * shape[2],
                shared_bytes,
                device.shared_limit,
                simulation_seed.get(),
                _MESSAGE_BYTES,
                ctypes.addressof(message),
            ),
            ctypes.addressof(pointers),
            shape[:3],
            shape[3:],
            len(bounds) // 2,
            ctypes.addressof(extents),
        )
        if self.entry(ctypes.byref(launch)):
            text = message.value.decode(errors="replace")
            text = _with_lines(text, self.library, self.path)
            raise BackendError(f"{machine.name}: kernel {self.name}: {text}")

    def _values(self, args: tuple[Any, ...]) -> list[np.ndarray]:
        """The values of all parameters, each an array of one element."""
        if len(args) != len(self.parameters):
            raise DTypeError(
                f"kernel {self.name} has {len(self.parameters)} parameters; got {len(args)} "
                "arguments"
            )
        return [
            _value(x, parameter, f"argument {i} of kernel {self.name}")
            for i, (x, parameter) in enumerate(zip(args, self.parameters, strict=True))
        ]


def check_launch(
    grid: tuple[int, ...], block: tuple[int, ...], shared_bytes: int
) -> tuple[int, ...]:
    """Grid and block with three axes each, one after the other.

    Raises
    ------
    TypeError, ValueError
        If they are no tuples of one to three whole numbers, or too small or too large.
    """
    found: list[int] = []
    for name, shape, most in (("grid", grid, (2**31 - 1, 65535, 65535)),
                              ("block", block, (1024, 1024, 64))):  # fmt: skip
        whole = isinstance(shape, tuple) and all(_is_whole(n) for n in shape)
        if not whole or not 1 <= len(shape) <= 3:
            raise TypeError(f"{name} must be a tuple of one to three integers; got {shape!r}")
        if any(not 1 <= n <= limit for n, limit in zip(shape, most, strict=False)):
            raise ValueError(f"{name} must be between 1 and {most[: len(shape)]}; got {shape}")
        found += [int(n) for n in shape] + [1] * (3 - len(shape))
    if found[3] * found[4] * found[5] > _MOST_THREADS:
        raise ValueError(f"a block has at most {_MOST_THREADS} threads; got {block}")
    if not _is_whole(shared_bytes):
        raise TypeError(f"shared_mem must be an integer; got {shared_bytes!r}")
    if shared_bytes < 0:
        raise ValueError(f"shared_mem must not be negative; got {shared_bytes}")
    return tuple(found)


def _is_whole(x: Any) -> bool:
    return isinstance(x, (int, np.integer)) and not isinstance(x, bool)


def _kind_of(dtype: np.dtype[Any]) -> str:
    if dtype == np.float16:
        return "h"
    if dtype.kind == "V" and dtype.fields is None and dtype == numpy_dtype("bfloat16"):
        return "b"
    return {"b": "?", "f": "f", "i": "i", "u": "u"}.get(dtype.kind, "s")


def _fits(kind: str, size: int, dtype: np.dtype[Any]) -> bool:
    """Whether elements of a dtype may stand where those of a parameter are expected."""
    found = _kind_of(dtype)
    # CUDA code is careless about signs, and the bits are the same.
    alike = found == kind or {found, kind} == {"i", "u"}
    return alike and dtype.itemsize == size


def _value(x: Any, parameter: Parameter, what: str) -> np.ndarray:
    if isinstance(x, np.ndarray):
        return _address(x, parameter, what)
    if parameter.kind == "p":
        raise DTypeError(
            f"{what} must be an array: the parameter is {parameter.describe()}; got "
            f"{type(x).__name__} {x!r}"
        )
    if isinstance(x, np.generic):
        if parameter.kind == "s":
            fits = x.dtype.itemsize == parameter.bytes
        else:
            fits = _fits(parameter.kind, parameter.bytes, x.dtype)
        if not fits:
            raise DTypeError(f"{what} must be {parameter.describe()}; got {x.dtype} {x!r}")
        return np.array([x])
    return _python_number(x, parameter, what)


def _python_number(x: Any, parameter: Parameter, what: str) -> np.ndarray:
    """A Python number, which is one of 64 bits for CuPy, whatever the parameter is."""
    kind, size = parameter.kind, parameter.bytes
    if isinstance(x, bool) and kind == "?":
        return np.array([x])
    if isinstance(x, int) and not isinstance(x, bool) and kind in "iu":
        # The low bytes of 64 bits, which are there on every machine with a GPU.
        limits = np.iinfo(np.dtype(f"{kind}{size}"))
        if not limits.min <= x <= limits.max:
            raise DTypeError(f"{what} must be {parameter.describe()}; got {x}")
        return np.array([x], limits.dtype)
    if isinstance(x, float) and kind == "f" and size == 8:
        return np.array([x])
    if isinstance(x, (int, float)):
        raise DTypeError(
            f"{what} must be {parameter.describe()}, and a Python {type(x).__name__} is passed as "
            f"one of 64 bits; give a NumPy scalar, such as np.{_example(parameter)}({x!r})"
        )
    raise DTypeError(
        f"{what} must be an array or a number ({parameter.describe()}); got {type(x).__name__}"
    )


def _example(parameter: Parameter) -> str:
    return {"?": "bool_"}.get(parameter.kind) or _in_words(parameter.kind, parameter.bytes)


def _address(x: np.ndarray, parameter: Parameter, what: str) -> np.ndarray:
    if parameter.kind != "p":
        raise DTypeError(f"{what} must be {parameter.describe()}; got an array of {x.dtype}")
    if parameter.target != "*" and not _fits(parameter.target, parameter.target_bytes, x.dtype):
        raise DTypeError(
            f"{what} must be an array for {parameter.describe()}; got an array of {x.dtype}"
        )
    if not parameter.constant and not x.flags.writeable:
        raise DTypeError(
            f"{what} is a read-only array, and the parameter is {parameter.describe()}"
        )
    return np.array([x.ctypes.data], np.uint64)


def _extent(x: np.ndarray) -> tuple[int, int]:
    """The first address of an array, and the one behind its last element."""
    low, high = np.lib.array_utils.byte_bounds(x) if x.size else (0, 0)
    return int(low), int(high)


def _with_lines(message: str, library: str, path: str) -> str:
    """A message with lines of the text instead of places in the code, ``@:number``."""
    places = sorted({int(place) for place in re.findall(r"@:(\d+)", message)})
    program = shutil.which("addr2line") or shutil.which("llvm-addr2line")
    lines: dict[int, str] = {}
    if places and program is not None:
        command = [program, "-a", "-i", "-e", library, *map(hex, places)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        # The address, and then where it is, from the innermost inlined function outwards.
        for block in re.split(r"^0x", done.stdout, flags=re.MULTILINE)[1:]:
            number, *frames = block.splitlines()
            frames = [frame.partition(" (")[0] for frame in frames]
            of_user = [f for f in frames if f.rpartition(":")[0].endswith(path)]
            found = (of_user or frames or ["?"])[0]
            lines[int(number, 16)] = f"{path}:{found.rpartition(':')[2]}" if of_user else found
    return re.sub(r"@:(\d+)", lambda m: lines.get(int(m[1]), f"{path} at {m[1]}"), message)


# ---- compiling ----------------------------------------------------------------------------------


def dynamic_names(code: str) -> list[str]:
    """What a text calls its dynamic shared memory."""
    found = _DYNAMIC.findall(_COMMENT.sub(" ", code))
    return list(dict.fromkeys(name for _, name in found))


def _text(code: str, path: str, names: list[str]) -> str:
    """The user's text as it stands, and behind it entries for some kernels."""
    labels = "".join(f"{label}:\\n" for label in [*dynamic_names(code), "nnk_sim_dynamic"])
    quoted = path.replace("\\", "\\\\").replace('"', '\\"')
    return "\n".join([
        '#include "platform/sim_cuda.cuh"',
        f'#line 1 "{quoted}"',
        code,
        '#line 1 "(launch)"',
        'extern "C" { extern __thread char nnk_sim_dynamic[]; }',
        f'asm(".pushsection .tbss,\\"awT\\",@nobits\\n.balign 256\\n{labels}'
        f'.zero {_DYNAMIC_BYTES}\\n.popsection\\n");',
        *(
            f"NNK_SIM_CUDA_ENTRY({_symbol(name)}, nnk_sim_dynamic, {_DYNAMIC_BYTES}, {name})"
            for name in names
        ),
        "",
    ])  # fmt: skip


@cache
def _watching() -> tuple[str, ...]:
    """Options by which a compiler calls a function for each access: see sim_cuda.cuh."""
    compiler = cxx.find_compiler()
    if compiler is None:
        return ()
    settings = {"asan-instrumentation-with-call-threshold": 0, "asan-stack": 0, "asan-globals": 0}
    if "clang" in compiler.version():
        words = [w for name, n in settings.items() for w in ("-mllvm", f"-{name}={n}")]
    else:
        words = [f"--param={name}={n}" for name, n in settings.items()]
    return ("-fsanitize=kernel-address", "-g1", *words)


def kernel_names(code: str) -> list[str]:
    """The kernels of a text that are no templates, as far as can be seen without compiling it."""
    text = _COMMENT.sub(" ", code)
    text = re.sub(r"\b__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\)", " ", text)
    found = re.finditer(r"(\S?)\s*\b__global__\s+(?:static\s+|inline\s+)*void\s+(\w+)\s*\(", text)
    return list(dict.fromkeys(match[2] for match in found if match[1] != ">"))


@lru_cache(maxsize=256)
def compiled(code: str, path: str, name: str, defines: tuple[str, ...], device: Device) -> Kernel:
    """A kernel of a text, by its name or, for a template, by an expression.

    Raises
    ------
    BackendError
        If there is no such kernel in the text, or no C++ compiler.
    CompileError
        If the text does not compile.
    """
    plain = re.fullmatch(r"[A-Za-z_]\w*", name) is not None
    if plain and not re.search(rf"\b{name}\b", _COMMENT.sub(" ", code)):
        raise BackendError(f"there is no kernel {name!r} in {path}")
    core = _MATRIX_CORES.get(device.arch, "MmaSm80")
    machine = ("-DNNK_SIM_CUDA", f"-DNNK_SIM_WARP={device.warp}", f"-DNNK_SIM_MATRIX_CORE={core}")
    flags = (*machine, *_watching(), *defines)
    library = _library(code, path, name, flags)
    if plain and not hasattr(library, name):
        raise BackendError(
            f'kernel {name!r} of {path} is not extern "C", and a GPU\'s compiler changes its name: '
            f'write extern "C" __global__ void {name}(...), or name it among name_expressions'
        )
    entry = getattr(library, _symbol(name))
    entry.argtypes = [ctypes.c_void_p]
    entry.restype = ctypes.c_int
    describe = getattr(library, f"{_symbol(name)}_parameters")
    describe.argtypes, describe.restype = [], ctypes.POINTER(_CudaParameter)
    return Kernel(name, path, library._name, entry, tuple(_parameters(describe())))


def _library(code: str, path: str, name: str, flags: tuple[str, ...]) -> ctypes.CDLL:
    """The text compiled with all its kernels, or with one alone where that is not possible."""
    names = kernel_names(code)
    if len(names) > 1 and name in names:
        with contextlib.suppress(CompileError):  # one that is left out by #if, say
            return cxx.load(_text(code, path, names), "sim", flags)
    return cxx.load(_text(code, path, [name]), "sim", flags)


def _symbol(name: str) -> str:
    return f"nnk_own_{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _parameters(found: Any) -> list[Parameter]:
    parameters: list[Parameter] = []
    for p in found:
        if p.kind == b"\0":
            return parameters
        target = p.target.decode() if p.target != b"\0" else ""
        parameters.append(Parameter(p.kind.decode(), target, p.constant, p.bytes, p.target_bytes))
    raise AssertionError("the list has an end")
