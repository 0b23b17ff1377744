// How many times as long as nnkernels each peer takes: dots on lines, and the line at 1x.
"use strict";
NNK.ratios = (function () {
  const { byId, plot } = NNK;
  const { peers, labeller } = NNK.model;
  // More dots take long to draw: then a mean and a range stand for them.
  const MOST_DOTS = 2500;

  // The finest way, among those with few enough lines for a page, to gather rows.
  function gather(rows) {
    const full = labeller(rows, plot.isNarrow() ? ["op", "shape"] : ["op", "shape", "dtype"]);
    const ways = [
      { name: "row", label: full, most: 60 },
      { name: "op and shape", label: (row) => `${row.op} ${row.shape_text}`, most: 60 },
      { name: "op", label: (row) => row.op, most: 120 },
      { name: "family", label: (row) => row.family, most: Infinity },
    ];
    for (const way of ways) {
      const groups = NNK.groupBy(rows, way.label);
      if (groups.size <= way.most) return { way, groups };
    }
    return null;
  }

  // From rows to what is drawn: {peer, ratio, row} on lines.
  function dots(rows) {
    const used = peers.filter((peer) => rows.some((row) => row.ratios[peer] > 0));
    const of = (row) => used.filter((peer) => row.ratios[peer] > 0);
    return rows.flatMap((row) => of(row).map((peer) => ({ row, peer, ratio: row.ratios[peer] })));
  }

  function isMissed({ row, peer }) {
    if (row.target === null || row.target.met !== false) return false;
    const kind = row.target.kind.replace(/^times /, "");
    return kind === peer || (kind === "best" && row.best_peer === peer);
  }

  function ordered(groups, order) {
    const found = [...groups].sort(([a], [b]) => NNK.byName(a, b));
    if (order === "slowest") {
      const worst = new Map(
        found.map(([name, rows]) => [name, NNK.geometricMean(dots(rows).map((dot) => dot.ratio))]),
      );
      found.sort(([a], [b]) => worst.get(a) - worst.get(b));
    }
    return found;
  }

  function show(state, rows) {
    const compared = rows.filter((row) => dots([row]).length);
    const { way, groups } = gather(compared);
    const lines = ordered(groups, state.order);
    const all = dots(compared);
    const used = peers.filter((peer) => all.some((dot) => dot.peer === peer));
    const height = plot.isNarrow() ? 34 : Math.max(20, 9 * used.length);
    const many = all.length > MOST_DOTS;
    const traces = used.flatMap((peer, place) => {
      // Peers lie beside each other on a line.
      const shift = (place - (used.length - 1) / 2) * (0.6 / used.length);
      return many ? [ranges(peer, lines, shift)] : points(peer, lines, shift, way.name);
    });
    if (way.name === "row" && !many) traces.push(...targetMarks(lines));
    plot.draw(
      "ratios-chart",
      traces,
      chartLayout(all, lines, lines.length * height + 110),
      `Ratios of ${used.join(", ")} to nnkernels in ${NNK.plural(compared.length, "row")}; ` +
        `${all.filter((dot) => dot.ratio >= 1).length} of ${all.length} are 1x or more. ` +
        "The table of all rows has the numbers.",
      rows.length ? "No row shown has a time of a peer." : "No row fits the filters.",
    );
    caption(all, way, many, rows.length - compared.length);
  }

  function caption(all, way, many, without) {
    const parts = [
      "Time of the peer over time of nnkernels: right of 1x nnkernels is faster.",
      `One line for each ${way.name}.`,
    ];
    if (many) parts.push("A dot is the geometric mean, its bar goes from the least to the most.");
    else if (all.some(isMissed)) parts.push("Hollow: a target that is missed.");
    if (!many && way.name !== "row") parts.push("A bar is the geometric mean of the line.");
    if (without) parts.push(`${NNK.plural(without, "row")} without a peer left out.`);
    byId("ratios-caption").textContent = all.length ? parts.join(" ") : "";
  }

  function chartLayout(all, lines, height) {
    const ratios = [1, ...all.map((dot) => dot.ratio)];
    const low = Math.min(...ratios.map(Math.log2));
    const high = Math.max(...ratios.map(Math.log2));
    const powers = [];
    const step = high - low > 8 ? 2 : 1;
    const first = Math.floor(low / step) * step;
    for (let p = first; p <= Math.ceil(high); p += step) powers.push(2 ** p);
    // Where few powers of two are in sight, one and a half times each as well.
    if (high - low < 3) powers.push(...powers.map((power) => 1.5 * power));
    const margin = 0.06 * (high - low) + 0.15;
    return {
      height,
      annotations: plot.isNarrow() ? namesInside(lines) : [],
      margin: { l: plot.isNarrow() ? 8 : 56, r: 16, t: 30, b: 44 },
      xaxis: plot.axis("", {
        type: "log",
        range: [low - margin, high + margin].map((p) => p * Math.log10(2)),
        tickvals: powers,
        ticktext: powers.map((power) => `${NNK.digits(power)}x`),
        side: "bottom",
      }),
      yaxis: plot.axis("", {
        range: [lines.length - 0.4, -0.7],
        tickvals: lines.map((_, i) => i),
        ticktext: lines.map(([name]) => plot.plain(name)),
        showticklabels: !plot.isNarrow(),
        tickfont: { size: 11 },
      }),
      shapes: [
        {
          type: "line",
          x0: 1,
          x1: 1,
          y0: 0,
          y1: 1,
          yref: "paper",
          line: { color: plot.css("--text"), width: 1.5 },
        },
      ],
    };
  }

  // Where there is no room at the side, a line's name stands above it.
  function namesInside(lines) {
    return lines.map(([name], i) => ({
      x: 0,
      xref: "paper",
      xanchor: "left",
      y: i - 0.12,
      yanchor: "bottom",
      text: plot.plain(name),
      font: { size: 11, color: plot.css("--muted") },
      showarrow: false,
    }));
  }

  function marker(peer) {
    const index = plot.peerIndex(peer);
    return { color: plot.colour(index), symbol: plot.symbol(index) };
  }

  function points(peer, lines, shift, way) {
    const found = [];
    const means = [];
    lines.forEach(([, rows], i) => {
      const some = dots(rows).filter((dot) => dot.peer === peer);
      found.push(...some.map((dot) => ({ ...dot, y: i + shift })));
      const mean = NNK.geometricMean(some.map((dot) => dot.ratio));
      if (mean !== null && way !== "row") means.push({ x: mean, y: i + shift, count: some.length });
    });
    const bar = {
      type: "scatter",
      mode: "markers",
      name: `mean, ${peer}`,
      showlegend: false,
      legendgroup: peer,
      x: means.map((mean) => mean.x),
      y: means.map((mean) => mean.y),
      customdata: means.map((mean) => mean.count),
      marker: { ...marker(peer), symbol: "line-ns-open", size: 13, line: { width: 2.5 } },
      hovertemplate: `${peer}: geometric mean %{x:.2f}x of %{customdata} rows<extra></extra>`,
    };
    return [dotTrace(peer, found, way), bar].filter((trace) => trace.x.length);
  }

  function dotTrace(peer, dotsOfPeer, way) {
    // The legend shows the first one's symbol.
    const found = [...dotsOfPeer].sort((a, b) => isMissed(a) - isMissed(b));
    return {
      type: "scatter",
      mode: "markers",
      name: peer,
      legendgroup: peer,
      x: found.map((dot) => dot.ratio),
      y: found.map((dot) => dot.y),
      text: found.map(hover),
      hovertemplate: "%{text}<extra></extra>",
      marker: {
        color: marker(peer).color,
        symbol: found.map((dot) => marker(peer).symbol + (isMissed(dot) ? "-open" : "")),
        size: 8,
        opacity: way === "row" ? 1 : 0.7,
        line: {
          color: found.map((dot) => (isMissed(dot) ? marker(peer).color : plot.css("--paper"))),
          width: found.map((dot) => (isMissed(dot) ? 2 : 0.5)),
        },
      },
    };
  }

  function ranges(peer, lines, shift) {
    const found = lines.map(([name, rows], i) => {
      const ratios = dots(rows).filter((dot) => dot.peer === peer).map((dot) => dot.ratio);
      return { name, y: i + shift, ratios, mean: NNK.geometricMean(ratios) };
    });
    const some = found.filter((line) => line.mean !== null);
    return {
      type: "scatter",
      mode: "markers",
      name: peer,
      x: some.map((line) => line.mean),
      y: some.map((line) => line.y),
      error_x: {
        type: "data",
        symmetric: false,
        array: some.map((line) => Math.max(...line.ratios) - line.mean),
        arrayminus: some.map((line) => line.mean - Math.min(...line.ratios)),
        thickness: 1.5,
        width: 3,
      },
      text: some.map(
        ({ name, ratios }) => `${plot.plain(name)}<br>${NNK.plural(ratios.length, "row")}`,
      ),
      hovertemplate: `%{text}<br>${peer}: geometric mean %{x:.2f}x<extra></extra>`,
      marker: { ...marker(peer), size: 9 },
    };
  }

  function targetMarks(lines) {
    const found = lines.flatMap(([, rows], i) =>
      rows
        .filter((row) => row.target !== null && row.target.kind.startsWith("times"))
        .map((row) => ({ x: row.target.limit, y: i, text: `target: ${NNK.asked(row.target)}` })),
    );
    if (!found.length) return [];
    return [
      {
        type: "scatter",
        mode: "markers",
        name: "target",
        x: found.map((mark) => mark.x),
        y: found.map((mark) => mark.y),
        text: found.map((mark) => plot.plain(mark.text)),
        hovertemplate: "%{text}<extra></extra>",
        marker: {
          symbol: "line-ns-open",
          size: 13,
          color: plot.css("--text"),
          line: { width: 1.5 },
        },
      },
    ];
  }

  function hover({ row, peer, ratio }) {
    const timings = row.timings;
    const lines = [
      [row.op, row.shape_text, row.axis_text, row.dtype, row.layout].filter(Boolean).join(" "),
      `${peer} ${NNK.times(ratio)}: ${NNK.timing(timings[peer], row.out)} to ` +
        NNK.timing(timings.nnkernels, row.out),
      row.target === null ? "" : `target ${NNK.asked(row.target)}: ${NNK.met(row.target.met)}`,
      `${row.file.machine}, ${row.values.date}, results ${row.values.results}`,
    ];
    return lines.filter(Boolean).map(plot.plain).join("<br>");
  }

  return { show };
})();
