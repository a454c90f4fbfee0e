// The plots, drawn by Chart.js (it comes with the theme), each with its figures as a table below.

import { el, show, table } from "./dom.js";
import * as format from "./format.js";

const COLOURS = ["#0b74b8", "#d9730d", "#0f8a5f", "#9646d8", "#d13d3d", "#0c8ea3", "#a77b06", "#c9378f"];
const plots = new Map();

const sum = (lists, places) => Array.from({ length: places }, (_, at) => lists.reduce((all, it) => all + it[at], 0));

function bars(figures, series) {
  return Object.entries(series).map(([name, data], place) => ({
    label: name,
    data,
    type: "bar",
    stack: "all",
    backgroundColor: COLOURS[place % COLOURS.length],
    borderRadius: 2,
    maxBarThickness: 28,
  }));
}

const byProvider = (figures, column) =>
  Object.fromEntries(Object.entries(figures.providers).map(([name, it]) => [name || "none", it[column]]));

function times(figures) {
  return Object.entries(figures.providers).flatMap(([name, it], place) => {
    const line = { type: "line", borderColor: COLOURS[place % COLOURS.length], borderWidth: 2, tension: 0.25, pointRadius: 2, spanGaps: false };
    return [
      { ...line, label: `${name || "none"}, 50 %`, data: it.p50, backgroundColor: line.borderColor },
      { ...line, label: `${name || "none"}, 95 %`, data: it.p95, borderDash: [5, 4], backgroundColor: "transparent" },
    ].filter((set) => set.data.some((ms) => ms !== null));
  });
}

function tokens(figures) {
  const all = Object.values(figures.providers);
  const of = (column) => sum(all.map((it) => it[column]), figures.times.length);
  return { "in": of("input_tokens"), out: of("output_tokens") };
}

const PLOTS = [
  { id: "turns", title: "Turns", sets: (it) => bars(it, byProvider(it, "turns")), write: format.count },
  { id: "first", title: "Time to the first token", sets: times, write: format.milliseconds },
  { id: "tokens", title: "Tokens", sets: (it) => bars(it, tokens(it)), write: format.compact },
  { id: "cost", title: "Cost", sets: (it) => bars(it, byProvider(it, "cost_usd")), write: format.dollars },
  { id: "errors", title: "Errors by code", sets: (it) => bars(it, it.errors), write: format.count, none: "No errors. " },
];

export function drawPlots(place, figures) {
  for (const it of PLOTS) drawPlot(plots.get(it.id) ?? makePlot(place, it), it, figures);
}

function makePlot(place, { id, title }) {
  const canvas = el("canvas", { role: "img" });
  const figures = el("div");
  const details = el("details", { class: "hub-figures" }, el("summary", {}, `${title} as a table`), figures);
  const note = el("p", { class: "hub-none", hidden: true });
  const box = el("div", { class: "hub-canvas" }, canvas, note);
  place.append(el("section", { class: "hub-plot", "data-plot": id, "aria-label": title }, el("h3", {}, title), box, details));
  const plot = { canvas, figures, note, chart: null };
  plots.set(id, plot);
  return plot;
}

function drawPlot(plot, { title, sets, write, none }, figures) {
  const datasets = sets(figures);
  const labels = figures.times.map(format.label[figures.span]);
  plot.chart ??= new Chart(plot.canvas, options(write));
  plot.chart.data = { labels, datasets };
  plot.chart.update("none");
  const isEmpty = !datasets.some((it) => it.data.some((value) => value));
  plot.note.hidden = !isEmpty;
  plot.note.textContent = `${none ?? "Nothing in this time. "}`;
  plot.canvas.setAttribute("aria-label", `${title}: ${told(datasets, write)}. The table below has every figure.`);
  show(plot.figures, { labels, datasets: datasets.map(({ label, data }) => ({ label, data })) }, (data) => asTable(title, data, write));
}

function told(datasets, write) {
  const parts = datasets.map(({ label, data, type }) => {
    const known = data.filter((it) => it !== null);
    const value = type === "bar" ? known.reduce((all, it) => all + it, 0) : known.at(-1);
    return `${label} ${write(value ?? 0)}`;
  });
  return parts.join(", ") || "nothing";
}

function asTable(title, { labels, datasets }, write) {
  const rows = labels.map((label, at) => [label, ...datasets.map(({ data }) => (data[at] === null ? "–" : write(data[at])))]);
  return table(`${title}, times in UTC`, ["from (UTC)", ...datasets.map((it) => it.label)], datasets.length ? rows : [], "Nothing in this time.");
}

// --- looks -----------------------------------------------------------------------------------------------------------

function options(write) {
  const { ink, line } = colours();
  return {
    type: "bar",
    data: { labels: [], datasets: [] },
    options: {
      animation: false,
      responsive: true,
      maintainAspectRatio: false,
      interaction: { mode: "index", intersect: false },
      plugins: {
        legend: { position: "bottom", labels: { color: ink, boxWidth: 12, boxHeight: 12 } },
        tooltip: { callbacks: { label: ({ dataset, raw }) => ` ${dataset.label}: ${raw === null ? "–" : write(raw)}` } },
      },
      scales: {
        x: { grid: { display: false }, ticks: { color: ink, maxRotation: 0, autoSkipPadding: 12 } },
        y: { beginAtZero: true, grid: { color: line }, border: { display: false }, ticks: { color: ink, maxTicksLimit: 6, callback: ticks(write) } },
      },
    },
  };
}

// Half a turn is no number of turns.
const ticks = (write) => (value) => (write === format.count && !Number.isInteger(value) ? null : write(value));

function colours() {
  const style = getComputedStyle(document.getElementById("hub"));
  return { ink: style.getPropertyValue("--hub-quiet"), line: style.getPropertyValue("--hub-line") };
}

function recolour() {
  const { ink, line } = colours();
  for (const { chart } of plots.values()) {
    if (!chart) continue;
    const { legend } = chart.options.plugins;
    const { x, y } = chart.options.scales;
    legend.labels.color = x.ticks.color = y.ticks.color = ink;
    y.grid.color = line;
    chart.update("none");
  }
}

// The theme's switch between light and dark changes the class of the whole page.
new MutationObserver(recolour).observe(document.documentElement, { attributeFilter: ["class"] });
