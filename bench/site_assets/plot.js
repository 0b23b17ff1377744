// What the charts share: colours of the page's theme, layout, and drawing into a figure.
"use strict";
NNK.plot = (function () {
  const { byId } = NNK;
  const SYMBOLS = "circle diamond square triangle-up cross star hexagon pentagon".split(" ");
  const PEERS = ["torch", "numpy", "cupy", "scipy"];

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Eight colours that colour-blind readers tell apart; the style sheet has them for both themes.
  const colour = (index) => css(`--series-${index % 8}`);
  // The ninth has the first one's colour, and another symbol.
  const symbol = (index) => SYMBOLS[(index + Math.floor(index / 8)) % 8];

  // A peer keeps its colour whoever else is there.
  function peerIndex(name) {
    const known = PEERS.indexOf(name);
    return known >= 0 ? known : PEERS.length + NNK.model.peers.indexOf(name);
  }

  // Plotly reads some HTML in texts.
  const plain = (text) =>
    String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  const isNarrow = () => document.documentElement.clientWidth < 640;

  function axis(title, more) {
    return {
      title: { text: title, font: { size: 12 }, standoff: 8 },
      gridcolor: css("--grid"),
      linecolor: css("--line"),
      zeroline: false,
      automargin: true,
      ...more,
    };
  }

  const legend = { orientation: "h", x: 0, xanchor: "left" };

  function layout(more) {
    return {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: css("--font"), size: 12, color: css("--text") },
      margin: { l: 56, r: 16, t: 8, b: 44 },
      hoverlabel: {
        bgcolor: css("--raised"),
        bordercolor: css("--line"),
        font: { family: css("--font"), size: 12, color: css("--text") },
        align: "left",
      },
      legend: { ...legend, y: 1, yanchor: "bottom", font: { size: 12 } },
      hovermode: "closest",
      dragmode: isNarrow() ? false : "zoom",
      ...more,
    };
  }

  // Replace a figure; without traces, say so in its place.
  function draw(id, traces, wanted, spoken, empty) {
    const place = byId(id);
    place.setAttribute("aria-label", traces.length ? spoken : empty);
    if (!traces.length) {
      Plotly.purge(place);
      place.style.height = "auto";
      place.replaceChildren(NNK.element("p", { class: "empty" }, empty));
      return;
    }
    if (place.querySelector(".empty")) place.replaceChildren();
    place.style.height = `${wanted.height}px`;
    Plotly.react(place, traces, layout(wanted), {
      responsive: true,
      displaylogo: false,
      displayModeBar: false,
    });
  }

  return { css, colour, symbol, peerIndex, plain, isNarrow, axis, legend, draw };
})();
