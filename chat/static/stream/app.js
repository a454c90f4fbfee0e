// The page: who is there, which conversation is shown, which turns run.

import { $, el, kept, newName, show, tell } from "./dom.js";
import { Composer } from "./composer.js";
import { SessionList } from "./sessions.js";
import { Refused, Socket } from "./socket.js";
import { drawStored, TurnView } from "./turn.js";
import { closeMenu } from "./frame.js";
import { showProviders } from "./welcome.js";

const NEW = "New conversation";
const PROVIDERS_EVERY_MS = 20000;
const NEAR_END_PX = 80;
const NO_ENTRY = new Set(["missing_api_key", "invalid_api_key", "too_many_failed_attempts"]);

const state = {
  session: "", // what is shown; empty for a conversation without its first answer
  turns: new Map(), // by their names; those of other conversations, too
  pending: new Map(), // questions of which nothing was heard yet
  sticks: true, // whether the view follows the newest words
};

const socket = new Socket({ state: showLink, ready: onReady, event: onEvent, refused: onRefused });
const composer = new Composer({ send, stop });
const sessions = new SessionList(socket);

// --- who is there -------------------------------------------------------------------------------------------------

function start() {
  const key = kept.get("key");
  if (key) useKey(key);
  else if (document.body.dataset.user) socket.open("");
  else askWho("");
}

function useKey(key) {
  show($("forget-key"), true);
  socket.open(key);
}

function askWho(complaint) {
  $("sign-in-error").textContent = complaint;
  show($("sign-in-error"), Boolean(complaint));
  for (const id of ["composer", "welcome", "new", "earlier"]) show($(id), false);
  $("log").replaceChildren();
  show($("sign-in"), true);
  (complaint ? $("key") : $("log-in")).focus();
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = $("key").value.trim();
  kept.set("key", $("keep-key").checked ? key : "");
  $("key").value = "";
  useKey(key);
});

function forget() {
  kept.set("key", "");
  kept.set("turn", "");
  socket.close();
  location.replace(location.pathname);
}

$("forget-key").addEventListener("click", forget);
$("logout")?.addEventListener("submit", () => { kept.set("key", ""); kept.set("turn", ""); });

async function onReady(ready) {
  show($("sign-in"), false);
  for (const id of ["composer", "new", "earlier"]) show($(id), true);
  $("who").textContent = ready.by === "login" ? `Logged in as ${ready.owner}` : `With the key ${ready.name}`;
  composer.limit(ready);
  composer.setConnected(true);
  sessions.renew();
  renewProviders();
  await comeBack();
}

function onRefused(error) {
  if (NO_ENTRY.has(error.code)) {
    kept.set("key", "");
    askWho(error.message);
  } else {
    composer.complain(error.message);
  }
}

function showLink(name, waitS) {
  const words = { off: "Not connected", connecting: "Connecting …", waiting: `No connection; next try in ${Math.ceil(waitS)} s`, ready: "" };
  $("link").dataset.state = name;
  $("link").textContent = words[name];
  if (name !== "ready") composer.setConnected(false);
}

// --- where one was ------------------------------------------------------------------------------------------------

/** After a reload or a lost connection: go on where the page was. */
async function comeBack() {
  for (const view of [...state.turns.values()]) {
    if (!view.isOver && !state.pending.has(view.turn)) await resume(view);
  }
  for (const [turn, question] of [...state.pending]) await put(turn, question);
  const wanted = sessionInUrl();
  if (wanted !== state.session || (wanted && !isAnswering())) await open(wanted);
  else if (!wanted && !state.turns.size && kept.get("turn")) await resume(mine(kept.get("turn")));
  if (!state.session && !state.turns.size) showWelcome();
}

/** A turn that was asked for on this page. */
function mine(turn) {
  const view = new TurnView(turn);
  view.isMine = true;
  return view;
}

