// FLOP a byte against FLOP/s, under the roofs of memory and of arithmetic.
"use strict";
NNK.roofline = (function () {
  const { byId, plot } = NNK;
  const { data, rows: everything, choices } = NNK.model;
  // Points nearer than this, in decades, are one point.
  const GRAIN = 0.02;
  const MOST_POINTS = 2500;
  // Families whose ops are made of products and sums, enough to reach what arithmetic allows.
  const DENSE = ["matmul", "conv"];
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];

  const placed = (row) => row.flops > 0 && row.bytes > 0 && row.flops_per_s > 0;

  // The most that a machine did in some dtypes: a peak that was given, or the fastest seen there,
  // of anyone and in all files, so that a filter of ops does not move the roof.
  function computeRoof(machine, dtypes, families) {
    const given = data.peaks.filter(
      (peak) => machine.includes(peak.machine) && (peak.dtype === null || dtypes.has(peak.dtype)),
    );
    if (given.length) {
      const best = given.reduce((a, b) => (a.gflops >= b.gflops ? a : b));
      return { rate: best.gflops * 1e9, how: `given${best.dtype ? ` for ${best.dtype}` : ""}` };
    }
    let best = { rate: 0, how: "" };
    for (const row of everything) {
      if (row.file.machine !== machine || !dtypes.has(row.dtype) || !(row.flops > 0)) continue;
      if (families && !families.includes(row.family)) continue;
      for (const [name, timing] of Object.entries(row.timings)) {
        const rate = timing.status === "ok" ? row.flops / timing.median_s : 0;
        if (rate > best.rate) {
          best = { rate, how: `best seen, by ${name} in ${row.op} ${row.shape_text} ${row.dtype}` };
        }
      }
    }
    return best;
  }

  function memoryRoofs(machine) {
    const fastest = (kind) =>
      data.results
        .filter((file) => file.machine === machine && file[kind] !== null)
        .map((file) => file[kind])
        .reduce((a, b) => (a && a.bytes_per_s >= b.bytes_per_s ? a : b), null);
    return { copy: fastest("copy"), read: fastest("read") };
  }

  function show(state, rows) {
    const shown = rows.filter(placed);
    const families = choices.get("family");
    const machines = [...new Set(shown.map((row) => row.file.machine))].sort(NNK.byName);
    const points = shown.map((row) => ({ row, x: row.flops / row.bytes, y: row.flops_per_s }));
    const kept = points.length > MOST_POINTS ? thinned(points) : points;
    const span = points.length ? extent(points.map((point) => point.x)) : [1, 1];
    const roofs = machines.flatMap((machine, i) =>
      roofTraces(machine, shown, span, i, machines.length === 1),
    );
    const traces = [...NNK.groupBy(kept, (point) => point.row.family)]
      .sort(([a], [b]) => NNK.byName(a, b))
      .map(([family, some]) => pointTrace(family, families.indexOf(family), some));
    plot.draw(
      "roofline-chart",
      shown.length ? [...roofs.flatMap((roof) => roof.traces), ...traces] : [],
      chartLayout(roofs, points),
      `Roofline: ${NNK.plural(shown.length, "row")} by operations a byte and operations a ` +
        `second. ${roofs.map((roof) => roof.said).join(" ")} The table has the numbers.`,
      rows.length ? "No row shown has a number of operations." : "No row fits the filters.",
    );
    caption(shown, roofs, rows.length - shown.length, points.length - kept.length);
  }

  function caption(shown, roofs, without, hidden) {
    const parts = [
      "Operations over bytes that a call must move, and operations a second of nnkernels.",
      ...roofs.map((roof) => roof.said),
      "What fits into the caches, and what stores past them, can lie above the roof of memory.",
    ];
    if (without) parts.push(`${NNK.plural(without, "row")} without operations or time left out.`);
    if (hidden) parts.push(`${NNK.plural(hidden, "point")} not drawn: one like it is.`);
    byId("roofline-caption").textContent = shown.length ? parts.join(" ") : "";
  }

  const extent = (values) => [
    values.reduce((a, b) => Math.min(a, b)),
    values.reduce((a, b) => Math.max(a, b)),
  ];

  function thinned(points) {
    const place = (value) => Math.round(Math.log10(value) / GRAIN);
    const key = ({ row, x, y }) => `${row.family} ${place(x)} ${place(y)}`;
    return [...new Map(points.map((point) => [key(point), point])).values()];
  }

  function roofTraces(machine, shown, [low, high], index, alone) {
    const { copy, read } = memoryRoofs(machine);
    const dtypes = new Set(
      shown.filter((row) => row.file.machine === machine).map((row) => row.dtype),
    );
    const compute = computeRoof(machine, dtypes);
    const memory = copy || read;
    const bandwidth = memory ? memory.bytes_per_s : Infinity;
    const ridge = compute.rate / bandwidth;
    const ends = [low / 2, Math.max(2 * high, 2 * ridge)];
    const xs = [ends[0], ridge, ends[1]].filter((x) => x >= ends[0]);
    const by = memory ? `${memory === copy ? "copy" : "read"} bandwidth` : "";
    const said =
      `${machine}: ` +
      (memory ? `${NNK.giga(bandwidth)} GB/s, measured ${by} (${memory.by}); ` : "no bandwidth; ") +
      `${NNK.giga(compute.rate)} GFLOP/s (${compute.how}).`;
    const roof = { machine, said, xs, ys: xs.map((x) => Math.min(x * bandwidth, compute.rate)) };
    const dash = DASHES[index % DASHES.length];
    const traces = [lineTrace(roof, { color: plot.css("--text"), width: 1.5, dash })];
    if (alone) traces.push(...ceilings(machine, dtypes, bandwidth, compute.rate, ends[1]));
    return [{ traces, said, ys: roof.ys.slice(1) }];
  }

  // Lower roofs of single dtypes, where products of matrices or convolutions tell them.
  function ceilings(machine, dtypes, bandwidth, top, end) {
    const found = [...dtypes]
      .map((dtype) => ({ dtype, ...computeRoof(machine, new Set([dtype]), DENSE) }))
      .filter(({ rate }) => rate > 0 && rate < top)
      .sort((a, b) => b.rate - a.rate);
    return found.map(({ dtype, rate, how }, i) => {
      const said = `${dtype}: ${NNK.giga(rate)} GFLOP/s (${how})`;
      const roof = { machine: dtype, said, xs: [rate / bandwidth, end], ys: [rate, rate] };
      const line = lineTrace(roof, { color: plot.css("--muted"), width: 1, dash: "dot" });
      const label = ceilingLabel(found, i);
      const written = { mode: "lines+text", texttemplate: ["", label], textposition: "top left" };
      return { ...line, ...written, showlegend: false };
    });
  }

  // Names of ceilings that lie close together stand at the highest of them.
  function ceilingLabel(found, place) {
    const isClose = (i) => found[i - 1].rate / found[i].rate < 1.35;
    if (place > 0 && isClose(place)) return "";
    const names = [found[place].dtype];
    for (let i = place + 1; i < found.length && isClose(i); i++) names.push(found[i].dtype);
    return names.join(", ");
  }

  function lineTrace({ machine, said, xs, ys }, line) {
    return {
      type: "scatter",
      mode: "lines",
      name: plot.plain(machine),
      x: xs,
      y: ys,
      text: xs.map(() => plot.plain(said)),
      hovertemplate: "%{text}<extra></extra>",
      line,
    };
  }

  function pointTrace(family, index, points) {
    return {
      type: "scatter",
      mode: "markers",
      name: plot.plain(family),
      x: points.map((point) => point.x),
      y: points.map((point) => point.y),
      text: points.map(hover),
      hovertemplate: "%{text}<extra></extra>",
      marker: {
        color: plot.colour(index),
        symbol: plot.symbol(index),
        size: 8,
        opacity: 0.8,
        line: { color: plot.css("--paper"), width: 0.5 },
      },
    };
  }

  function hover({ row, x }) {
    const lines = [
      [row.op, row.shape_text, row.axis_text, row.dtype, row.layout].filter(Boolean).join(" "),
      `${NNK.giga(row.flops_per_s)} GFLOP/s at ${NNK.digits(x)} FLOP a byte`,
      `${NNK.giga(row.bytes_per_s)} GB/s` +
        (row.copy_share === null ? "" : `, ${NNK.percent(row.copy_share)} of a copy`) +
        (row.caches === "warm" ? ", warm caches" : ""),
      `${row.file.machine}, ${row.values.date}`,
    ];
    return lines.map(plot.plain).join("<br>");
  }

  // GFLOP/s on the axis, FLOP/s in the data: ticks at powers of ten are written by hand.
  function chartLayout(roofs, points) {
    const ys = [...points.map((p) => p.y), ...roofs.flatMap((roof) => roof.ys)];
    const [low, high] = ys.length ? extent(ys) : [1, 1];
    const ticks = [];
    const last = Math.ceil(Math.log10(high));
    for (let p = Math.floor(Math.log10(low)); p <= last; p++) ticks.push(10 ** p);
    return {
      height: plot.isNarrow() ? 420 : 460,
      margin: { l: 56, r: 16, t: plot.isNarrow() ? 80 : 40, b: 48 },
      xaxis: plot.axis("arithmetic intensity, FLOP a byte", { type: "log", dtick: 1 }),
      yaxis: plot.axis("GFLOP/s", {
        type: "log",
        range: [Math.log10(low) - 0.15, Math.log10(high) + 0.2],
        tickvals: ticks,
        ticktext: ticks.map((tick) => NNK.digits(tick / 1e9)),
      }),
    };
  }

  return { show };
})();
