// What is not a plot: figures at a glance, providers with their workers, turns that run, keys.

import { el, since, table } from "./dom.js";
import * as format from "./format.js";

const hub = document.getElementById("hub");
const acts = new Set(hub.dataset.acts.split(" "));

// A button for whoever may act; see dashboard.js for what it asks and does.
function button(act, text, target, asked) {
  if (!acts.has(act)) return null;
  const key = [act, ...Object.values(target)].join(" ");
  const data = { "data-act": act, "data-target": JSON.stringify(target), "data-ask": asked, "data-key": key };
  const label = `${text}: ${target.pid ? `worker ${target.pid} of ` : ""}${target.provider ?? `turn ${target.turn}`}`;
  return el("button", { type: "button", class: "hub-button", "aria-label": label, ...data }, text);
}

// --- at a glance -----------------------------------------------------------------------------------------------------

export function tiles({ totals }) {
  const { turns, errors, cancelled, priced } = totals;
  const share = turns ? `${((100 * errors) / turns).toFixed(1)} %` : "–";
  return [
    tile("Turns", format.compact(turns), `${format.count(cancelled)} cancelled by their callers`),
    tile("Errors", share, `${format.count(errors)} of ${format.count(turns)} turns`, errors / turns > 0.05),
    tile("Tokens", format.compact(totals.input_tokens + totals.output_tokens), `${format.compact(totals.input_tokens)} in, ${format.compact(totals.output_tokens)} out`),
    tile("Cost", priced ? format.dollars(totals.cost_usd) : "–", priced === turns ? "known of every turn" : `known of ${format.count(priced)} of ${format.count(turns)} turns`),
    tile("First token", format.milliseconds(totals.p50), `95 % within ${format.milliseconds(totals.p95)}`),
  ];
}

const tile = (name, value, note, isBad = false) =>
  el("div", { class: `hub-tile${isBad ? " hub-bad" : ""}`, "data-tile": name }, el("dt", {}, name), el("dd", {}, el("strong", {}, value), el("span", {}, note)));

// --- providers -------------------------------------------------------------------------------------------------------

export function providers(all) {
  if (all === null) return [el("p", { class: "hub-note" }, "No engine runs in this process: start the hub to see its providers here.")];
  return all.map(card);
}

// All providers on a line, each a link to its card.
export function chips(all) {
  return (all ?? []).map((it) => el("li", {}, el("a", { href: `#provider-${it.name}`, "data-key": `chip ${it.name}` }, it.name), " ", badge(it)));
}

function badge(it) {
  const word = it.is_drained ? "drained" : it.state.replaceAll("_", " ");
  const other = { cooling_down: "warn", disabled: "off" }[it.state] ?? "bad";
  const kind = it.is_drained ? "off" : it.is_serving ? "good" : other;
  return el("span", { class: `hub-state hub-${kind}`, "data-state": it.state }, word);
}

function card(it) {
  return el(
    "article",
    { class: "hub-card", id: `provider-${it.name}`, "data-provider": it.name, "aria-label": it.name },
    el("header", {}, el("h3", {}, it.name), badge(it), el("span", { class: "hub-quiet" }, "for ", since(it.since))),
    el("p", { class: "hub-quiet" }, [it.title, it.version].filter(Boolean).join(" ")),
    it.why ? el("p", { class: "hub-why" }, it.why, it.mend ? `. To mend it: ${it.mend}` : "") : null,
    it.cooldown_until ? el("p", { class: "hub-why" }, `Cools down until ${format.moment(it.cooldown_until)} UTC`) : null,
    it.pool ? pool(it.pool) : null,
    it.windows.map(usageWindow),
    buttons(it),
    it.workers.length ? workers(it) : null,
  );
}

function pool(it) {
  const share = Math.min(100, (100 * it.busy) / Math.max(1, it.ceiling));
  const words = `${it.live} of ${it.ceiling} workers, ${it.busy} busy${it.starting ? `, ${it.starting} starting` : ""}`;
  const queue = it.waiting ? el("strong", {}, `${it.waiting} waiting`) : "nobody waits";
  return el("div", { class: "hub-meter" }, meter(share, `${it.busy} of ${it.ceiling} workers busy`), el("p", {}, words, ", ", queue, `, ${format.megabytes(it.rss_bytes)}`));
}

