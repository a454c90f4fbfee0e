// Keeps the dashboard fresh while somebody looks at it, and does what an operator confirms.

import { show } from "./dom.js";
import * as format from "./format.js";
import * as panels from "./panels.js";
import { drawPlots } from "./plots.js";

const NOW_EVERY_MS = 3_000;
const FIGURES_EVERY_MS = 5_000;
const TICK_MS = 1_000;

const hub = document.getElementById("hub");
const place = (name) => document.getElementById(`hub-${name}`);
const seesTurns = hub.dataset.sees.includes("turns");
let span = "day";
let clockOff = 0; // by how many seconds this browser's clock is behind the hub's
let isPaused = false;
let running = "";

// --- asking ----------------------------------------------------------------------------------------------------------

const tags = new Map();

// The answer's data; undefined if it is as before. Raises an Error in words.
async function ask(url) {
  const response = await fetch(url, { cache: "no-store", headers: tags.has(url) ? { "If-None-Match": tags.get(url) } : {} });
  const time = Number(response.headers.get("X-Hub-Time"));
  if (time) clockOff = time - Date.now() / 1_000;
  if (response.status === 304) return undefined;
  if (response.redirected || !response.headers.get("Content-Type")?.includes("json")) throw new Error("you are signed out: reload the page");
  if (!response.ok) throw new Error((await response.json()).message ?? `the hub answered ${response.status}`);
  tags.set(url, response.headers.get("ETag"));
  return response.json();
}

async function lookNow() {
  const now = await ask(hub.dataset.now);
  if (now === undefined) return;
  show(place("here"), now.hub, ({ host, pid, version, started_at }) => `This hub: ${host}, process ${pid}, version ${version}, since ${format.moment(started_at)} UTC`);
  if ("providers" in now) {
    show(place("providers"), now.providers, panels.providers);
    show(place("chips"), now.providers?.map(({ name, state, is_serving, is_drained }) => ({ name, state, is_serving, is_drained })), panels.chips);
  }
  if ("turns" in now) {
    show(place("turns"), now.turns, panels.turns);
    const ids = now.turns.map((it) => it.id).join(" ");
    if (ids !== running) figuresDue = 0; // one has ended or begun: there are new figures soon
    running = ids;
  }
}

async function lookAtFigures() {
  const asked = span;
  const figures = await ask(`${hub.dataset.figures}?span=${asked}`);
  if (figures === undefined || asked !== span) return;
  show(place("tiles"), figures, panels.tiles);
  drawPlots(place("plots"), figures);
  if (figures.keys) show(place("keys"), figures.keys, panels.keys);
}

// --- again and again -------------------------------------------------------------------------------------------------

let figuresDue = 0;
let timer;
let isLooking = false;

async function look() {
  if (isLooking) return;
  isLooking = true;
  clearTimeout(timer);
  try {
    await lookNow();
    if (seesTurns && Date.now() >= figuresDue) {
      figuresDue = Date.now() + FIGURES_EVERY_MS;
      await lookAtFigures();
    }
    tell("live", "Live");
  } catch (error) {
    tell("trouble", error instanceof TypeError ? "The hub can't be reached; trying again" : `Not fresh: ${error.message}`);
  }
  isLooking = false;
  tick();
  if (!isPaused && !document.hidden) timer = setTimeout(look, NOW_EVERY_MS);
}

function tell(state, words) {
  const live = place("live");
  live.dataset.state = isPaused ? "paused" : state;
  live.textContent = isPaused ? "Paused" : words;
}

function tick() {
  const now = Date.now() / 1_000 + clockOff;
  for (const it of hub.querySelectorAll("[data-since]")) it.textContent = format.age(now - Number(it.dataset.since));
}

setInterval(() => document.hidden || tick(), TICK_MS);
document.addEventListener("visibilitychange", () => (document.hidden || isPaused ? clearTimeout(timer) : look()));

place("pause").addEventListener("click", ({ currentTarget }) => {
  isPaused = !isPaused;
  currentTarget.setAttribute("aria-pressed", String(isPaused));
  clearTimeout(timer);
  if (isPaused) tell("paused", "Paused");
  else look();
});

for (const button of hub.querySelectorAll("[data-span]")) {
  button.addEventListener("click", () => {
    span = button.dataset.span;
    for (const it of hub.querySelectorAll("[data-span]")) it.setAttribute("aria-pressed", String(it === button));
    tags.delete(`${hub.dataset.figures}?span=${span}`);
    figuresDue = 0;
    look();
  });
}

// --- acting ----------------------------------------------------------------------------------------------------------

hub.addEventListener("click", async ({ target }) => {
  const button = target.closest("[data-act]");
  if (!button || button === hub) return;
  const { act, ask: question, key } = button.dataset;
  const form = new FormData();
  for (const [name, value] of Object.entries({ act, ...JSON.parse(button.dataset.target) })) form.set(name, value);
  if (await isConfirmed(button.textContent, question)) await send(form);
  hub.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
});

function isConfirmed(title, question) {
  const dialog = place("ask");
  place("ask-title").textContent = title;
  place("ask-text").textContent = question;
  place("ask-yes").textContent = title;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

async function send(form) {
  const said = place("said");
  const token = hub.querySelector("[name=csrfmiddlewaretoken]").value;
  try {
    const response = await fetch(hub.dataset.act, { method: "POST", body: form, headers: { "X-CSRFToken": token } });
    said.dataset.state = response.ok ? "good" : "bad";
    said.textContent = (await response.json()).message;
  } catch {
    said.dataset.state = "bad";
    said.textContent = "The hub can't be reached: nothing is known to have been done.";
  }
  clearTimeout(timer);
  await look();
}

look();
