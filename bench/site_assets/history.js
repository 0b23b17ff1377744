// One op over dates or commits: a line for each problem on each machine.
"use strict";
NNK.history = (function () {
  const { element, byId, plot } = NNK;
  const { labeller } = NNK.model;
  const MOST_LINES = 16;

  const MEASURES = {
    time: { title: "median time", value: ours("median_s"), log: true, seconds: true },
    relative: { title: "time over the first time", value: ours("median_s") },
    ratio: { title: "time of the fastest peer / time of nnkernels", value: (row) => row.ratio },
    gflops: { title: "GFLOP/s", value: (row) => row.flops_per_s / 1e9, log: true },
    gbytes: { title: "GB/s", value: (row) => row.bytes_per_s / 1e9, log: true },
    host: { title: "host's time of a call", value: ours("host_s"), log: true, seconds: true },
    cold: { title: "first call, not compiled", value: ours("cold_s"), log: true, seconds: true },
  };

  function ours(field) {
    return (row) => row.timings.nnkernels[field];
  }

  const dates = (rows) => new Set(rows.map((row) => row.file.date)).size;

  // The op that was asked for if it is there, otherwise one with the longest history.
  function choose(state, groups) {
    if (groups.has(state.history)) return state.history;
    let best;
    for (const [name, rows] of groups) {
      const length = longest(rows) + dates(rows) / 1e6;
      if (best === undefined || length > best.length) best = { name, length };
    }
    return best && best.name;
  }

  const longest = (rows) =>
    Math.max(...[...NNK.groupBy(rows, (row) => row.key).values()].map(dates));

  function show(state, rows) {
    const groups = new Map(
      [...NNK.groupBy(rows, (row) => row.op)].sort(([a], [b]) => NNK.byName(a, b)),
    );
    const op = choose(state, groups);
    const options = [...groups].map(([name, some]) =>
      element("option", { value: name }, `${name} (${NNK.plural(dates(some), "date")})`),
    );
    const select = byId("history-op");
    select.replaceChildren(...options);
    select.disabled = !options.length;
    if (op !== undefined) select.value = op;
    const of = MEASURES[state.measure];
    const some = (groups.get(op) || []).filter((row) => of.value(row) > 0);
    // The lines with most points; of those the first.
    const all = [...NNK.groupBy(some, (row) => row.key).values()];
    const lines = [...all].sort((a, b) => b.length - a.length).slice(0, MOST_LINES);
    const label = labeller(lines.flat(), ["shape", "dtype"]);
    plot.draw(
      "history-chart",
      lines.map((line, i) => trace(line, label(line[0]), i, state)),
      chartLayout(state, lines, of),
      `History of ${op}: ${NNK.plural(lines.length, "line")} over ${dates(some)} dates. ` +
        "The table has the numbers, with all measurements shown.",
      rows.length ? "No row of this op has this measure." : "No row fits the filters.",
    );
    caption(op, lines, all.length, some, state);
  }

  const hasQuartiles = ({ measure }) => measure === "time" || measure === "relative";

  function caption(op, lines, all, some, state) {
    const over = NNK.plural(dates(some), "date");
    const parts = [`${op}: ${NNK.plural(lines.length, "line")} over ${over}.`];
    if (all > lines.length) {
      parts.push(`${all - lines.length} more lines are not drawn: narrow the filters.`);
    }
    if (dates(some) === 1) {
      parts.push("It was measured only once: a line needs results of another date.");
    }
    parts.push("All dates that fit the filters are shown, also without “newest only”.");
    parts.push("Times of different machines, and of a busy one, do not compare.");
    if (hasQuartiles(state)) parts.push("Bars are the quartiles.");
    byId("history-caption").textContent = lines.length ? parts.join(" ") : "";
  }

  const commit = ({ file }) =>
    file.commit === null ? file.date : file.commit.slice(0, 8) + (file.changed_files ? "+" : "");

  function trace(line, name, index, state) {
    const of = MEASURES[state.measure];
    const base = state.measure === "relative" ? of.value(line[0]) : 1;
    const quartiles = (row, which) => row.timings.nnkernels[which] / base;
    const value = (row) => of.value(row) / base;
    return {
      type: "scatter",
      mode: "lines+markers",
      name: plot.plain(name),
      x: line.map((row) => (state.over === "commit" ? commit(row) : row.file.date)),
      y: line.map(value),
      error_y: hasQuartiles(state) && {
        type: "data",
        symmetric: false,
        array: line.map((row) => quartiles(row, "p75_s") - value(row)),
        arrayminus: line.map((row) => value(row) - quartiles(row, "p25_s")),
        thickness: 1,
        width: 3,
      },
      text: line.map((row) => hover(row, name)),
      hovertemplate: "%{text}<extra></extra>",
      line: { color: plot.colour(index), width: 1.5, dash: index < 8 ? "solid" : "dot" },
      marker: { color: plot.colour(index), symbol: plot.symbol(index), size: 8 },
    };
  }

  function hover(row, name) {
    const ratio = row.ratio === null ? "" : `, ${NNK.times(row.ratio)} ${row.best_peer}`;
    const lines = [
      name,
      NNK.timing(row.timings.nnkernels, row.out) + ratio,
      `${row.file.date.slice(0, 16).replace("T", " ")}, commit ${commit(row)}`,
      `${row.file.machine}; ${row.file.name}`,
    ];
    return lines.map(plot.plain).join("<br>");
  }

  function chartLayout(state, lines, of) {
    const files = lines.flat().sort((a, b) => (a.file.date < b.file.date ? -1 : 1));
    const commits = [...new Set(files.map(commit))];
    const over =
      state.over === "commit"
        ? { type: "category", categoryorder: "array", categoryarray: commits }
        : { type: "date", range: dateRange(files) };
    const y = { rangemode: "tozero" };
    if (of.log) Object.assign(y, logTicks(files.map(of.value), of.seconds));
    const legend = plot.isNarrow() ? 20 * lines.length : 20 * Math.ceil(lines.length / 2);
    return {
      height: 380 + legend,
      showlegend: true,
      margin: { l: 64, r: 24, t: 12, b: 40 },
      legend: { ...plot.legend, y: -0.14, yanchor: "top", font: { size: 11 } },
      xaxis: plot.axis("", over),
      yaxis: plot.axis(of.title, y),
    };
  }

  // Room at both ends, and days rather than split seconds for what was measured only once.
  function dateRange(rows) {
    const times = rows.map((row) => Date.parse(row.file.date));
    if (!times.length) return undefined;
    const [first, last] = [Math.min(...times), Math.max(...times)];
    const room = Math.max(12 * 3600e3, 0.06 * (last - first));
    return [first - room, last + room].map((time) => new Date(time).toISOString());
  }

  // 1, 2 and 5 of every decade, times written as the table does; a factor of 4 at least.
  function logTicks(values, areTimes) {
    if (!values.length) return {};
    let [low, high] = [Math.min(...values) / 1.4, Math.max(...values) * 1.4];
    const widen = Math.max(1, Math.sqrt(4 / (high / low)));
    [low, high] = [low / widen, high * widen];
    const steps = high / low > 300 ? [1] : [1, 2, 5];
    const ticks = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++) {
      ticks.push(...steps.map((step) => step * 10 ** p));
    }
    const range = [Math.log10(low), Math.log10(high)];
    const ticktext = ticks.map(areTimes ? NNK.duration : NNK.digits);
    return { type: "log", range, tickvals: ticks, ticktext };
  }

  return { show };
})();
