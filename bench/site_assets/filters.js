// The filters: for each facet a list of boxes to tick, and what is ticked as chips.
"use strict";
NNK.filters = (function () {
  const { element, byId } = NNK;
  const { FACETS, choices, counts } = NNK.model;
  // A list longer than this gets a field to search in it.
  const LONG = 10;
  const parts = new Map();

  function build(change) {
    for (const facet of FACETS) {
      const made = panel(facet, change);
      parts.set(facet.id, made);
      byId("facets").insertBefore(made.fold, byId("facets").lastElementChild);
    }
    byId("newest").addEventListener("change", (event) => {
      change((state) => (state.newest = event.target.checked));
    });
    byId("reset").addEventListener("click", () => change(null));
    closeOutside();
    // On a phone the filters start folded, so that the page begins with what it shows.
    if (window.matchMedia("(max-width: 640px)").matches) byId("filters-fold").open = false;
  }

  function panel(facet, change) {
    const boxes = new Map();
    const list = element("div", { class: "boxes" });
    for (const value of choices.get(facet.id)) {
      const input = element("input", { type: "checkbox", name: facet.id, value });
      input.addEventListener("change", () => change((state) => toggle(state, facet.id, value)));
      const count = element("span", { class: "count" });
      const label = element("label", {}, input, element("span", {}, value), count);
      boxes.set(value, { input, count, label });
      list.append(label);
    }
    const chosen = element("span", { class: "chosen" });
    const search = boxes.size > LONG ? searchField(facet, boxes) : null;
    const clear = element(
      "button",
      { type: "button", onclick: () => change((state) => state.chosen.get(facet.id).clear()) },
      "Clear",
    );
    const legend = element("legend", { class: "hidden" }, facet.label);
    const inside = element("fieldset", { class: "panel" }, legend, search, list, clear);
    const summary = element("summary", {}, facet.label, " ", chosen);
    const fold = element("details", { class: "facet", "data-facet": facet.id }, summary, inside);
    return { fold, boxes, chosen, clear };
  }

  function searchField(facet, boxes) {
    const label = `Search in ${facet.label.toLowerCase()}`;
    const field = element("input", { type: "search", placeholder: label, "aria-label": label });
    field.addEventListener("input", () => {
      const wanted = field.value.trim().toLowerCase();
      for (const [value, box] of boxes) {
        box.label.hidden = !value.toLowerCase().includes(wanted);
      }
    });
    return field;
  }

  function toggle(state, facet, value) {
    const values = state.chosen.get(facet);
    if (!values.delete(value)) values.add(value);
  }

  // One list at a time; Escape and a click elsewhere close it.
  function closeOutside() {
    const open = () => document.querySelectorAll("details.facet[open]");
    document.addEventListener("click", (event) => {
      for (const fold of open()) if (!fold.contains(event.target)) fold.open = false;
    });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      for (const fold of open()) {
        const inside = fold.contains(document.activeElement);
        fold.open = false;
        if (inside) fold.querySelector("summary").focus();
      }
    });
    for (const { fold } of parts.values()) {
      fold.addEventListener("focusout", (event) => {
        if (event.relatedTarget && !fold.contains(event.relatedTarget)) fold.open = false;
      });
    }
  }

  function show(state, shown, change) {
    for (const facet of FACETS) {
      const { fold, boxes, chosen, clear } = parts.get(facet.id);
      const values = state.chosen.get(facet.id);
      const found = counts(state, facet.id);
      for (const [value, box] of boxes) {
        box.input.checked = values.has(value);
        box.count.textContent = String(found.get(value) || 0);
        box.label.classList.toggle("none", !found.has(value));
      }
      const only = boxes.size === 1 ? [...boxes.keys()][0] : "all";
      chosen.textContent = values.size === 1 ? [...values][0] : values.size || only;
      fold.classList.toggle("active", values.size > 0);
      clear.disabled = values.size === 0;
    }
    byId("newest").checked = state.newest;
    const all = NNK.model.rows.length;
    byId("count").textContent = `${shown.length} of ${NNK.plural(all, "row")} shown`;
    showChips(state, change);
  }

  function showChips(state, change) {
    const chips = FACETS.flatMap(({ id, label }) =>
      [...state.chosen.get(id)].map((value) => {
        const remove = () => change((next) => next.chosen.get(id).delete(value));
        const name = `Remove the filter ${label.toLowerCase()} ${value}`;
        const text = `${label.toLowerCase()}: ${value} ×`;
        const button = element(
          "button",
          { type: "button", "aria-label": name, onclick: remove },
          text,
        );
        return element("li", {}, button);
      }),
    );
    byId("chips").replaceChildren(...chips);
    byId("reset").hidden = NNK.state.write(state) === "";
  }

  return { build, show };
})();
