// Answers as Markdown. A model's words are hostile until proven otherwise: HTML in them is shown, not obeyed, and what
// Markdown makes is cleaned once more. The page's Content-Security-Policy stands behind both.

import { Marked } from "./vendor/marked.esm.js";
import DOMPurify from "./vendor/purify.es.mjs";
import { copyButton, el } from "./dom.js";

const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const escape = (text) => text.replace(/[&<>"']/g, (it) => ESCAPES[it]);

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escape(text),
    // Below the page's own headings.
    heading({ tokens, depth }) {
      const level = Math.min(depth + 2, 6);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>\n`;
    },
  },
});

const TAGS = [
  "a", "blockquote", "br", "code", "del", "em", "h3", "h4", "h5", "h6", "hr", "img", "input", "li", "ol", "p", "pre",
  "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
];
const CLEAN = {
  ALLOWED_TAGS: TAGS,
  ALLOWED_ATTR: ["href", "src", "alt", "title", "class", "align", "start", "type", "checked", "disabled"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:|data:image\/(?:png|jpeg|gif|webp);base64,)/i,
  ADD_URI_SAFE_ATTR: ["align", "start", "type", "checked", "disabled"], // whose values are no addresses
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};
const INLINE_IMAGE = /^data:image\/(?:png|jpeg|gif|webp);base64,/i;
const LANGUAGE = /^language-([\w+#.-]{1,40})$/;
// While text streams in, at most so many characters are looked at again for each piece, and more only now and then.
const EAGER_CHARS = 8000;
const LAZY_MS = 400;
// Some of Markdown's patterns take the square of a line's length.
const HARD_LINE_CHARS = 5000;

function clean(html) {
  const fragment = DOMPurify.sanitize(html, CLEAN);
  for (const element of fragment.querySelectorAll("[class]")) {
    if (element.localName !== "code" || !LANGUAGE.test(element.className)) element.removeAttribute("class");
  }
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const box of fragment.querySelectorAll("input")) {
    box.replaceWith(el("span", { role: "img", "aria-label": box.checked ? "done" : "to do" }, box.checked ? "☑" : "☐"));
  }
  fragment.querySelectorAll("img").forEach(tame);
  fragment.querySelectorAll("table").forEach((it) => {
    const frame = el("div", { class: "scrolls", tabIndex: 0, role: "group", "aria-label": "Table" });
    it.replaceWith(frame);
    frame.append(it);
  });
  fragment.querySelectorAll("pre").forEach(frameCode);
  return fragment;
}

/** A picture from elsewhere would tell its server who reads what: it becomes a link. */
function tame(image) {
  const source = image.getAttribute("src") ?? "";
  if (INLINE_IMAGE.test(source)) return;
  const words = `Image: ${image.alt || source || "without a source"}`;
  const isWeb = /^https?:/i.test(source);
  image.replaceWith(isWeb ? el("a", { href: source, target: "_blank", rel: "noopener noreferrer nofollow" }, words) : words);
}

function frameCode(pre) {
  const code = pre.querySelector("code");
  const language = LANGUAGE.exec(code?.className ?? "")?.[1] ?? "";
  const frame = el("div", { class: "code" });
  pre.replaceWith(frame);
  pre.tabIndex = 0;
  pre.setAttribute("role", "group");
  pre.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
  const head = el("div", { class: "code-head" }, el("span", {}, language), copyButton(() => pre.textContent.replace(/\n$/, ""), "the code"));
  frame.append(head, pre);
}

const rendered = (tokens) => clean(marked.parser(tokens));

/** Text in which Markdown would be looked for too long, or too deep, is shown as it is. */
const plain = (text) => el("div", { class: "plain" }, text);
const isHard = (text) => text.length > HARD_LINE_CHARS && text.split("\n").some((line) => line.length > HARD_LINE_CHARS);

function orPlain(text, draw) {
  if (isHard(text)) return plain(text);
  try {
    return draw();
  } catch (error) {
    if (error instanceof RangeError) return plain(text); // nested beyond the stack
    throw error;
  }
}

/** Text that grows at its end. What is complete stays as it is; only the last block is made anew. */
export class Markdown {
  #tail = "";
  #open = el("div", { class: "open" });
  #timer = 0;
  #frame = 0;
  #drawnAt = 0;

  constructor(host) {
    this.host = host;
    this.text = "";
    host.append(this.#open);
  }

  add(text) {
    this.text += text;
    this.#tail += text;
    if (this.#frame || this.#timer) return;
    const waitMs = this.#tail.length > EAGER_CHARS ? this.#drawnAt + LAZY_MS - performance.now() : 0;
    if (waitMs > 0) this.#timer = setTimeout(() => this.#draw(), waitMs);
    // In a hidden window nothing is painted, and frames don't come.
    else if (document.visibilityState === "hidden") this.#timer = setTimeout(() => this.#draw(), LAZY_MS);
    else this.#frame = requestAnimationFrame(() => this.#draw());
  }

  /** All of it, as a whole: what refers to something far below is right only now. */
  finish() {
    this.#rest();
    this.host.replaceChildren(orPlain(this.text, () => rendered(marked.lexer(this.text))));
  }

  #rest() {
    clearTimeout(this.#timer);
    cancelAnimationFrame(this.#frame);
    this.#timer = this.#frame = 0;
  }

  #draw() {
    this.#rest();
    this.#drawnAt = performance.now();
    this.#open.replaceChildren(orPlain(this.#tail, () => this.#drawTail()));
  }

  /** What has come to its end goes before the open block, which is returned. */
  #drawTail() {
    const tokens = marked.lexer(this.#tail);
    const last = tokens.findLastIndex((it) => it.type !== "space");
    if (last <= 0) return rendered(tokens);
    const done = Object.assign(tokens.slice(0, last), { links: tokens.links });
    this.#open.before(rendered(done));
    this.#tail = tokens.slice(last).map((it) => it.raw).join("");
    return rendered(Object.assign(tokens.slice(last), { links: tokens.links }));
  }
}
