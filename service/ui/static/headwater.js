// Charts from the data in the page, copying, and errors of parts of a page. Nothing changes state.
"use strict";

const charts = new Set();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

const UNITS = { s: [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]], B: [[2 ** 30, "GB"], [2 ** 20, "MB"], [1024, "kB"], [1, "B"]] };

const LENGTHS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, ...[1, 2, 5, 7, 10, 14, 28, 100, 365, 1000, 3650].map((days) => days * 86400)];

function written(value, unit) {
  if (value == null) return "–";
  if (unit === "%") return `${+(value * 100).toPrecision(3)} %`;
  for (const [size, name] of UNITS[unit] || []) {
    if (Math.abs(value) >= size) return `${+(value / size).toPrecision(3)} ${name}`;
  }
  return `${+value.toPrecision(4)}${unit && value ? " " + unit : ""}`;
}

// A figure's `data-chart`: {x: [seconds], series: [{label, y: [...]}], unit, limit, bars}.
function draw(figure) {
  const chart = JSON.parse(figure.dataset.chart);
  const place = figure.querySelector(".plot");
  const inks = ["--accent", "--second", "--third", "--bad"].map(colour);
  const line = { stroke: colour("--line"), width: 1 };
  const axis = { stroke: colour("--muted"), grid: line, ticks: line, font: "12px system-ui, sans-serif" };
  const shade = (plot) => {
    if (chart.limit == null) return;
    const { left, top, width, height } = plot.bbox;
    const y = Math.max(top, Math.min(top + height, plot.valToPos(chart.limit, "y", true)));
    plot.ctx.save();
    plot.ctx.fillStyle = colour("--bad-soft");
    const x = plot.data[0], ages = plot.data.at(-1);
    for (let i = 1; i < x.length; i++) {
      if (!(ages[i] > chart.limit)) continue;
      const from = plot.valToPos(x[i - 1], "x", true);
      plot.ctx.fillRect(from, top, plot.valToPos(x[i], "x", true) - from, height);
    }
    plot.ctx.strokeStyle = colour("--bad");
    plot.ctx.setLineDash([4, 4]);
    plot.ctx.beginPath();
    plot.ctx.moveTo(left, y);
    plot.ctx.lineTo(left + width, y);
    plot.ctx.stroke();
    plot.ctx.restore();
  };
  const most = chart.unit === "%" ? 1 : undefined;
  const clock = (seconds, withSeconds) => new Date(seconds * 1000).toISOString().slice(11, withSeconds ? 19 : 16);
  const plot = new uPlot({
    width: Math.max(place.clientWidth, 240),
    height: Number(figure.dataset.height || 180),
    padding: [8, 26, 0, 0],
    legend: { show: chart.series.length > 1 },
    cursor: { y: false },
    scales: { x: { time: true, range: (_, low, high) => [Math.min(low, high - 60), high] }, y: { range: (_, low, high) => [0, most || Math.max(high, chart.limit || 0) * 1.1 || 1] } },
    axes: [{ ...axis, space: 80, values: (plot, all) => all.map((x) => clock(x, plot.scales.x.max - plot.scales.x.min < 600)) }, { ...axis, size: 64, ...(chart.unit === "s" && { incrs: LENGTHS }), values: (_, all) => all.map((value) => written(value, chart.unit)) }],
    series: [{ label: "UTC", value: (_, x) => (x == null ? "–" : clock(x, true)) }, ...chart.series.map(({ label }, i) => ({
      label, stroke: inks[(chart.series.length - 1 - i) % inks.length], width: 1.75, points: { size: 4 },
      value: (_, value) => written(value, chart.unit),
    }))],
    hooks: { drawClear: [shade] },
  }, [chart.x, ...chart.series.map(({ y }) => y)], place);
  charts.add({ figure, plot });
}

function drawAgain() {
  for (const chart of [...charts]) {
    chart.plot.destroy();
    charts.delete(chart);
    if (chart.figure.isConnected) draw(chart.figure);
  }
}

function notify(text) {
  const notice = document.getElementById("notice");
  notice.textContent = text;
  notice.hidden = false;
  clearTimeout(notify.timer);
  notify.timer = setTimeout(() => { notice.hidden = true; }, 5000);
}

// On a phone a cell stands alone, with the name of its column.
function label(table) {
  const names = [...table.querySelectorAll("thead th")].map((th) => th.textContent);
  for (const row of table.querySelectorAll("tbody tr")) {
    let at = 0;
    for (const cell of row.cells) {
      if (cell.tagName === "TD" && cell.colSpan === 1 && names[at]) cell.dataset.label = names[at];
      at += cell.colSpan;
    }
  }
  table.classList.add("labelled");
}

function ready(root) {
  for (const table of [...root.querySelectorAll("table:not(.u-legend)"), root.closest("table")]) {
    if (table && !table.closest(".uplot")) label(table);
  }
  for (const figure of root.querySelectorAll("figure[data-chart]")) {
    if (!figure.querySelector(".plot").hasChildNodes()) draw(figure);
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  const text = document.getElementById(button.dataset.copy).textContent;
  try {
    await navigator.clipboard.writeText(text);
    notify("Copied.");
  } catch {
    // Without TLS a browser has no clipboard: what is selected can be copied by hand.
    getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
    notify("Selected: copy it with the keyboard.");
  }
});
document.addEventListener("DOMContentLoaded", () => ready(document.body));
document.addEventListener("htmx:load", (event) => ready(event.detail.elt));
document.addEventListener("htmx:responseError", (event) => {
  const answer = new DOMParser().parseFromString(event.detail.xhr.responseText, "text/html");
  const told = answer.querySelector("h1, .lead");
  notify(told ? [...answer.querySelectorAll("h1, .lead")].map((e) => e.textContent).join(": ") : "That failed.");
});
document.addEventListener("htmx:sendError", () => notify("The service does not answer."));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAgain);
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  clearTimeout(drawAgain.timer);
  drawAgain.timer = setTimeout(drawAgain, 150);
});
