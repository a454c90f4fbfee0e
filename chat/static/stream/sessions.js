// The list of earlier conversations, the last used first.

import { $, el, show } from "./dom.js";

const HOUR_MS = 3600000;
const times = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });

function ago(moment) {
  const ms = Date.parse(moment) - Date.now();
  if (ms > -60000) return "just now";
  if (ms > -HOUR_MS) return times.format(Math.round(ms / 60000), "minute");
  if (ms > -24 * HOUR_MS) return times.format(Math.round(ms / HOUR_MS), "hour");
  return times.format(Math.round(ms / (24 * HOUR_MS)), "day");
}

export class SessionList {
  #sessions = [];
  #next = null;
  #current = "";
  #running = new Set();

  constructor(socket) {
    this.socket = socket;
    $("more").addEventListener("click", () => this.#load(this.#next));
  }

  renew() {
    return this.#load("");
  }

  async #load(after) {
    let page;
    try {
      page = await this.socket.ask({ type: "sessions", after: after ?? "" });
    } catch {
      return; // without the list one can still talk; it is asked for again with the next news
    }
    const shown = new Set(page.data.map((it) => it.session_id));
    const older = after ? this.#sessions.filter((it) => !shown.has(it.session_id)) : [];
    this.#sessions = after ? [...older, ...page.data] : page.data;
    this.#next = page.next;
    this.#draw();
  }

  titleOf(session) {
    return this.#sessions.find((it) => it.session_id === session)?.title ?? "";
  }

  choose(session) {
    this.#current = session;
    this.#draw();
  }

  setRunning(sessions) {
    const names = new Set(sessions);
    if (names.size === this.#running.size && [...names].every((it) => this.#running.has(it))) return;
    this.#running = names;
    this.#draw();
  }

  #draw() {
    show($("no-sessions"), !this.#sessions.length);
    show($("more"), Boolean(this.#next));
    const focused = document.activeElement?.dataset?.session;
    $("sessions").replaceChildren(...this.#sessions.map((it) => this.#item(it)));
    if (focused) $("sessions").querySelector(`[data-session="${CSS.escape(focused)}"]`)?.focus();
  }

  #item(session) {
    const isRunning = this.#running.has(session.session_id);
    const about = `${session.provider ?? ""} · ${isRunning ? "answering …" : ago(session.updated_at)}`;
    const link = el("a", {
      href: `#s=${encodeURIComponent(session.session_id)}`,
      "data-session": session.session_id,
      "aria-current": session.session_id === this.#current ? "page" : null,
    }, el("span", { class: "name" }, session.title || session.session_id), el("span", { class: "about" }, about));
    return el("li", {}, link);
  }
}
