// What every part of the page uses: making elements, and writing numbers.
"use strict";
window.NNK = {};

// An element with properties and children. Text goes in as text, never as HTML.
NNK.element = function (tag, properties, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
};

NNK.byId = (id) => document.getElementById(id);

// ---- numbers -------------------------------------------------------------------------------

// Three digits, without an exponent where that can be.
NNK.digits = (value) => String(Number(value.toPrecision(3)));

NNK.duration = function (seconds) {
  for (const [unit, scale] of [["s", 1], ["ms", 1e-3], ["us", 1e-6]]) {
    if (seconds >= scale) return `${NNK.digits(seconds / scale)} ${unit}`;
  }
  return `${NNK.digits(seconds / 1e-9)} ns`;
};

NNK.times = (ratio) => (ratio === null ? "" : `${ratio.toFixed(2)}x`);
NNK.percent = (share) => (share === null ? "" : `${(100 * share).toFixed(0)}%`);
NNK.giga = (rate) => (rate === null ? "" : NNK.digits(rate / 1e9));
NNK.plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

NNK.timing = function (timing, wantedOut) {
  if (!timing || timing.status === "missing") return "-";
  if (timing.status !== "ok") return timing.status.toUpperCase();
  const spread = (50 * (timing.p75_s - timing.p25_s)) / timing.median_s;
  const mark = wantedOut && !timing.out ? "*" : "";
  return `${NNK.duration(timing.median_s)}${mark} ±${spread.toFixed(0)}%`;
};

NNK.met = (met) => (met === null ? "not measured" : met ? "✓ met" : "✗ missed");

NNK.asked = function (target) {
  if (target.kind === "seconds") return `at most ${NNK.duration(target.limit)}`;
  return `${NNK.digits(target.limit)}x ${target.kind.replace(/^times /, "")}`;
};

NNK.geometricMean = function (values) {
  if (!values.length) return null;
  return Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length);
};

NNK.median = function (values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length / 2;
  return (sorted[Math.ceil(half) - 1] + sorted[Math.floor(half)]) / 2;
};

// ---- collections ---------------------------------------------------------------------------

NNK.groupBy = function (items, key) {
  const groups = new Map();
  for (const item of items) {
    const name = key(item);
    if (groups.has(name)) groups.get(name).push(item);
    else groups.set(name, [item]);
  }
  return groups;
};

// Names in the order of a reader: 64x64 before 256x256.
NNK.byName = new Intl.Collator("en", { numeric: true }).compare;