function usageWindow(it) {
  const used = it.used === null ? it.status : `${Math.round(100 * it.used)} % used`;
  const resets = it.resets_at ? `, resets ${format.moment(it.resets_at)} UTC` : "";
  const bar = it.used === null ? null : meter(Math.min(100, 100 * it.used), `usage window ${it.name}`, it.used > 0.8);
  return el("div", { class: "hub-meter", "data-window": it.name }, bar, el("p", {}, `${it.name.replaceAll("_", " ")}: ${used}${resets}`));
}

// No style attribute: the bar's length is the browser's own.
const meter = (percent, label, isFull = false) =>
  el("progress", { max: 100, value: percent, "aria-label": label, class: isFull ? "hub-full" : null });

// States that are forgotten by the owner's will.
const FORGETTABLE = ["cooling_down", "crash_loop", "needs_login", "unsupported_account"];

function buttons(it) {
  const target = { provider: it.name };
  const drain = it.is_drained
    ? button("undrain", "Undrain", target, `Let ${it.name} have turns again, in every hub?`)
    : button("drain", "Drain", target, `Send ${it.name} no new turns, in no hub? Those it has end first.`);
  const all = [
    it.pool && button("restart", "Restart", target, `Give ${it.name} new workers in every hub? Turns end on the old ones.`),
    drain,
    it.cooldown_until || FORGETTABLE.includes(it.state) ? button("clear_cooldown", "Clear cooldown", target, `Forget what ${it.name}'s vendor or its last failure said? The next turn tries.`) : null,
  ].filter(Boolean);
  return all.length ? el("div", { class: "hub-buttons" }, all) : null;
}

function workers({ name, workers: all }) {
  const canAct = acts.has("replace_worker");
  const heads = ["pid", "state", "age", "turns", "memory", ...(canAct ? ["action"] : [])];
  const rows = all.map((it) => [
    String(it.pid),
    it.is_unwanted ? `${it.state}, goes` : it.state,
    since(it.started_at),
    format.count(it.turns),
    format.megabytes(it.rss_bytes),
    ...(canAct ? [button("replace_worker", "Restart", { provider: name, pid: it.pid }, `Let worker ${it.pid} of ${name} go? A turn it has ends first; another starts when one is needed.`)] : []),
  ]);
  return el("details", { "data-key": `workers ${name}`, open: all.length <= 4 }, el("summary", {}, `Workers (${all.length})`), table(`Workers of ${name}`, heads, rows, ""));
}

// --- turns and keys --------------------------------------------------------------------------------------------------

export function turns(all) {
  const canStop = acts.has("stop_turn");
  const heads = ["age", "key", "owner", "provider, model", "state", "came so far", "by", ...(canStop ? ["action"] : [])];
  const rows = all.map((it) => [
    since(it.began_at),
    it.key || "–",
    it.owner,
    [it.provider, it.model].filter(Boolean).join(", "),
    it.is_stopping ? "stopping" : it.is_answering ? "answering" : "waiting",
    `${format.count(it.chars)} characters`,
    it.door,
    ...(canStop ? [button("stop_turn", "Stop", { turn: it.id }, `Stop this turn of ${it.key || it.owner}? Its caller gets an error.`)] : []),
  ]);
  return table("Turns that run in this hub", heads, rows, "No turn runs at the moment.");
}

export function keys(all) {
  const heads = ["key", "owner", "turns", "tokens", "cost", "errors"];
  const rows = all.map((it) => [keyLink(it), it.owner || "–", format.count(it.turns), format.compact(it.tokens), format.dollars(it.cost_usd), format.count(it.errors)]);
  return table("Busiest keys today", heads, rows, "No turn today.");
}

const keyLink = (it) => (it.owner ? el("a", { href: `${hub.dataset.keyList}${it.id}/change/`, "data-key": `key ${it.id}` }, it.name) : it.name);
