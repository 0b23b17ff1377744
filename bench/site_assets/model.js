// The rows with what they are filtered by, and the rows that a state shows.
"use strict";
NNK.model = (function () {
  const data = window.NNK_DATA;
  const OURS = "nnkernels";
  const COLD_LIMITS = [1, 5];

  // In the order in which the page offers them. A row has one value of each.
  const FACETS = [
    { id: "family", label: "Family" },
    { id: "op", label: "Op" },
    { id: "dtype", label: "Dtype" },
    { id: "layout", label: "Layout" },
    { id: "machine", label: "Machine" },
    { id: "backend", label: "Backend" },
    { id: "date", label: "Date" },
    { id: "results", label: "Results" },
    { id: "target", label: "Target" },
    { id: "host", label: "Host" },
    { id: "cold", label: "First call" },
  ];

  function verdict(target) {
    if (target === null) return "none";
    return target.met === null ? "not measured" : target.met ? "met" : "missed";
  }

  // What a call of ours costs the host, on a GPU, beside what it takes there.
  function hostShare({ host_s: host, median_s: time }) {
    if (host === undefined || host === null) return "not measured";
    return host <= time ? "below the time" : "above the time";
  }

  // Seconds of our first call, where nothing was compiled.
  function coldRange({ cold_s: cold }) {
    if (cold === undefined || cold === null) return "not measured";
    const [few, many] = COLD_LIMITS;
    if (cold <= few) return `at most ${few} s`;
    return cold <= many ? `${few} to ${many} s` : `more than ${many} s`;
  }

  function enriched(row, index) {
    const file = data.results[row.result];
    const shape = row.shape.length ? row.shape.join("x") : "scalar";
    const axis = row.axis === null ? "" : `axis ${row.axis}`;
    const values = {
      family: row.family,
      op: row.op,
      dtype: row.dtype,
      layout: row.layout,
      machine: file.machine,
      backend: row.backend,
      date: file.date.slice(0, 10),
      results: row.out ? "into out=" : "allocated",
      target: verdict(row.target),
      host: hostShare(row.timings[OURS]),
      cold: coldRange(row.timings[OURS]),
    };
    // The parts of a row's name. What is the same in all rows of a chart is left out of it.
    const parts = {
      op: row.op,
      shape,
      axis,
      dtype: row.dtype,
      layout: row.layout,
      results: values.results,
      backend: row.backend,
      machine: file.machine,
    };
    const key = JSON.stringify(Object.values(parts));
    return { ...row, index, file, shape_text: shape, axis_text: axis, values, parts, key };
  }

  const rows = data.rows.map(enriched);
  const peers = [...new Set(data.rows.flatMap((row) => Object.keys(row.timings)))]
    .filter((name) => name !== OURS)
    .sort(NNK.byName);

  // Every value of a facet, each once, in a reader's order; dates from new to old.
  const choices = new Map(
    FACETS.map(({ id }) => {
      const found = [...new Set(rows.map((row) => row.values[id]))].sort(NNK.byName);
      return [id, id === "date" ? found.reverse() : found];
    }),
  );

  // Any of the values chosen in one facet, in every facet.
  function fits(row, chosen, except) {
    for (const [id, values] of chosen) {
      if (id !== except && values.size && !values.has(row.values[id])) return false;
    }
    return true;
  }

  // Of each measurement the last: files come from old to new.
  const newest = (some) => [...new Map(some.map((row) => [row.key, row])).values()];

  function selected(state, except) {
    return rows.filter((row) => fits(row, state.chosen, except));
  }

  // How often each value of a facet would be shown, given the other facets.
  function counts(state, facet) {
    const some = selected(state, facet);
    const shown = state.newest ? newest(some) : some;
    const found = new Map();
    for (const row of shown) {
      const value = row.values[facet];
      found.set(value, (found.get(value) || 0) + 1);
    }
    return found;
  }

  // The name of a row, without the parts that all of some rows have in common.
  function labeller(some, always) {
    const distinct = (...names) =>
      new Set(some.map((row) => names.map((name) => row.parts[name]).join("\n"))).size;
    const used = Object.keys(some.length ? some[0].parts : {}).filter((name) => {
      // A machine says its backend, unless it has several.
      if (name === "backend") return distinct("machine", "backend") > distinct("machine");
      return always.includes(name) || distinct(name) > 1;
    });
    return (row) => {
      const kept = used.filter((name) => name !== "layout" || row.parts.layout !== "contiguous");
      return kept.map((name) => row.parts[name]).filter(Boolean).join(" ") || row.op;
    };
  }

  return { data, OURS, FACETS, rows, peers, choices, newest, selected, counts, labeller };
})();
