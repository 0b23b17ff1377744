// All rows that are shown, page by page, sorted by any column.
"use strict";
NNK.table = (function () {
  const { element, byId } = NNK;
  const { peers, OURS } = NNK.model;

  // `raw` is what the file has and what is sorted by; `text` is what is read.
  const columns = [
    textColumn("op", "Op", (row) => row.op),
    textColumn("shape", "Shape", (row) => row.shape_text),
    numberColumn("axis", "Axis", (row) => row.axis, String),
    textColumn("dtype", "Dtype", (row) => row.dtype),
    textColumn("layout", "Layout", (row) => row.layout),
    timeColumn(OURS),
    ...peers.map(timeColumn),
    numberColumn("ratio", "Ratio", (row) => row.ratio, NNK.times),
    numberColumn("paired", "Paired", (row) => row.paired_ratio, NNK.times),
    numberColumn("gbytes", "GB/s", (row) => row.bytes_per_s, NNK.giga),
    numberColumn("gflops", "GFLOP/s", (row) => row.flops_per_s, NNK.giga),
    numberColumn("copy", "Copy", (row) => row.copy_share, NNK.percent),
    numberColumn("read", "Read", (row) => row.read_share, NNK.percent),
    numberColumn("extra", "Extra MB", extra, (bytes) => (bytes / 1e6).toFixed(1)),
    ...[OURS, ...peers].map(hostColumn),
    numberColumn("cold", "First call", (row) => row.timings[OURS].cold_s ?? null, NNK.duration),
    textColumn("target", "Target", ({ target }) => target && NNK.asked(target)),
    textColumn("met", "Met", ({ target }) => target && NNK.met(target.met)),
    numberColumn("sets", "Sets", (row) => row.sets, sets),
    textColumn("results", "Results", (row) => row.values.results),
    textColumn("machine", "Machine", (row) => row.values.machine),
    textColumn("backend", "Backend", (row) => row.backend),
    { ...textColumn("date", "Date", (row) => row.file.date), text: (date) => date.slice(0, 10) },
  ];

  function textColumn(id, label, raw) {
    return { id, label, raw };
  }

  function numberColumn(id, label, raw, text) {
    return { id, label, raw, text, number: true };
  }

  // Left out, like peers, where no row has anything there.
  const SPARSE = ["axis", "read", "extra", "cold", "target", "met"];
  const isSparse = ({ id }) => SPARSE.includes(id) || id.startsWith("host-");

  // Memory of a call beside operands and results, where `bench.py --memory` asked for it.
  function extra(row) {
    return row.timings[OURS].extra_bytes ?? null;
  }

  // What a call costs the host, where that is not the time itself.
  function hostColumn(name) {
    const raw = (row) => (row.timings[name] && row.timings[name].host_s) ?? null;
    return numberColumn(`host-${name}`, `Host, ${name}`, raw, NNK.duration);
  }

  function timeColumn(name) {
    const raw = (row) => (row.timings[name] && row.timings[name].median_s) || null;
    const text = (_, row) => NNK.timing(row.timings[name], row.out);
    return { id: `time-${name}`, label: name, raw, text, number: true, provider: name };
  }

  function sets(count, row) {
    return row.caches === "warm" ? "warm" : String(count);
  }

  function sorted(rows, state) {
    const column = columns.find(({ id }) => id === state.sort) || columns[0];
    const sign = column.id === state.sort && state.descending ? -1 : 1;
    const compare = (a, b) => {
      const [x, y] = [column.raw(a), column.raw(b)];
      // What is missing comes last, whichever way.
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (typeof x === "number" ? x - y : NNK.byName(x, y));
    };
    return [...rows].sort((a, b) => compare(a, b) || a.index - b.index);
  }

  function show(state, rows, change) {
    const size = Number(state.size);
    const pages = Math.max(1, Math.ceil(rows.length / size));
    const page = Math.min(state.page, pages);
    const part = sorted(rows, state).slice((page - 1) * size, page * size);
    const used = columns.filter(
      (column) =>
        !(isSparse(column) || column.provider) ||
        column.provider === OURS ||
        rows.some((row) => !["", "-"].includes(cellText(column, row))),
    );
    const caption = element("caption", { class: "hidden" }, "All rows that fit the filters");
    const head = element("tr", {}, ...used.map((column) => heading(column, state, change)));
    const line = (row) => used.map((column, i) => cell(column, row, i));
    const body = part.map((row) => element("tr", {}, ...line(row)));
    if (!body.length) {
      const text = "No row fits the filters.";
      body.push(element("tr", {}, element("td", { colspan: used.length, class: "muted" }, text)));
    }
    byId("table").replaceChildren(
      caption,
      element("thead", {}, head),
      element("tbody", {}, ...body),
    );
    byId("table").setAttribute("aria-rowcount", rows.length + 1);
    pager(state, rows.length, page, pages, change);
  }

  function cellText(column, row) {
    const value = column.raw(row);
    if (column.text && (value !== null || column.provider)) return column.text(value, row);
    return value === null ? "" : String(value);
  }

  function heading(column, state, change) {
    const active = column.id === state.sort;
    const order = active ? (state.descending ? "descending" : "ascending") : null;
    const mark = active ? (state.descending ? " ▾" : " ▴") : "";
    const sort = () =>
      change((next) => {
        next.descending = active && !state.descending;
        next.sort = column.id;
        next.page = 1;
      });
    const names = { "data-sort": column.id, "data-focus": column.id };
    const attributes = { type: "button", ...names, onclick: sort };
    const button = element("button", attributes, column.label + mark);
    const kind = column.number ? "number" : null;
    return element("th", { scope: "col", "aria-sort": order, class: kind }, button);
  }

  function cell(column, row, place) {
    const text = cellText(column, row);
    const value = column.raw(row);
    const timing = column.provider && row.timings[column.provider];
    const bad = text === "WRONG" || text === "FAILED" || text === NNK.met(false);
    const late = column.id === `host-${OURS}` && row.values.host === "above the time";
    const slow = late || (column.id === "ratio" && value !== null && value < 1);
    const attributes = {
      "data-column": column.id,
      "data-value": value === null ? null : String(value),
      title: title(column, row, timing),
      class: [column.number && "number", bad && "bad", slow && "slow"].filter(Boolean).join(" "),
    };
    if (place === 0) return element("th", { ...attributes, scope: "row" }, text);
    return element("td", attributes, text);
  }

  function title(column, row, timing) {
    if (column.id === "date") {
      const commit = row.file.commit === null ? "no commit" : row.file.commit.slice(0, 10);
      return `${row.file.date}, ${commit}, ${row.file.name}`;
    }
    if (timing && timing.message) return timing.message;
    return column.id === "ratio" && row.best_peer ? `to ${row.best_peer}` : null;
  }

  // ---- pages -----------------------------------------------------------------------------------

  function pager(state, count, page, pages, change) {
    const go = (to) => () => change((next) => (next.page = to));
    const button = (name, to, disabled) => {
      const attributes = { type: "button", disabled, "data-focus": name, onclick: go(to) };
      return element("button", attributes, name);
    };
    const size = element("select", { id: "size", "data-focus": "size" });
    for (const value of ["50", "200", "1000"]) {
      size.append(element("option", { value, selected: value === state.size }, value));
    }
    size.addEventListener("change", () => {
      change((next) => {
        next.size = size.value;
        next.page = 1;
      });
    });
    const first = count ? (page - 1) * Number(state.size) + 1 : 0;
    const last = Math.min(page * Number(state.size), count);
    const where = `rows ${first} to ${last} of ${count}`;
    byId("pager").replaceChildren(
      button("First", 1, page === 1),
      button("Previous", page - 1, page === 1),
      element("span", { id: "page-count" }, where),
      button("Next", page + 1, page === pages),
      button("Last", pages, page === pages),
      element("label", {}, "Rows a page ", size),
    );
  }

  return { show };
})();
