// The page: one state, and everything that shows it.
"use strict";
(function () {
  const { byId, model } = NNK;
  let state = NNK.state.initial();

  // Change the state by a function, or reset it by null, and show it.
  function change(edit) {
    if (edit === null) state = NNK.state.initial();
    else {
      const before = filterOf(state);
      edit(state);
      if (filterOf(state) !== before) state.page = 1;
    }
    remember();
    keepFocus(show);
  }

  // Lists, buttons of pages and headings are made anew: whoever uses the keyboard stays there.
  function keepFocus(act) {
    const before = document.activeElement;
    const place = before && before.closest("#pager, #chips, #table, #tiles, .standing");
    const name = before && before.dataset.focus;
    act();
    if (!place || (before.isConnected && !before.hidden && !before.disabled)) return;
    const usable = [...place.querySelectorAll("button:not(:disabled), select")];
    const again = usable.find((one) => one.dataset.focus === name) || usable[0] || byId("count");
    again.focus();
  }

  // What decides which rows are shown; a page of the rows before means nothing after.
  function filterOf(some) {
    const chosen = [...some.chosen].map(([id, values]) => [id, [...values].sort()]);
    return JSON.stringify([some.newest, chosen]);
  }

  function remember() {
    const fragment = NNK.state.write(state);
    const bare = window.location.href.replace(/#.*/, "");
    window.history.replaceState(null, "", fragment ? `${bare}#${fragment}` : bare);
  }

  function show() {
    const selected = model.selected(state);
    const rows = state.newest ? model.newest(selected) : selected;
    NNK.filters.show(state, rows, change);
    NNK.overview.show(state, rows, change);
    NNK.table.show(state, rows, change);
    for (const name of ["order", "measure", "over"]) byId(name).value = state[name];
    NNK.ratios.show(state, rows);
    NNK.roofline.show(state, rows);
    NNK.history.show(state, selected);
    document.documentElement.dataset.shown = String(rows.length);
  }

  function fromAddress() {
    if (isPart()) return remember();
    const read = NNK.state.parse(window.location.hash);
    state = read.state;
    show();
    if (read.unknown.length) {
      byId("count").textContent += `. The link asks for ${read.unknown.join(", ")}: not there.`;
    }
  }

  // A link to a part of this page, which is no view: the part is shown, and the view stays.
  function isPart() {
    return window.location.hash.length > 1 && !window.location.hash.includes("=");
  }

  function settings() {
    for (const name of ["order", "measure", "over"]) {
      byId(name).addEventListener("change", (event) => {
        change((next) => (next[name] = event.target.value));
      });
    }
    byId("history-op").addEventListener("change", (event) => {
      change((next) => (next.history = event.target.value));
    });
  }

  // Colours and places of labels are drawn into the charts: draw them again when they change.
  function redraws() {
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
    let narrow = NNK.plot.isNarrow();
    window.addEventListener("resize", () => {
      if (NNK.plot.isNarrow() === narrow) return;
      narrow = NNK.plot.isNarrow();
      show();
    });
  }

  NNK.overview.build();
  NNK.filters.build(change);
  settings();
  redraws();
  if (isPart()) {
    const part = byId(window.location.hash.slice(1));
    show();
    if (part) part.scrollIntoView();
  }
  fromAddress();
  window.addEventListener("hashchange", fromAddress);
})();
