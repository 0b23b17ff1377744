"""The speed page of made-up results: building it, what it should show, and what it shows."""

import math
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import urlencode

import bench_results

BENCH = Path(__file__).resolve().parent.parent / "bench"
FILES = bench_results.many()
PEERS = ("torch", "numpy")


def run_script(*arguments, **variables):
    return subprocess.run(
        [sys.executable, BENCH / "site.py", *map(str, arguments)],
        env=os.environ | variables,
        cwd=BENCH.parent.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


# ---- what it should show, from the JSON alone ----------------------------------------------


def host_and_cold(row):
    """Whether calls of ours wait for the host, and how long the first one took."""
    times = row["timings"]["nnkernels"]
    facets = dict.fromkeys(("host", "cold"), "not measured")
    if row["backend"] == "cupy" and times["status"] == "ok":
        late = times["host_median_s"] > times["median_s"]
        facets["host"] = "above the time" if late else "below the time"
    if times.get("cold_s"):
        limits = {1: "at most 1 s", 5: "1 to 5 s", math.inf: "more than 5 s"}
        facets["cold"] = next(text for limit, text in limits.items() if times["cold_s"] <= limit)
    return facets


def all_rows(files):
    """Rows with their file, oldest first, as dictionaries of what the filters say."""
    found = []
    for content in sorted(files.values(), key=lambda content: content["date"]):
        gpu = content["machine"]["gpu"]
        machine = gpu["name"] if gpu else f"{content['machine']['cpu']}, 2 threads"
        for row in content["rows"]:
            target = row["target"]
            verdict = {True: "met", False: "missed", None: "not measured"}
            facets = {name: row[name] for name in ("family", "op", "dtype", "layout", "backend")}
            facets |= {"machine": machine, "date": content["date"][:10]}
            facets["results"] = "into out=" if row["out"] else "allocated"
            facets["target"] = "none" if target is None else verdict[target["met"]]
            facets |= host_and_cold(row)
            found.append((facets, row))
    return found


ROWS = all_rows(FILES)


def expected(newest=True, rows=None, **chosen):
    """Rows that fit; of those of one problem on one machine the last."""
    fitting = [
        (facets, row)
        for facets, row in (ROWS if rows is None else rows)
        if all(facets[name] in values for name, values in chosen.items())
    ]
    if not newest:
        return [row for _, row in fitting]
    same = "op", "dtype", "layout", "backend", "machine", "results"
    last = {}
    for facets, row in fitting:
        last[(*(facets[name] for name in same), *row["shape"], row["axis"])] = row
    return list(last.values())


# ---- what it shows -------------------------------------------------------------------------

READ_TABLE = """
const lines = document.querySelectorAll("#table tbody tr:has([data-column])");
return [...lines].map(line => Object.fromEntries(
  [...line.querySelectorAll("[data-column]")].map(cell =>
    [cell.dataset.column, [cell.dataset.value ?? null, cell.textContent]])))
"""
READ_CHART = """
const drawn = document.getElementById(arguments[0]).data || [];
return drawn.map(({name, mode, x, y, text}) => ({name, mode, x, y, text}))
"""


def table(browser):
    """Of every line the columns' values in full and as they are read."""
    return browser.execute_script(READ_TABLE)


def dots(browser, chart):
    """The dots of a chart by what they belong to, without means and targets."""
    return dots_of(browser.execute_script(READ_CHART, chart))


def dots_of(traces):
    return {
        trace["name"]: sorted(zip(trace["x"], trace["y"], strict=True))
        for trace in traces
        if trace["mode"] == "markers" and not re.match("mean|target", trace["name"])
    }


def ours(row):
    return row["timings"]["nnkernels"].get("median_s")


def times_of(lines):
    values = (line["time-nnkernels"][0] for line in lines)
    return Counter(None if value is None else float(value) for value in values)


def assert_shows(browser, rows):
    """Count, table, ratios and roofline are all of the same rows."""
    count, lines, *charts = browser.execute_script(
        f"""const read = (...arguments) => {{ {READ_CHART} }};
        return [document.getElementById("count").innerText, (() => {{ {READ_TABLE} }})(),
                read("ratios-chart"), read("roofline-chart")]"""
    )
    assert count.startswith(f"{len(rows)} of {len(ROWS)} rows")
    assert times_of(lines) == Counter(map(ours, rows))
    ratios, roofline = map(dots_of, charts)
    wanted = {
        peer: sorted(row["ratios"][peer] for row in rows if peer in row["ratios"]) for peer in PEERS
    }
    drawn = {peer: [x for x, _ in points] for peer, points in ratios.items()}
    assert drawn == {peer: values for peer, values in wanted.items() if values}
    assert Counter((name, *point) for name, some in roofline.items() for point in some) == Counter(
        (row["family"], row["flops"] / row["bytes"], row["flops_per_s"])
        for row in rows
        if row["flops_per_s"]
    )


# ---- using the page ------------------------------------------------------------------------


def view(browser, **chosen):
    """Another view of the page that is open, as by a link to it."""
    browser.execute_async_script(
        """const [fragment, done] = arguments;
        addEventListener("hashchange", () => done(), {once: true});
        location.hash = fragment;""",
        urlencode(chosen, doseq=True),
    )


def tick(browser, facet, value):
    fold = browser.find_element("css selector", f'details[data-facet="{facet}"]')
    if fold.get_attribute("open") is None:
        fold.find_element("tag name", "summary").click()
    boxes = fold.find_elements("css selector", "input[type=checkbox]")
    next(box for box in boxes if box.get_attribute("value") == value).click()