async function resume(view) {
  const isNew = !state.turns.has(view.turn);
  state.turns.set(view.turn, view);
  try {
    await socket.ask({ type: "resume", turn: view.turn, after: view.last });
    if (isNew) place(view);
  } catch (error) {
    if (!(error instanceof Refused)) return; // not connected: again when it is
    if (isNew) state.turns.delete(view.turn);
    view.lose();
    afterEnd(view);
  }
}

function sessionInUrl() {
  try {
    return decodeURIComponent(/^#s=([^&]+)/.exec(location.hash)?.[1] ?? "");
  } catch {
    return ""; // a broken link is as good as none
  }
}

function setUrl(session) {
  const hash = session ? `#s=${encodeURIComponent(session)}` : location.pathname;
  history.replaceState(null, "", hash);
}

addEventListener("hashchange", () => { closeMenu(); open(sessionInUrl()); });

/** Show a conversation; an empty name begins a new one. */
async function open(session) {
  state.session = session;
  sessions.choose(session);
  composer.complain("");
  if (!session) {
    kept.set("turn", "");
    clear(NEW);
    showWelcome();
    composer.focus();
    return;
  }
  let found;
  try {
    found = await socket.ask({ type: "session", session });
  } catch (error) {
    if (!(error instanceof Refused) || state.session !== session) return;
    clear("Not found");
    $("log").append(el("p", { class: "notice bad" }, error.message));
    return;
  }
  if (state.session === session) showSession(found);
}

function clear(title) {
  $("log").replaceChildren();
  show($("welcome"), false);
  show($("delete"), Boolean(state.session));
  setTitle(title);
  state.sticks = true;
  showRunning();
}

function setTitle(title) {
  $("title").textContent = title || NEW;
  document.title = title && title !== NEW ? `${title} · LLM MCP Hub` : "LLM MCP Hub";
}

function showSession(found) {
  clear(found.title || sessions.titleOf(found.session) || NEW);
  composer.suggest(found.provider);
  if (found.is_cut) $("log").append(el("p", { class: "notice" }, "This conversation is long; its end is shown."));
  drawStored($("log"), found.messages);
  if (found.live) {
    // Its events come again from the first.
    const view = new TurnView(found.live);
    view.session = found.session;
    state.turns.set(found.live, view);
    $("log").append(view.root);
  }
  showRunning();
  follow();
}

$("new").addEventListener("click", () => { closeMenu(); setUrl(""); open(""); });

$("delete").addEventListener("click", async () => {
  if (!confirm("Delete this conversation for good?")) return;
  try {
    await socket.ask({ type: "delete", session: state.session });
  } catch (error) {
    composer.complain(error.message);
    return;
  }
  tell("The conversation was deleted");
  setUrl("");
  open("");
  sessions.renew();
});

// --- asking -------------------------------------------------------------------------------------------------------

function send(question) {
  const turn = newName();
  const view = mine(turn);
  view.session = state.session;
  view.ask(question.text, question.files);
  state.turns.set(turn, view);
  kept.set("turn", turn);
  if (!state.session) setTitle(question.text.trim().split("\n")[0].slice(0, 80));
  place(view);
  tell("Sent");
  put(turn, { ...question, session: state.session });
}

/** Send a question, again if nothing was heard of it: the hub takes one of the same name once. */
async function put(turn, question) {
  state.pending.set(turn, question);
  const { text, files, provider, model, session } = question;
  const attachments = files.map(({ url, name }) => ({ url, name }));
  try {
    await socket.ask({ type: "ask", turn, text, attachments, provider, model, session });
    state.pending.delete(turn);
  } catch (error) {
    if (!(error instanceof Refused)) return; // not connected: again when it is
    state.pending.delete(turn);
    const view = state.turns.get(turn);
    state.turns.delete(turn);
    view?.root.remove();
    composer.complain(error.message);
    composer.restore(question);
    showRunning();
  }
}

async function stop() {
  for (const view of shownRunning()) {
    try { await socket.ask({ type: "stop", turn: view.turn }); } catch (error) { composer.complain(error.message); }
  }
}

// --- what the hub tells -------------------------------------------------------------------------------------------

function onEvent(event) {
  if (event.type === "changed") {
    onChanged(event);
    return;
  }
  if (!event.turn) return;
  let view = state.turns.get(event.turn);
  if (!view && event.type === "asked" && event.session === state.session && state.session) {
    view = new TurnView(event.turn); // of another window
    state.turns.set(event.turn, view);
    place(view);
  }
  if (!view?.take(event)) return;
  if (event.type === "admitted" && view.session && view.isMine && !state.session && view.root.isConnected) settle(view.session);
  if (view.isOver) afterEnd(view);
  if (view.root.isConnected) follow();
  showRunning();
}

/** A conversation that was new has got its name. */
function settle(session) {
  state.session = session;
  setUrl(session);
  show($("delete"), true);
  sessions.choose(session);
}

async function onChanged({ session, what }) {
  await sessions.renew();
  if (session !== state.session) return;
  if (what === "deleted" && !isAnswering()) open("").then(() => setUrl(""));
  else setTitle(sessions.titleOf(session) || $("title").textContent);
  // Somebody else has spoken in it, by a door that is not watched.
  const isOurs = [...state.turns.values()].some((it) => it.session === session && (!it.isOver || Date.now() - it.endedAt < 3000));
  if (what === "changed" && !isOurs) open(session);
}

function afterEnd(view) {
  view.endedAt ??= Date.now();
  if (kept.get("turn") === view.turn) kept.set("turn", "");
  if (view.root.isConnected) announce(view);
  if (view.hasGap && view.session && view.session === state.session) open(view.session);
  // What is shown stays on the page; what isn't comes from the hub again.
  for (const [turn, it] of state.turns) {
    if (it.isOver && !it.root.isConnected) state.turns.delete(turn);
  }
  showRunning();
}

function announce(view) {
  const words = view.answer.words.trim();
  if (view.hasFailed) tell(`No answer. ${view.answer.body.querySelector(".notice.bad")?.textContent ?? ""}`);
  else if (words.length < 300) tell(`${view.started?.provider ?? "The hub"} answers: ${words}`);
  else tell(`${view.started?.provider ?? "The hub"} has answered, ${words.split(/\s+/).length} words.`);
}

// --- what is shown ------------------------------------------------------------------------------------------------

function place(view) {
  show($("welcome"), false);
  $("log").append(view.root);
  state.sticks = true;
  showRunning();
  follow();
}

const shownRunning = () => [...state.turns.values()].filter((it) => !it.isOver && it.root.isConnected);
const isAnswering = () => shownRunning().length > 0;

function showRunning() {
  composer.setRunning(isAnswering());
  sessions.setRunning([...state.turns.values()].filter((it) => !it.isOver).map((it) => it.session).filter(Boolean));
}

function follow() {
  if (state.sticks) $("scroll").scrollTop = $("scroll").scrollHeight;
}
new ResizeObserver(follow).observe($("log"));

$("scroll").addEventListener("scroll", () => {
  const box = $("scroll");
  state.sticks = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_END_PX;
  show($("down"), !state.sticks);
}, { passive: true });
$("down").addEventListener("click", () => { state.sticks = true; follow(); composer.focus(); });

async function renewProviders() {
  try {
    const { data } = await socket.ask({ type: "providers" });
    composer.offer(data);
    showProviders(data);
  } catch { /* with the next round */ }
}
setInterval(() => document.visibilityState === "visible" && $("link").dataset.state === "ready" && renewProviders(), PROVIDERS_EVERY_MS);

function showWelcome() {
  show($("welcome"), !$("log").childElementCount);
}

addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !closeMenu() && isAnswering()) stop();
});

start();
