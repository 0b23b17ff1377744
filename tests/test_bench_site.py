"""The speed page, in a real browser: it shows what the result files say, and asks nobody."""

import http.server
import importlib
import itertools
import json
import math
import random
import re
import statistics
import threading
import time
from collections import Counter
from urllib.parse import urlencode

import bench_results
import pytest
from speed_page import (
    BENCH,
    FILES,
    PEERS,
    READ_CHART,
    ROWS,
    assert_shows,
    dots,
    expected,
    ours,
    run_script,
    table,
    tick,
    times_of,
    view,
)

# One browser for all.
pytestmark = pytest.mark.xdist_group("speed-page")


@pytest.fixture(scope="module")
def module():
    """A module of the bench by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        yield importlib.import_module


@pytest.fixture(scope="module")
def needs_plotly():
    pytest.importorskip("plotly", reason="the page needs Plotly")


@pytest.fixture(scope="module")
def page(needs_plotly, tmp_path_factory):
    """A page of made-up results, among them two files that are none."""
    folder = tmp_path_factory.mktemp("speed")
    bench_results.write(folder / "results", FILES)
    text = json.dumps(FILES["day-0.json"], indent=1)
    (folder / "results" / "cut <b>.json").write_text(text[:500])
    (folder / "results" / "later.json").write_text('{"kind": "nnkernels bench", "schema": 99}')
    done = run_script(folder / "results", folder / "page")
    assert done.returncode == 0, done.stderr
    return folder / "page" / "index.html"


@pytest.fixture(scope="module")
def chromium(module):
    tool = module("site_screenshot")
    try:
        tool.find_browser()
    except tool.BrowserError as reason:
        pytest.skip(f"the speed page's test {reason}")
    with tool.opened() as window:
        yield window


@pytest.fixture
def browser(chromium, module):
    """The browser at desk size in light colours; at the end nothing stands on its console."""
    tool = module("site_screenshot")
    tool.resize(chromium, 1280, 900)
    tool.colours(chromium, dark=False)
    chromium.get_log("browser")
    yield chromium
    assert not chromium.get_log("browser")


@pytest.fixture
def visit(browser, module, page):
    """Open a view of the page by what stands after # in its address.

    A page that is open already is told another address, which takes a tenth of the time.
    """

    def at(where=page, fresh=False, **chosen):
        address, _, fragment = browser.current_url.partition("#")
        wanted = chosen or {"newest": 1}
        if fresh or address != where.as_uri() or fragment == urlencode(wanted, doseq=True):
            module("site_screenshot").visit(browser, where, urlencode(chosen, doseq=True))
        else:
            browser.execute_script(START_AFRESH)
            view(browser, **wanted)
        return browser

    return at


START_AFRESH = """
document.querySelectorAll('.facet[open]').forEach(fold => fold.open = false);
scrollTo(0, 0);  // what the filters' bar covers cannot be clicked
"""


# ---- filters -------------------------------------------------------------------------------


def test_page_starts_with_the_newest_of_everything(visit):
    browser = visit(fresh=True)
    browser.find_element("css selector", "#size option[value='200']").click()
    rows = expected()
    assert 20 < len(rows) < len(ROWS)
    assert_shows(browser, rows)


def test_filters_act_on_everything_at_once(visit):
    browser = visit(size=200)
    tick(browser, "op", bench_results.ODD_OP)
    tick(browser, "op", "softmax")
    chosen = {"op": [bench_results.ODD_OP, "softmax"]}
    assert_shows(browser, expected(**chosen))
    tick(browser, "layout", "strided")
    assert_shows(browser, expected(**chosen, layout=["strided"]))
    browser.find_element("id", "newest").click()
    assert_shows(browser, expected(newest=False, **chosen, layout=["strided"]))
    tick(browser, "op", "softmax")
    assert_shows(browser, expected(newest=False, op=[bench_results.ODD_OP], layout=["strided"]))
    browser.find_element("id", "count").click()  # closes the list, which hides what is below
    browser.find_element("css selector", "#chips button").click()  # the op's
    assert_shows(browser, expected(newest=False, layout=["strided"]))
    browser.find_element("id", "reset").click()
    assert browser.current_url == browser.current_url.partition("#")[0]
    assert browser.find_element("id", "newest").is_selected()
    assert browser.find_element("id", "count").text.startswith(f"{len(expected())} of ")


FACETS = sorted(ROWS[0][0])


COUNTS = """
return Object.fromEntries([...document.querySelectorAll(".boxes label")].map(label => {
  const box = label.querySelector("input");
  return [box.name + "=" + box.value, Number(label.querySelector(".count").textContent)];
}))
"""


def test_every_value_of_every_filter(visit):
    browser = visit(newest=0, size=200)
    everywhere = Counter(f"{name}={value}" for facets, _ in ROWS for name, value in facets.items())
    assert browser.execute_script(COUNTS) == everywhere
    for facet in FACETS:
        for value in sorted({facets[facet] for facets, _ in ROWS}):
            view(browser, **{facet: value}, newest=0, size=200)
            assert_shows(browser, expected(newest=False, **{facet: [value]}))
    assert browser.execute_script(COUNTS)["target=missed"] == everywhere["target=missed"]


def test_filters_together(visit):
    browser = visit()
    numbers = random.Random(3)
    seen = set()
    for _ in range(6):
        chosen = {}
        for facet in numbers.sample(FACETS, 2):
            values = sorted({facets[facet] for facets, _ in ROWS})
            chosen[facet] = numbers.sample(values, min(len(values), 2))
        newest = numbers.random() < 0.5
        rows = expected(newest, **chosen)
        seen.add(len(rows))
        view(browser, **chosen, newest=int(newest), size=200)
        assert_shows(browser, rows)
    assert len(seen) > 3


def test_filters_that_nothing_fits(visit):
    browser = visit(op="matmul", dtype="float64")
    assert browser.find_element("id", "count").text.startswith("0 of")
    for place in ("#ratios-chart", "#roofline-chart", "#history-chart", "#table tbody"):
        assert browser.find_element("css selector", place).text == "No row fits the filters."


# ---- numbers -------------------------------------------------------------------------------

UNITS = {"s": 1, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def seconds(text):
    """A time as the table writes it."""
    number, unit = re.match(r"([\d.]+) (\w+)", text).groups()
    return float(number) * UNITS[unit]


def assert_is_duration(cell, wanted):
    """A cell with a time, or an empty one."""
    value, text = cell
    if wanted is None:
        assert cell == [None, ""]
        return
    assert float(value) == wanted
    assert seconds(text) == pytest.approx(wanted, rel=5e-3)


def test_numbers_of_the_table_are_those_of_the_files(visit):
    lines = table(visit(newest=0, size=200))
    rows = expected(newest=False)
    # The table sorts by op; among the same op, rows stay in the order of the files.
    rows.sort(key=lambda row: [line["op"][0] for line in lines].index(row["op"]))
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        exact = {name: value for name, (value, _) in line.items()}
        assert exact["op"] == row["op"]
        assert exact["dtype"] == row["dtype"]
        assert exact["shape"] == ("x".join(map(str, row["shape"])) or "scalar")
        columns = {"ratio": "ratio", "paired": "paired_ratio", "gbytes": "bytes_per_s"}
        columns |= {"gflops": "flops_per_s", "copy": "copy_share", "axis": "axis"}
        for column, name in columns.items():
            assert (row[name] is None) == (exact[column] is None)
            assert row[name] is None or float(exact[column]) == row[name]
        if row["ratio"] is not None:
            assert float(line["ratio"][1].rstrip("x")) == pytest.approx(row["ratio"], abs=0.0051)
            assert float(line["gbytes"][1]) == pytest.approx(row["bytes_per_s"] / 1e9, rel=5e-3)
        extra = row["timings"]["nnkernels"].get("extra_bytes")
        assert line["extra"] == (
            [None, ""] if extra is None else [str(extra), f"{extra / 1e6:.1f}"]
        )
        cold = row["timings"]["nnkernels"].get("cold_s")
        assert_is_duration(line["cold"], cold)
        for name in ("nnkernels", *PEERS):
            timing = row["timings"].get(name, {"status": "missing"})
            on_gpu = row["backend"] == "cupy" and timing["status"] == "ok"
            assert_is_duration(line[f"host-{name}"], timing["host_median_s"] if on_gpu else None)
            value, text = line[f"time-{name}"]
            if timing["status"] == "ok":
                assert float(value) == timing["median_s"]
                assert seconds(text) == pytest.approx(timing["median_s"], rel=5e-3)
                assert text.endswith("±15%")
            else:
                assert text == {"missing": "-"}.get(timing["status"], timing["status"].upper())
        met = row["target"] and row["target"]["met"]
        wanted = {True: "✓ met", False: "✗ missed", None: "not measured"}[met]
        assert line["met"][1] == (wanted if row["target"] else "")


def test_overview_counts_targets_and_means(visit):
    browser = visit(machine="Xeon, 2 threads")
    rows = expected(machine=["Xeon, 2 threads"])
    asked = [row["target"]["met"] for row in rows if row["target"]]
    tiles = browser.find_element("id", "tiles").text
    assert f"Targets met\n{asked.count(True)} of {len(asked)}\n" in tiles
    for peer in PEERS:
        ratios = [row["ratios"][peer] for row in rows if peer in row["ratios"]]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        below = sum(ratio < 1 for ratio in ratios)
        assert f"to {peer}\n{mean:.2f}x\n{len(ratios)} rows, {below} below 1x" in tiles
    assert "Wrong or failed\n2" in tiles
    other = browser.find_element("id", "goals").get_attribute("textContent")
    assert "import160 msat most 150 ms✗ missedXeon" in other
    assert "all of it float32 contiguous, 9 rows1.70x (least 0.80x)1.5x torch✓ met" in other


def test_missed_targets_can_be_shown(visit):
    browser = visit(size=200)
    browser.find_element("css selector", "#tiles button").click()
    assert_shows(browser, expected(target=["missed"]))


def test_columns_sort(visit):
    browser = visit(size=200)
    button = "#table [data-sort='ratio']"
    for sign in (1, -1):
        browser.find_element("css selector", button).click()
        shown = [line["ratio"][0] for line in table(browser)]
        known = [float(value) * sign for value in shown if value is not None]
        assert known == sorted(known)
        assert shown[len(known) :] == [None] * (len(shown) - len(known)) != []
        order = browser.find_element("css selector", "#table [aria-sort]").get_attribute(
            "aria-sort"
        )
        assert order == {1: "ascending", -1: "descending"}[sign]


def test_pages_hold_each_row_once(visit):
    browser = visit(newest=0)
    found = []
    for page in itertools.count(1):
        found += table(browser)
        last = min(50 * page, len(ROWS))
        where = browser.find_element("id", "page-count").text
        assert where == f"rows {50 * page - 49} to {last} of {len(ROWS)}"
        following = browser.find_element("css selector", "[data-focus='Next']")
        if not following.is_enabled():
            break
        following.click()
        assert browser.switch_to.active_element.text in ("Next", "First")
    assert times_of(found) == Counter(ours(row) for _, row in ROWS)
    tick(browser, "dtype", "float32")
    assert browser.find_element("id", "page-count").text.startswith("rows 1 to ")


# ---- charts --------------------------------------------------------------------------------


def test_history_is_a_line_for_each_problem_and_machine(visit):
    browser = visit(history="softmax", dtype="float32")
    lines = browser.execute_script(READ_CHART, "history-chart")
    rows = [row for row in expected(newest=False, op=["softmax"], dtype=["float32"]) if ours(row)]
    assert sorted(y for line in lines for y in line["y"]) == sorted(map(ours, rows))
    assert sorted(len(line["x"]) for line in lines) == [1, 3, 3]
    longest = [line for line in lines if len(line["x"]) == 3]
    for line, layout in zip(longest, ("contiguous", "strided"), strict=True):
        on_xeon = [row for row in rows if row["backend"] == "cpu" and row["layout"] == layout]
        assert line["y"] == [ours(row) for row in on_xeon]
        assert [x[:10] for x in line["x"]] == ["2026-01-01", "2026-01-04", "2026-01-10"]
    names = [line["name"] for line in lines]
    assert len(set(names)) == 3
    assert "H100 &lt;80 GB&gt;" in " ".join(names)


@pytest.mark.parametrize(
    ("measure", "value"),
    [
        ("ratio", lambda row, first: row["ratio"]),
        ("gflops", lambda row, first: row["flops_per_s"] / 1e9),
        ("gbytes", lambda row, first: row["bytes_per_s"] / 1e9),
        ("relative", lambda row, first: ours(row) / ours(first)),
        ("cold", lambda row, first: row["timings"]["nnkernels"]["cold_s"]),
    ],
)
def test_history_has_other_measures(visit, measure, value):
    chosen = {"op": "matmul", "dtype": "float16", "layout": "strided"}
    browser = visit(**chosen, measure=measure, over="commit")
    (line,) = browser.execute_script(READ_CHART, "history-chart")
    rows = expected(newest=False, **{name: [one] for name, one in chosen.items()})
    assert line["y"] == pytest.approx([value(row, rows[0]) for row in rows])
    assert line["x"] == ["00000000", "03030303+", "09090909+"]


def test_what_calls_cost_the_host_and_first_calls(visit):
    chosen = {"backend": "cupy", "measure": "host", "history": "matmul", "sort": "-host-nnkernels"}
    browser = visit(**chosen)
    rows = expected(backend=["cupy"])
    host = [row["timings"]["nnkernels"]["host_median_s"] for row in rows]
    lines = table(browser)
    assert [float(line["host-nnkernels"][0]) for line in lines] == sorted(host, reverse=True)
    tiles = browser.find_element("id", "tiles").text
    for name, values in (
        ("Host, nnkernels", host),
        ("First call", [row["timings"]["nnkernels"]["cold_s"] for row in rows]),
    ):
        shown = re.search(rf"{name}\n(.+)\n{len(rows)} rows", tiles)[1]
        assert seconds(shown) == pytest.approx(statistics.median(values), rel=5e-3)
    (line,) = browser.execute_script(READ_CHART, "history-chart")
    (matmul,) = (row for row in rows if row["op"] == "matmul")
    assert line["y"] == [matmul["timings"]["nnkernels"]["host_median_s"]]
    late = [row for row in rows if row["timings"]["nnkernels"]["host_median_s"] > ours(row)]
    assert 0 < len(late) < len(rows)
    tick(browser, "host", "above the time")
    assert_shows(browser, late)
    marked = browser.find_elements("css selector", "#table td.slow[data-column='host-nnkernels']")
    assert len(marked) == len(late)
    # Where no row has such times, there are no columns.
    view(browser, backend="cpu", dtype="float32")
    assert not {name for line in table(browser) for name in line if re.match("host|cold", name)}


def roofs(browser, page=None):
    traces = browser.execute_script(READ_CHART, "roofline-chart")
    return {trace["name"]: trace for trace in traces if trace["mode"].startswith("lines")}


def fastest(rows):
    return max(
        row["flops"] / timing["median_s"]
        for row in rows
        if row["flops"]
        for timing in row["timings"].values()
        if timing["status"] == "ok"
    )


def test_roofs_are_the_copy_and_the_fastest_seen(visit):
    browser = visit(machine="Xeon, 2 threads", dtype="float16", op="softmax")
    roof = roofs(browser)["Xeon, 2 threads"]
    seen = expected(newest=False, machine=["Xeon, 2 threads"], dtype=["float16"])
    assert roof["y"][-1] == pytest.approx(fastest(seen))
    assert roof["y"][0] / roof["x"][0] == pytest.approx(40e9 + 9)  # the best of the files
    caption = browser.find_element("id", "roofline-caption").text
    assert "40 GB/s, measured copy bandwidth (torch copy_)" in caption
    assert "best seen, by" in caption


def test_roof_can_be_given(visit, page, tmp_path):
    done = run_script(
        *(page.parent.parent / "results", tmp_path),
        *("--peak", "Xeon:float16=700", "--peak", "Xeon=5", "--peak", "Alpha=3"),
    )
    assert done.returncode == 0
    assert "warning: --peak Alpha: no result is of such a machine" in done.stderr
    for dtype, peak in {"float16": 700e9, "float32": 5e9}.items():
        browser = visit(tmp_path / "index.html", dtype=dtype, backend="cpu")
        assert max(roofs(browser)["Xeon, 2 threads"]["y"]) == peak
        assert "GFLOP/s (given" in browser.find_element("id", "roofline-caption").text


def test_texts_of_files_are_no_markup(visit):
    browser = visit(op=bench_results.ODD_OP)
    assert not browser.find_elements("css selector", "main b, #chips b, #facets b")
    assert table(browser)[0]["op"][1] == bench_results.ODD_OP
    drawn = browser.find_element("id", "ratios-chart").text
    assert bench_results.ODD_OP in drawn
    assert "<busy>" in browser.find_element("id", "file-table").get_attribute("textContent")


# ---- links, files that are left out, the network -------------------------------------------


def test_a_link_restores_the_view(visit, module):
    browser = visit()
    tick(browser, "op", "conv 128 3x3/2")
    tick(browser, "op", "softmax")
    tick(browser, "machine", "Xeon, 2 threads")
    browser.find_element("id", "newest").click()
    browser.find_element("css selector", "#order option[value=slowest]").click()
    browser.find_element("css selector", "#measure option[value=gbytes]").click()
    browser.find_element("css selector", "#table [data-sort='time-torch']").click()
    link, lines = browser.current_url, table(browser)
    charts = [dots(browser, name) for name in ("ratios-chart", "roofline-chart")]
    browser.get("about:blank")
    browser.get(link)
    assert browser.current_url == link
    assert table(browser) == lines != []
    assert [dots(browser, name) for name in ("ratios-chart", "roofline-chart")] == charts
    ticked = browser.execute_script(
        "return [...document.querySelectorAll('.boxes input:checked')].map(box => box.value)"
    )
    assert sorted(ticked) == ["Xeon, 2 threads", "conv 128 3x3/2", "softmax"]
    for name, value in {"order": "slowest", "measure": "gbytes"}.items():
        assert browser.find_element("id", name).get_attribute("value") == value
    # A link to a part of the page leaves the view.
    browser.find_element("css selector", "nav a[href='#history']").click()
    assert table(browser) == lines
    browser.execute_script("location.hash = 'dtype=float16&size=200'")
    assert_shows(browser, expected(dtype=["float16"]))


def test_a_link_to_what_is_not_there_says_so(visit):
    browser = visit(op=["gone", "softmax"], measure="luck", page="-1", size=200)
    assert "op=gone, measure=luck, page=-1: not there" in browser.find_element("id", "count").text
    assert_shows(browser, expected(op=["softmax"]))


def test_page_names_the_files_that_were_left_out(visit):
    text = visit().find_element("id", "problems").text
    assert text.startswith("2 files left out\n")
    assert "cut <b>.json is cut short: it ends in line" in text
    assert "later.json is of schema 99, and this reads up to 1" in text


def test_page_asks_nobody(visit, module):
    visit().get_log("performance")
    browser = visit(fresh=True)
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    addresses = {params["request"]["url"] for params in asked}
    assert any(address.endswith("/plotly.min.js") for address in addresses)
    assert not {a for a in addresses if not a.startswith(("file:", "data:", "about:"))}


def test_page_could_not_ask_if_it_wanted(visit):
    hits = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = visit()
        outcome = browser.execute_async_script(
            """const [address, done] = arguments;
            new Image().src = address + "/image";
            const script = document.createElement("script");
            script.src = address + "/script";
            document.head.append(script);
            fetch(address + "/fetch", {mode: "no-cors"})
                .then(() => done("sent"), () => done("refused"));
            """,
            f"http://127.0.0.1:{server.server_port}",
        )
        server.shutdown()
    assert outcome == "refused"
    assert not hits
    refusals = [entry["message"] for entry in browser.get_log("browser")]
    assert len(refusals) >= 3
    assert all("Content Security Policy" in text or "Fetch API" in text for text in refusals)


# ---- for everyone --------------------------------------------------------------------------


def test_keyboard_is_enough(visit):
    from selenium.webdriver import ActionChains, Keys

    browser = visit(size=200)
    fold = browser.find_element("css selector", 'details[data-facet="dtype"]')
    browser.execute_script("arguments[0].focus()", fold.find_element("tag name", "summary"))
    press = lambda *keys: ActionChains(browser).send_keys(*keys).perform()  # noqa: E731
    press(Keys.ENTER)
    assert fold.get_attribute("open") is not None
    press(Keys.TAB, Keys.SPACE)
    assert_shows(browser, expected(dtype=["float16"]))
    press(Keys.ESCAPE)
    assert fold.get_attribute("open") is None
    assert browser.switch_to.active_element.tag_name == "summary"
    press(Keys.ENTER, Keys.TAB, Keys.TAB, Keys.TAB, Keys.TAB, Keys.TAB)
    assert fold.get_attribute("open") is None  # the focus went on
    browser.execute_script(
        "arguments[0].focus()", browser.find_element("css selector", "[data-sort='gbytes']")
    )
    press(Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("data-sort") == "gbytes"
    press(Keys.ENTER)
    assert "sort=-gbytes" in browser.current_url


def test_everything_has_a_name(visit):
    browser = visit(op="softmax")
    wanted = "button, select, input, summary, meter, [role=img], [role=region], nav, section"
    for element in browser.find_elements("css selector", wanted):
        hidden = element.tag_name != "section" and not element.is_displayed()
        assert hidden or element.accessible_name, element.get_attribute("outerHTML")[:200]
    assert browser.find_element("tag name", "html").get_attribute("lang") == "en"


CONTRAST = """
const style = getComputedStyle(document.documentElement);
const light = name => {
  const hex = style.getPropertyValue(name).trim();
  const parts = [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16) / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
};
return Object.fromEntries(arguments[0].map(([a, b]) => {
  const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
  return [a + " on " + b, (x + 0.05) / (y + 0.05)];
}))
"""


@pytest.mark.parametrize("dark", [False, True])
def test_colours_can_be_read(visit, browser, module, dark):
    visit()
    module("site_screenshot").colours(browser, dark)  # the charts follow without a reload
    texts = ["--text", "--muted", "--accent", "--bad"]
    pairs = [(text, paper) for text in texts for paper in ("--paper", "--page", "--raised")]
    # Dots need 3 to 1 (WCAG 2.2, 1.4.11).
    series = [(f"--series-{i}", "--paper") for i in range(8)]
    found = browser.execute_script(CONTRAST, [*pairs, *series])
    assert not {pair: ratio for pair, ratio in found.items() if ratio < 3}
    assert not {pair: r for pair, r in found.items() if "series" not in pair and r < 4.5}
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) < 200) == dark
    drawn = browser.execute_script(
        "return document.getElementById('ratios-chart').layout.font.color"
    )
    assert drawn == {False: "#1c2430", True: "#e4e9f0"}[dark]


def test_page_fits_a_phone(visit, browser, module):
    width = 320
    module("site_screenshot").resize(browser, width, 800)
    visit(fresh=True)
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    browser.find_element("css selector", "#filters-fold > summary").click()
    tick(browser, "op", "matmul")
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    assert browser.find_element("id", "count").text.startswith(f"{len(expected(op=['matmul']))} of")


def test_thousands_of_rows(visit, tmp_path):
    numbers = random.Random(5)
    rows = []
    for i in range(3000):
        one = bench_results.row("softmax", "float32", "contiguous", numbers)
        rows.append(one | {"shape": [i + 1, 8], "op": f"op {i % 60}"})
    bench_results.write(tmp_path / "in", {"a.json": bench_results.result(rows)})
    assert run_script(tmp_path / "in", tmp_path / "out").returncode == 0
    browser = visit(tmp_path / "out" / "index.html")
    assert len(table(browser)) == 50
    assert browser.execute_script("return document.querySelectorAll('*').length") < 12_000
    # Too many dots for single ones: a mean stands for them.
    means = {i: mean for mean, i in dots(browser, "ratios-chart")["torch"]}
    for i in range(60):  # a line for each op, torch beneath numpy
        ratios = [row["ratios"]["torch"] for row in rows if row["op"] == f"op {i}"]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        assert means[i + 0.15] == pytest.approx(mean)
    start = time.monotonic()
    view(browser, op=["op 7", "op 8"])
    assert time.monotonic() - start < 5
    fits = [row for row in rows if row["op"] in ("op 7", "op 8")]
    assert browser.find_element("id", "count").text == f"{len(fits)} of 3000 rows shown"
    drawn = dots(browser, "ratios-chart")
    for peer in PEERS:
        assert [x for x, _ in drawn[peer]] == sorted(row["ratios"][peer] for row in fits)


def test_screenshot_is_small(visit, module, tmp_path):
    browser = visit()
    path = tmp_path / "page.png"
    module("site_screenshot").screenshot(browser, path, (1280, 900))
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert int.from_bytes(content[16:20], "big") == 1280
    assert 10_000 < len(content) < 300_000
