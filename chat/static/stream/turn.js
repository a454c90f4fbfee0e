// One question and its answer on the page: live, or as it is stored.

import { copyButton, el } from "./dom.js";
import { Markdown } from "./markdown.js";

const ENDS = new Set(["finished", "error", "stopped"]);
const STOPPED = {
  caller: "Stopped.",
  unwatched: "Stopped, because nobody was watching.",
  hub: "The hub that answered has ended. Ask again to go on.",
  deleted: "The conversation was deleted.",
};
const REASONS = {
  length: "The answer is cut: it reached the longest the model may write.",
  content_filter: "The vendor's filter has ended this answer.",
};

const seconds = (ms) => (ms < 1000 ? `${ms} ms` : `${(ms / 1000).toFixed(1)} s`);
const count = (number) => number.toLocaleString("en");

export function fileChip(file) {
  const size = file.bytes ? `, ${file.bytes < 1024 ? `${file.bytes} B` : `${count(Math.round(file.bytes / 1024))} kB`}` : "";
  return el("li", { class: "chip" }, `${file.name || file.type}${size}`);
}

function questionBubble(text, files) {
  const bubble = el("div", { class: "bubble" }, el("h2", { class: "visually-hidden" }, "You asked"), el("p", {}, text));
  if (files?.length) bubble.append(el("ul", { class: "chips", "aria-label": "Attachments" }, ...files.map(fileChip)));
  return bubble;
}

function pretty(json) {
  try { return JSON.stringify(JSON.parse(json), null, 2); } catch { return json; }
}

function toolCall(name, args) {
  const code = el("pre", { tabIndex: 0, role: "group", "aria-label": `Arguments of ${name}` }, el("code", {}, pretty(args)));
  return el("details", { class: "tool" }, el("summary", {}, "Calls ", el("code", {}, name)), code);
}

/** The answer's frame: who answers, its parts in their order, and what is known of it. */
class AnswerView {
  #text = null;
  #reasoning = null;

  constructor() {
    this.name = el("h2", {}, "Answer");
    this.status = el("span", { class: "status" });
    this.body = el("div", { class: "parts" });
    this.facts = el("div", { class: "facts" });
    this.root = el("article", { class: "answer" }, el("div", { class: "answer-head" }, this.name, this.status), this.body, this.facts);
    this.words = "";
  }

  by(provider, model) {
    const shown = model && model !== provider ? ` ${model}` : "";
    this.name.replaceChildren(el("span", { class: "visually-hidden" }, "Answer of "), provider || "?", el("span", { class: "model" }, shown));
  }

  say(text) {
    if (!this.#text) {
      const host = el("div", { class: "markdown" });
      this.body.append(host);
      this.#text = new Markdown(host);
    }
    this.words += text;
    this.#text.add(text);
  }

  think(text) {
    if (!this.#reasoning) {
      this.#reasoning = el("div", { class: "thoughts" });
      this.body.append(el("details", { class: "reasoning" }, el("summary", {}, "Reasoning"), this.#reasoning));
    }
    this.#reasoning.append(text);
  }

  call(name, args) {
    this.finishText();
    this.body.append(toolCall(name, args));
  }

  finishText() {
    this.#text?.finish();
    this.#text = null;
  }

  notice(text, isBad) {
    this.body.append(el("p", { class: isBad ? "notice bad" : "notice" }, text));
  }

  close() {
    this.finishText();
    this.status.textContent = "";
    this.root.removeAttribute("aria-busy");
    if (this.words) this.facts.prepend(copyButton(() => this.words, "the answer"));
  }
}

/** A turn that runs, or has run, on this page. */
export class TurnView {
  #at = "";
  #timing = 0;

  constructor(turn) {
    this.turn = turn;
    this.last = 0;
    this.session = "";
    this.isOver = false;
    this.hasGap = false;
    this.hasFailed = false;
    this.started = null;
    this.answer = new AnswerView();
    this.answer.root.setAttribute("aria-busy", "true");
    this.root = el("section", { class: "turn", "data-turn": turn });
    this.root.append(this.answer.root);
    this.#waits("Waiting for the hub");
  }

  ask(text, files) {
    if (this.root.querySelector(".bubble")) return;
    this.root.prepend(questionBubble(text, files));
  }

  /** Take one numbered event; false for one that is there already. */
  take(event) {
    if (event.n <= this.last) return false;
    this.hasGap ||= event.first !== this.last + 1;
    this.last = event.n;
    HANDLERS[event.type]?.(this, event);
    if (ENDS.has(event.type)) this.#end();
    return true;
  }

  asked({ question, session }) {
    this.session = session ?? "";
    this.ask(question.is_cut ? `${question.text} …` : question.text, question.files);
  }

  admitted({ session }) {
    this.session = session ?? "";
    this.#waits("Waiting for a provider");
  }

  start(event) {
    this.started = event;
    this.answer.by(event.provider, event.model);
    this.#waits("Waiting for the first word");
  }

  reasoning({ text }) {
    this.#status("Thinking");
    this.answer.think(text);
  }

  delta({ text }) {
    this.#status("Answering");
    this.answer.say(text);
  }

  toolCall(event) {
    this.answer.call(event.name, event.arguments);
  }

  finish(event) {
    if (REASONS[event.reason]) this.answer.notice(REASONS[event.reason], false);
    this.#facts(event);
  }

  fail(event) {
    this.hasFailed = true;
    const again = event.retry_after ? ` Try again in ${seconds(event.retry_after * 1000)}.` : "";
    this.answer.notice(`${event.message}${again}`, true);
    this.answer.body.lastElementChild.append(el("code", { class: "error-code" }, event.code ?? "error"));
    this.#facts(event);
  }

  stop(event) {
    this.answer.notice(STOPPED[event.by] ?? STOPPED.caller, false);
    this.#facts(event);
  }

  /** Its events are kept no more. */
  lose() {
    if (this.isOver) return;
    this.hasGap = true;
    this.#end();
  }

  #status(word) {
    if (this.#at === word) return;
    this.#at = word;
    clearInterval(this.#timing);
    this.answer.status.textContent = `${word} …`;
  }

  /** Nothing moves yet: say for how long. */
  #waits(word) {
    this.#status(word);
    const since = performance.now();
    this.#timing = setInterval(() => {
      const s = Math.round((performance.now() - since) / 1000);
      if (s > 1) this.answer.status.textContent = `${word}, ${s} s …`;
    }, 1000);
  }

