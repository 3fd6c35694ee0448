"use strict";
// The state of the page, and what follows from it; Vega-Lite draws, this hands it data and wishes.
const DATA = JSON.parse(document.getElementById("data").textContent);
const state = { lift: -1, seed: -1, at: 0, loss: DATA.losses[0], scale: "log", size: "params" };
const NAMES = { train: "training", test: "held-out" };
const views = {};
const find = (selector) => [...document.querySelectorAll(selector)];
const tables = Object.fromEntries(Object.entries(DATA.tables).map(([name, { columns, rows }]) =>
  [name, rows.map((row) => Object.fromEntries(columns.map((column, i) => [column, row[i]])))]));

const raised = (text) => [...String(text)].map((c) => c === "-" ? "\u207b" : "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"[c]).join("");
function power(value, least = 1e4) {
  if (value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < least)) return String(Number.isInteger(value) ? value : Number(value.toPrecision(3)));
  const [digits, exponent] = value.toExponential(2).split("e").map(Number);
  return (digits === 1 ? "" : digits + "\u00b7") + "10" + raised(exponent);
}

/** A figure's specification as the page's state has it: words replaced, sizes chosen, the scale of losses. */
function wished(name) {
  const spec = DATA.charts[name], heights = DATA.heights[name];
  const words = (text) => text.replaceAll("@loss", state.loss).replaceAll("@name", NAMES[state.loss]);
  const walk = (part) => {
    if (Array.isArray(part)) return part.map(walk);
    if (typeof part === "string") return words(part);
    if (part === null || typeof part !== "object") return part;
    if (part.field === "@loss" && part.scale && heights) part = { ...part, ...heights[state.loss] };
    if (part.field === "@size") return { ...part, ...DATA.sizes[state.size] };
    const found = Object.fromEntries(Object.entries(part).map(([key, value]) => [key, walk(value)]));
    if (state.scale === "linear" && found.y && found.y.scale && found.y.scale.type === "log" && !found.y.scale.base)
      found.y = { ...found.y, scale: { type: "linear", zero: true }, axis: { labelExpr: "power(datum.value)", tickCount: 6 } };
    return found;
  };
  const made = walk(spec);
  const start = { lift: state.lift, seed: state.seed, at: state.at, headline: state.loss === DATA.losses[0], linear: state.scale === "linear" };
  for (const parameter of made.params) if (parameter.name in start) parameter.value = start[parameter.name];
  return { ...made, datasets: { ...made.datasets, ...tables } };
}

const CONFIG = {
  background: null, font: "system-ui, sans-serif", view: { stroke: null },
  axis: { labelFontSize: 11.5, titleFontSize: 12, titleFontWeight: 400, titlePadding: 8, tickSize: 4, labelPadding: 4, labelFlush: false, labelOverlap: "greedy" },
  legend: { labelFontSize: 11.5, titleFontSize: 12, titleFontWeight: 400, offset: 6, columns: innerWidth < 560 ? 2 : 3, rowPadding: 3, labelLimit: Math.min(420, innerWidth - 110) },
  range: { ordinal: DATA.lifts.map((_, i) => `var(--l${i})`) },
};

/** What hovering shows: no line for what is not there, numbers as elsewhere on the page. */
function told(values, clean) {
  const lines = Object.entries(values).filter(([, value]) => value !== "null" && value !== null);
  const shown = (value) => /^[\d.]+e[+-]?\d+$/.test(value) ? power(Number(value)) : String(value);
  return `<table>${lines.map(([key, value]) => `<tr><td class="key">${clean(key)}</td><td class="value">${clean(shown(value))}</td></tr>`).join("")}</table>`;
}

async function draw(name) {
  const place = document.querySelector(`[data-chart="${name}"]`);
  const { view } = await vegaEmbed(place, wished(name), { actions: false, renderer: "svg", config: CONFIG, tooltip: { theme: "custom", formatTooltip: told }, expressionFunctions: { power } });
  views[name] = view;
  place.firstElementChild?.setAttribute("aria-label", DATA.charts[name].description);
  view.addEventListener("click", (_, item) => {
    const row = item && item.datum;
    if (!row || row.lift === undefined) return follow(-1, -1);
    const seed = row.seed ?? state.seed;
    follow(...(row.lift === state.lift && seed === state.seed ? [-1, -1] : [row.lift, seed]));
  });
}
const drawAll = () => Promise.all(Object.keys(DATA.charts).map(draw));

function signal(name, value) {
  for (const view of Object.values(views)) { view.signal(name, value); view.runAsync(); }
}
function follow(lift, seed) {
  Object.assign(state, { lift, seed });
  signal("lift", lift); signal("seed", seed);
  show();
}

