// What stands above the charts (what was left out, tiles, families, other targets), and the files.
"use strict";
NNK.overview = (function () {
  const { element, byId } = NNK;
  const { data, peers, OURS } = NNK.model;

  function table(id, heads, lines, empty) {
    const body = lines.map((cells) =>
      element("tr", {}, ...cells.map((cell, i) => tableCell(cell, i))),
    );
    const isNumber = (i) => lines.length && lines.some((cells) => numeric(cells[i]));
    const head = heads.map((text, i) =>
      element("th", { scope: "col", class: isNumber(i) ? "number" : null }, text),
    );
    if (!body.length) {
      const cell = element("td", { colspan: heads.length, class: "muted" }, empty);
      body.push(element("tr", {}, cell));
    }
    byId(id).replaceChildren(
      element("thead", {}, element("tr", {}, ...head)),
      element("tbody", {}, ...body),
    );
  }

  const numeric = (cell) =>
    typeof cell === "number" || /^[\d.]+(x|%| [mun]?s| of \d+)?$/.test(String(cell));

  function tableCell(cell, place) {
    const content = cell instanceof Node ? cell : String(cell);
    const bad = cell === NNK.met(false);
    const kinds = [numeric(cell) && "number", bad && "bad"];
    const attributes = { class: kinds.filter(Boolean).join(" ") };
    if (place === 0) return element("th", { ...attributes, scope: "row" }, content);
    return element("td", attributes, content);
  }

  // ---- once ----------------------------------------------------------------------------------

  function build() {
    const dates = data.results.map((file) => file.date.slice(0, 10));
    const machines = new Set(data.results.map((file) => file.machine));
    const first = dates[0];
    const last = dates[dates.length - 1];
    const span = first === last ? `of ${first}` : `from ${first} to ${last}`;
    byId("subtitle").textContent =
      `${NNK.plural(data.rows.length, "row")} in ${NNK.plural(dates.length, "result file")} ` +
      `${span}, on ${NNK.plural(machines.size, "machine")}. ` +
      "Ratios above 1x: nnkernels is faster.";
    const left = data.unreadable.map(({ name, reason }) =>
      element("li", {}, element("code", {}, name), ` ${reason}`),
    );
    if (left.length) {
      const text = `${NNK.plural(left.length, "file")} left out`;
      const list = element("ul", {}, ...left);
      byId("problems").append(
        element("div", { class: "notice", role: "note" }, element("strong", {}, text), list),
      );
      byId("problems").hidden = false;
    }
    if (!data.rows.length) byId("goals-fold").open = true;
    files();
  }

  function files() {
    const heads = ["File", "Date", "Commit", "Machine", "Backend", "Rows", "Copy GB/s", "Versions"];
    const lines = data.results.map((file, i) => {
      const rows = data.rows.filter((row) => row.result === i).length;
      const names = ["python", "numpy", ...file.peers].filter((name) => file.versions[name]);
      const versions = [...new Set(names)].map((name) => `${name} ${file.versions[name]}`);
      return [
        fileName(file),
        file.date.replace("T", " ").replace("Z", ""),
        commit(file),
        file.machine,
        file.backend,
        rows,
        file.copy === null ? "" : NNK.giga(file.copy.bytes_per_s),
        versions.join(", "),
      ];
    });
    table("file-table", [...heads], lines.reverse(), "none");
  }

  function fileName(file) {
    const notes = [...file.warnings];
    if (!file.complete) notes.unshift("the run was interrupted: rows are missing");
    if (!notes.length) return file.name;
    const items = notes.map((text) => element("li", {}, text));
    const summary = element("summary", {}, `${file.name} (${NNK.plural(notes.length, "warning")})`);
    return element("details", {}, summary, element("ul", {}, ...items));
  }

  function commit(file) {
    if (file.commit === null) return "";
    const changed = NNK.plural(file.changed_files, "changed file");
    return file.commit.slice(0, 10) + (file.changed_files ? ` + ${changed}` : "");
  }

  // ---- at every change -------------------------------------------------------------------------

  const ratiosTo = (rows, peer) => rows.map((row) => row.ratios[peer]).filter((r) => r > 0);

  function targets(rows) {
    const asked = rows.filter((row) => row.target !== null);
    return { asked: asked.length, met: asked.filter((row) => row.target.met).length };
  }

  function show(state, rows, change) {
    const { asked, met } = targets(rows);
    const failed = rows.filter((row) => ["wrong", "failed"].includes(row.timings[OURS].status));
    const tiles = [tile("Rows", rows.length, NNK.plural(ops(rows), "op"))];
    const missed = asked - met;
    const show = () => change((next) => next.chosen.set("target", new Set(["missed"])));
    const button = element("button", { type: "button", onclick: show }, "show the missed");
    tiles.push(
      tile("Targets met", asked ? `${met} of ${asked}` : "none set", missed ? button : null, {
        share: asked ? met / asked : null,
      }),
    );
    for (const peer of peers) {
      const ratios = ratiosTo(rows, peer);
      if (!ratios.length) continue;
      const slower = ratios.filter((ratio) => ratio < 1).length;
      const note = `${NNK.plural(ratios.length, "row")}, ${slower} below 1x`;
      tiles.push(tile(`Mean ratio to ${peer}`, NNK.times(NNK.geometricMean(ratios)), note));
    }
    tiles.push(...seconds(rows, "host_s", "Host, nnkernels", "median of a call on a GPU"));
    tiles.push(...seconds(rows, "cold_s", "First call", "median, nothing compiled"));
    if (failed.length) {
      tiles.push(tile("Wrong or failed", failed.length, "results of nnkernels", { bad: true }));
    }
    byId("tiles").replaceChildren(...tiles);
    families(rows);
    goals(state);
  }

  // A tile, where rows have such a time of ours.
  function seconds(rows, field, name, what) {
    const known = rows.map((row) => row.timings[OURS][field]).filter((time) => time > 0);
    if (!known.length) return [];
    const note = `${NNK.plural(known.length, "row")}: ${what}`;
    return [tile(name, NNK.duration(NNK.median(known)), note)];
  }

  const ops = (rows) => new Set(rows.map((row) => row.op)).size;

  function tile(name, value, note, { share = null, bad = false } = {}) {
    const bar = share === null ? null : element("meter", { min: 0, max: 1, value: share });
    if (bar) bar.setAttribute("aria-label", `${name}: ${value}`);
    return element(
      "div",
      { class: bad ? "tile failed" : "tile" },
      element("p", { class: "name" }, name),
      element("p", { class: "value" }, String(value)),
      bar,
      note === null ? null : element("p", { class: "note" }, note),
    );
  }

  function families(rows) {
    const used = peers.filter((peer) => ratiosTo(rows, peer).length);
    const heads = ["Family", "Ops", "Rows", "Targets met"];
    for (const peer of used) heads.push(`Mean ratio to ${peer}`, `Least`);
    const groups = [...NNK.groupBy(rows, (row) => row.family)];
    const lines = groups.sort(([a], [b]) => NNK.byName(a, b)).map(([family, members]) => {
      const { asked, met } = targets(members);
      const line = [family, ops(members), members.length, asked ? `${met} of ${asked}` : ""];
      for (const peer of used) {
        const ratios = ratiosTo(members, peer);
        line.push(NNK.times(NNK.geometricMean(ratios)));
        line.push(ratios.length ? NNK.times(Math.min(...ratios)) : "");
      }
      return line;
    });
    table("families", heads, lines, "No row fits the filters.");
  }

  // Starts and means belong to files, not to rows: the filters of files act on them.
  function goals(state) {
    const of = (id, value) => !state.chosen.get(id).size || state.chosen.get(id).has(value);
    const lines = new Map();
    for (const file of data.results) {
      const day = file.date.slice(0, 10);
      const { machine, backend } = file;
      if (!of("machine", machine) || !of("backend", backend) || !of("date", day)) continue;
      const key = (name) => (state.newest ? [name, machine, backend] : [name, file.name]).join("|");
      const place = [machine, day];
      for (const check of file.checks) {
        const target = { kind: "seconds", limit: check.limit_s };
        const asked = check.limit_s === null ? "" : NNK.asked(target);
        const median = check.median_s === null ? "FAILED" : NNK.duration(check.median_s);
        const met = check.limit_s === null ? "" : NNK.met(check.met);
        lines.set(key(check.name), [check.name, median, asked, met, ...place]);
      }
      for (const mean of file.means) {
        if (!of("dtype", mean.dtype) || !of("layout", mean.layout)) continue;
        const name = `${mean.name} ${mean.dtype} ${mean.layout}, ${NNK.plural(mean.rows, "row")}`;
        const least = mean.least === null ? "" : ` (least ${NNK.times(mean.least)})`;
        const measured = mean.measured === null ? "" : NNK.times(mean.measured) + least;
        lines.set(key(name), [name, measured, NNK.asked(mean), NNK.met(mean.met), ...place]);
      }
    }
    const heads = ["What", "Measured", "Target", "", "Machine", "Date"];
    table("goals", heads, [...lines.values()], "None in these files.");
  }

  return { build, show };
})();
