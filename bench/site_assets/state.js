// What is shown, and the same as the part of the address after #, so that a view can be linked.
"use strict";
NNK.state = (function () {
  const { FACETS, choices } = NNK.model;

  // Of settings with few values, the first is the default. The default stays out of the address.
  const SETTINGS = {
    order: ["name", "slowest"],
    measure: ["time", "relative", "ratio", "gflops", "gbytes", "host", "cold"],
    over: ["date", "commit"],
    size: ["50", "200", "1000"],
  };

  function initial() {
    const state = { newest: true, sort: "", descending: false, page: 1, history: "" };
    for (const [name, values] of Object.entries(SETTINGS)) state[name] = values[0];
    state.chosen = new Map(FACETS.map(({ id }) => [id, new Set()]));
    return state;
  }

  // A state, and what of the address names nothing that is there.
  function parse(fragment) {
    const state = initial();
    const unknown = [];
    for (const [name, value] of new URLSearchParams(fragment.replace(/^#/, ""))) {
      if (!take(state, name, value)) unknown.push(`${name}=${value}`);
    }
    return { state, unknown };
  }

  function take(state, name, value) {
    if (state.chosen.has(name)) {
      if (!choices.get(name).includes(value)) return false;
      state.chosen.get(name).add(value);
    } else if (Object.hasOwn(SETTINGS, name)) {
      if (!SETTINGS[name].includes(value)) return false;
      state[name] = value;
    } else if (name === "newest") {
      state.newest = value !== "0";
    } else if (name === "page") {
      if (!/^[1-9]\d{0,6}$/.test(value)) return false;
      state.page = Number(value);
    } else if (name === "sort") {
      state.descending = value.startsWith("-");
      state.sort = value.replace(/^-/, "");
    } else if (name === "history") {
      if (!choices.get("op").includes(value)) return false;
      state.history = value;
    } else {
      return false;
    }
    return true;
  }

  function write(state) {
    const found = new URLSearchParams();
    for (const { id } of FACETS) {
      for (const value of choices.get(id)) {
        if (state.chosen.get(id).has(value)) found.append(id, value);
      }
    }
    if (!state.newest) found.set("newest", "0");
    for (const [name, values] of Object.entries(SETTINGS)) {
      if (state[name] !== values[0]) found.set(name, state[name]);
    }
    if (state.history) found.set("history", state.history);
    if (state.sort) found.set("sort", (state.descending ? "-" : "") + state.sort);
    if (state.page > 1) found.set("page", String(state.page));
    return String(found);
  }

  return { initial, parse, write };
})();