/** Buttons, the seed's list, the slider and the table as the state has them. */
function show() {
  for (const chip of find("[data-lift]")) chip.setAttribute("aria-pressed", Number(chip.dataset.lift) === state.lift);
  const seeds = document.getElementById("seed");
  if (seeds) seeds.value = String(state.seed);
  for (const button of find("[data-key]")) button.setAttribute("aria-pressed", state[button.dataset.key] === button.dataset.value);
  list();
}

for (const chip of find("[data-lift]"))
  chip.onclick = () => follow(Number(chip.dataset.lift) === state.lift ? -1 : Number(chip.dataset.lift), state.seed);
const seeds = document.getElementById("seed");
if (seeds) seeds.onchange = () => follow(state.lift, Number(seeds.value));
for (const button of find("[data-key]"))
  button.onclick = () => { state[button.dataset.key] = button.dataset.value; show(); drawAll(); };
document.addEventListener("keydown", (event) => { if (event.key === "Escape") follow(-1, -1); });

const slider = document.getElementById("at");
if (slider) {
  const times = new Map(tables.isochrones.map((row) => [row.k, row.label]));
  slider.oninput = () => {
    state.at = Number(slider.value);
    const reached = Math.max(...tables.isochrones.filter((row) => row.k === state.at).map((row) => row.seeds));
    const label = times.get(state.at) ?? "";
    document.getElementById("at-shown").textContent = label;
    slider.setAttribute("aria-valuetext", `${label}, up to ${reached} seeds a lift`);
    signal("at", state.at);
  };
  state.at = Number(slider.value);
}

// The table of runs: sorted by a column, filtered by words, a stretch at a time.
const table = document.getElementById("runs");
const order = { column: null, down: false };
let most = 60;
const cell = (value) => value === null ? "" : typeof value === "number" ? power(value, 1e7) : value;
function list() {
  if (!table) return;
  const words = document.getElementById("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const status = document.getElementById("status").value;
  let rows = tables.runs.filter((row) => (!status || row.status === status || row.stop === status)
    && (state.lift < 0 || row.lift === state.lift) && (state.seed < 0 || row.seed === state.seed)
    && words.every((word) => Object.values(row).some((value) => value !== null && String(cell(value)).toLowerCase().includes(word))));
  if (order.column) {
    const sign = order.down ? -1 : 1, key = order.column;
    rows = [...rows].sort((a, b) => a[key] === null ? 1 : b[key] === null ? -1 : a[key] < b[key] ? -sign : a[key] > b[key] ? sign : 0);
  }
  const shown = document.createDocumentFragment();
  for (const row of rows.slice(0, most)) {
    const line = document.createElement("tr");
    for (const { key, text } of DATA.columns) {
      const place = line.insertCell();
      place.textContent = cell(row[key]);
      if (text) place.className = "text";
    }
    line.onclick = () => follow(...(state.lift === row.lift && state.seed === row.seed ? [-1, -1] : [row.lift, row.seed]));
    shown.append(line);
  }
  table.tBodies[0].replaceChildren(shown);
  document.getElementById("count").textContent = `${Math.min(most, rows.length)} of ${rows.length} runs shown`
    + (rows.length < tables.runs.length ? `, ${tables.runs.length} listed` : "");
  document.getElementById("more").hidden = rows.length <= most;
}
if (table) {
  for (const heading of table.tHead.rows[0].cells)
    heading.querySelector("button").onclick = () => {
      const key = heading.dataset.column;
      Object.assign(order, order.column === key ? { down: !order.down } : { column: key, down: false });
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", order.down ? "descending" : "ascending");
      list();
    };
  document.getElementById("filter").oninput = list;
  document.getElementById("status").onchange = list;
  document.getElementById("more").onclick = () => { most = most * 4; list(); };
}

// Lines to paste, and what the page holds as files.
for (const button of find(".paste button"))
  button.onclick = async () => {
    try { await navigator.clipboard.writeText(button.previousElementSibling.textContent); button.textContent = "copied"; }
    catch { getSelection().selectAllChildren(button.previousElementSibling); button.textContent = "selected"; }
  };
function save(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
}
for (const button of find("[data-file]"))
  button.onclick = () => save(button.dataset.file, "text/plain", DATA.files[button.dataset.file]);

if (DATA.refresh) setTimeout(() => location.reload(), 1000 * DATA.refresh);
show();
document.body.dataset.drawn = "no";
drawAll().then(() => { if (slider) slider.oninput(); document.body.dataset.drawn = "yes"; });
