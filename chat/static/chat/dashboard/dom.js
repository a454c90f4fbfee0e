// Elements from plain data. Text only ever becomes text, never markup.

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "onclick") made.addEventListener("click", value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.flat().filter((it) => it !== null && it !== undefined && it !== false));
  return made;
}

// Put new content into a place, only if its data is other than before. What has the focus and which details are open
// stays: both are found again by their data-key.
const shown = new WeakMap();

export function show(place, data, draw) {
  const now = JSON.stringify(data);
  if (!place || shown.get(place) === now) return;
  shown.set(place, now);
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  const open = new Set([...place.querySelectorAll("details[open][data-key]")].map((it) => it.dataset.key));
  place.replaceChildren(...[draw(data)].flat());
  for (const it of place.querySelectorAll("[data-key]")) {
    if (it.tagName === "DETAILS" && open.has(it.dataset.key)) it.open = true;
    if (it.dataset.key === focused) it.focus({ preventScroll: true });
  }
}

export function table(caption, heads, rows, empty) {
  if (!rows.length) return el("p", { class: "hub-note" }, empty);
  const head = el("thead", {}, el("tr", {}, heads.map((it) => el("th", { scope: "col" }, it))));
  const body = el("tbody", {}, rows.map(([first, ...rest]) => line(heads, first, rest)));
  const whole = el("table", {}, el("caption", { class: "hub-hidden" }, caption), head, body);
  // A region that scrolls has to be reached with the keyboard, too.
  return el("div", { class: "hub-table", tabindex: 0, role: "region", "aria-label": caption }, whole);
}

function line(heads, first, rest) {
  const cells = rest.map((it, place) => el("td", { "data-head": heads[place + 1] }, it));
  return el("tr", {}, el("th", { scope: "row" }, first), cells);
}

// An age that goes on by itself; see tick().
export function since(unix) {
  return el("time", { "data-since": unix, datetime: new Date(unix * 1_000).toISOString() });
}