  #end() {
    this.isOver = true;
    clearInterval(this.#timing);
    this.answer.close();
  }

  #facts({ timing, usage, cost_usd: cost }) {
    const facts = [];
    if (timing?.first_token_ms !== null && timing?.first_token_ms !== undefined) facts.push(["first token", seconds(timing.first_token_ms)]);
    if (timing?.tokens_per_s) facts.push(["speed", `${timing.tokens_per_s} tokens/s`]);
    if (timing) facts.push(["in all", seconds(timing.total_ms)]);
    if (usage) facts.push(["tokens", tokens(usage)]);
    if (cost !== null && cost !== undefined) facts.push(["cost", `$${cost < 0.01 ? cost.toFixed(5) : cost.toFixed(3)}`]);
    this.answer.facts.append(factList(facts));
    if (this.started) this.answer.facts.append(routeDetails(this.started));
  }
}

const HANDLERS = {
  asked: (view, event) => view.asked(event),
  admitted: (view, event) => view.admitted(event),
  started: (view, event) => view.start(event),
  reasoning: (view, event) => view.reasoning(event),
  delta: (view, event) => view.delta(event),
  tool_call: (view, event) => view.toolCall(event),
  finished: (view, event) => view.finish(event),
  error: (view, event) => view.fail(event),
  stopped: (view, event) => view.stop(event),
};

function tokens(usage) {
  const cached = usage.prompt_tokens_details?.cached_tokens;
  return `${count(usage.prompt_tokens)} in${cached ? ` (${count(cached)} cached)` : ""}, ${count(usage.completion_tokens)} out`;
}

function factList(facts) {
  return el("dl", {}, ...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

function routeDetails({ route, attempts, start }) {
  const tried = attempts.map((it) => el("li", {}, `${it.provider}: ${it.code}, ${seconds(it.ms)}`));
  return el("details", { class: "route" }, el("summary", {}, "Route"),
    el("p", {}, `${route} (worker: ${start})`), el("ol", { "aria-label": "Attempts" }, ...tried));
}

/** Stored messages as turns, drawn into `host`. */
export function drawStored(host, messages) {
  let section = null;
  let answer = null;
  for (const message of messages) {
    if (message.role === "system") {
      host.append(el("details", { class: "system" }, el("summary", {}, "Instructions"), el("p", {}, message.content)));
    } else if (message.role === "user") {
      answer = null;
      section = el("section", { class: "turn" }, questionBubble(message.content, message.files));
      host.append(section);
    } else {
      if (!section) host.append(section = el("section", { class: "turn" }));
      if (message.role === "tool") {
        const result = el("pre", { tabIndex: 0, role: "group", "aria-label": "Result" }, el("code", {}, pretty(message.content)));
        (answer?.body ?? section).append(el("details", { class: "tool" }, el("summary", {}, "Result of a tool"), result));
      } else {
        answer = drawAnswer(section, message);
      }
    }
  }
}

function drawAnswer(section, message) {
  const answer = new AnswerView();
  answer.by(message.provider, message.model);
  if (message.content) answer.say(message.content);
  for (const call of message.tool_calls ?? []) answer.call(call.function.name, call.function.arguments);
  if (message.status === "incomplete") answer.notice("Stopped here: the model does not see this answer again.", false);
  answer.close();
  if (message.usage) {
    answer.facts.append(factList([["tokens", `${count(message.usage.prompt_tokens)} in, ${count(message.usage.completion_tokens)} out`]]));
  }
  section.append(answer.root);
  return answer;
}
