"""Result files of the bench, made up: every status, several machines, dates and peers."""

import json
import random
from datetime import datetime, timedelta, timezone

XEON = {"cpu": "Xeon", "gpu": None, "processors": 2}
GPU = {"cpu": "EPYC", "gpu": {"name": "H100 <80 GB>", "level_2_bytes": 50 << 20}}
# A name that would end a script, and that HTML and Plotly would take for markup.
ODD_OP = "</script><b>x&amp;"
OPS = {
    "matmul": ("matmul", (64, 64, 64)),
    "softmax": ("rows", (128, 32)),
    "softmax_backward": ("rows", (128, 32)),
    "conv 128 3x3/2": ("conv", (8, 64, 7, 7)),
    ODD_OP: ("elementwise", (3,)),
    "constructor": ("elementwise", ()),
}


def timing(median, **more):
    quartiles = {"p25_s": 0.9 * median, "p75_s": 1.2 * median}
    return {"status": "ok", "out": False, "median_s": median, **quartiles, **more}


def row(op, dtype, layout, numbers, peers=("torch", "numpy"), out=False, backend="cpu"):
    """A row as measure.py makes it; times are drawn from a random generator."""
    family, shape = OPS[op]
    ours = 10 ** numbers.uniform(-7, 0.5)
    extra = numbers.randint(0, 10**8) if dtype == "float16" else None
    timings = {"nnkernels": timing(ours, out=out, extra_bytes=extra)}
    timings |= {peer: timing(ours * 2 ** numbers.uniform(-2, 3)) for peer in peers}
    for one in timings.values():
        # On a GPU it is a time of its own; elsewhere that of the call, which nothing shows.
        one["host_median_s"] = ours * 2 ** numbers.uniform(-3, 3) if backend == "cupy" else ours
    if dtype == "float16" or backend == "cupy":
        timings["nnkernels"]["cold_s"] = 10 ** numbers.uniform(-1, 1.5)
    ratios = {peer: timings[peer]["median_s"] / ours for peer in peers}
    best = min(ratios, key=ratios.get) if ratios else None
    moved = 4 * numbers.randint(1, 10**9)
    flops = None if op == ODD_OP else float(moved * numbers.randint(1, 500))
    met = ratios[best] >= 1 if best else None
    return {
        "op": op,
        "family": family,
        "shape": list(shape),
        "dtype": dtype,
        "axis": -1 if family == "rows" else None,
        "layout": layout,
        "backend": backend,
        "out": out,
        "bytes": moved,
        "flops": flops,
        "sets": 18,
        "sets_bytes": 18 * moved,
        "caches": "exceeded",
        "timings": timings,
        "ratios": ratios,
        "best_peer": best,
        "ratio": ratios.get(best),
        "paired_ratio": ratios.get(best),
        "bytes_per_s": moved / ours,
        "copy_share": moved / ours / 40e9,
        "read_share": None,
        "flops_per_s": flops and flops / ours,
        "target": {"kind": "times best", "limit": 1.0, "measured": ratios.get(best), "met": met},
        "column_of_later": 1,
    }


def failed_row(op, status):
    """One whose own result is wrong, or could not be made."""
    broken = row(op, "float32", "contiguous", random.Random(1))
    broken["timings"]["nnkernels"] = {"status": status, "message": f"{status}: <why>"}
    nothing = "best_peer", "ratio", "paired_ratio", "bytes_per_s", "copy_share", "flops_per_s"
    broken |= dict.fromkeys(nothing)
    return broken | {"ratios": {}, "target": {**broken["target"], "measured": None, "met": None}}


def result(rows, day=0, machine=XEON, backend="cpu", **more):
    """A file's content, dated so many days after the first of January."""
    date = datetime(2026, 1, 1, 12, tzinfo=timezone.utc) + timedelta(days=day)
    rate = {"bytes_per_s": 40e9 + day, "by": "torch copy_", "tried": {}, "buffer_bytes": 1 << 26}
    return {
        "schema": 1,
        "kind": "nnkernels bench",
        "complete": True,
        "arguments": ["--op", "softmax"],
        "date": date.isoformat(),
        "machine": machine,
        "versions": {"python": "3.12", "numpy": "2.4", "torch": "2.13", "nnkernels": "0.1.0"},
        "compiler": "g++ 12",
        "commit": {"hash": f"{day:02x}" * 20, "changed_files": day % 2},
        "environment": {},
        "warnings": [],
        "backend": backend,
        "threads": 2,
        "out": False,
        "min_time_s": 0.1,
        "repeat": None,
        "peers": ["torch", "numpy"],
        "copy": rate,
        "read": None,
        "rows": rows,
        "means": [],
        "checks": [],
    } | more


def many(seed=0):
    """Some files by name: three dates on a CPU, one on a GPU, one with what goes wrong."""
    numbers = random.Random(seed)
    files = {}
    for day in (0, 3, 9):
        rows = [
            row(op, dtype, layout, numbers)
            for op in OPS
            for dtype in ("float32", "float16")
            for layout in ("contiguous", "strided")
        ]
        files[f"day-{day}.json"] = result(rows, day)
    rows = [row(op, "float32", "contiguous", numbers, backend="cupy") for op in OPS]
    files["gpu.json"] = result(rows, 9, GPU, "cupy", warnings=["<busy>"], complete=False)
    rows = [row("softmax", "float64", "contiguous", numbers, peers=(), out=True)]
    rows[0]["timings"]["torch"] = {"status": "missing", "message": "torch has no such function"}
    rows[0] |= {"target": None, "flops": None, "flops_per_s": None, "copy_share": None}
    rows += [failed_row("softmax", "wrong"), failed_row("matmul", "failed")]
    check = {"name": "import", "p25_s": 0.1, "p75_s": 0.2, "runs": 5}
    checks = [{**check, "median_s": 0.16, "limit_s": 0.15, "met": False}]
    mean = {"name": "all of it", "dtype": "float32", "layout": "contiguous", "limit": 1.5}
    mean |= {"kind": "times torch", "rows": 9, "measured_rows": 9, "measured": 1.7, "least": 0.8}
    files["wrong.json"] = result(rows, 10, checks=checks, means=[{**mean, "met": True}], copy=None)
    return files


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    return folder
