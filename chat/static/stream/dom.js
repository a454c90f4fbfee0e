// Small helpers around the document. Text goes in as text, never as HTML.

export const $ = (id) => document.getElementById(id);

/** An element with properties and children; strings become text. `class`, `data-*`, `aria-*` and `role` are attributes. */
export function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class" || name === "role" || name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((it) => it !== null && it !== undefined && it !== ""));
  return made;
}

export function show(element, isShown) {
  element.hidden = !isShown;
}

/** A sentence for screen readers, once. */
export function tell(text) {
  $("told").textContent = text;
}

export const kept = {
  get(name) {
    try { return sessionStorage.getItem(`hub.${name}`) ?? ""; } catch { return ""; }
  },
  set(name, value) {
    try {
      if (value) sessionStorage.setItem(`hub.${name}`, value);
      else sessionStorage.removeItem(`hub.${name}`);
    } catch { /* a browser that keeps nothing */ }
  },
};

/** Also over plain HTTP from another machine, where browsers withhold the clipboard and random UUIDs. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = el("textarea", { value: text, readOnly: true, class: "visually-hidden" });
    document.body.append(area);
    area.select();
    const isDone = document.execCommand("copy");
    area.remove();
    return isDone;
  }
}

export function newName() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return "page_" + Array.from(bytes, (it) => it.toString(16).padStart(2, "0")).join("");
}

export function copyButton(textOf, what) {
  const name = () => ["Copy", el("span", { class: "visually-hidden" }, ` ${what}`)];
  const button = el("button", { type: "button", class: "quiet copy" }, ...name());
  button.addEventListener("click", async () => {
    const said = (await copy(textOf())) ? "Copied" : "Can't copy";
    button.textContent = said;
    tell(said);
    setTimeout(() => button.replaceChildren(...name()), 1500);
  });
  return button;
}
