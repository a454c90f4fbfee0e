// Where a question is written: text, files, provider and model.

import { $, el, show, tell } from "./dom.js";

const AUTO = "auto";
const GROWS_TO_PX = 240;
const KINDS = { "application/pdf": "PDF" };

const asDataUrl = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(file);
});

// What else is in the message of a question.
const SPARE_BYTES = 2048;
const megabytes = (bytes) => `${(bytes / 1048576).toFixed(1)} MB`;

/** `on`: send({text, files, provider, model}), stop(). */
export class Composer {
  #files = [];
  #providers = [];
  #limits = { media_max_bytes: 0, media_max_count: 0, message_max_bytes: Infinity };
  #isChosen = false;

  constructor(on) {
    this.on = on;
    this.text = $("question");
    $("composer").addEventListener("submit", (event) => { event.preventDefault(); this.#send(); });
    this.text.addEventListener("keydown", (event) => this.#onKey(event));
    this.text.addEventListener("input", () => this.#grow());
    this.text.addEventListener("paste", (event) => this.#paste(event));
    $("stop").addEventListener("click", () => this.on.stop());
    $("provider").addEventListener("change", () => { this.#isChosen = true; this.#showModels(""); this.#showAttach(); });
    $("attach").addEventListener("click", () => $("file").click());
    $("file").addEventListener("change", () => { this.#add([...$("file").files]); $("file").value = ""; });
    for (const name of ["dragover", "drop"]) {
      $("main").addEventListener(name, (event) => {
        if (![...event.dataTransfer.types].includes("Files")) return;
        event.preventDefault();
        if (name === "drop") this.#add([...event.dataTransfer.files]);
      });
    }
  }

  limit(ready) {
    this.#limits = ready;
  }

  /** The providers that can be asked. What was chosen before stays chosen. */
  offer(providers) {
    this.#providers = providers;
    const before = $("provider").value;
    const real = providers.filter((it) => !it.is_demo && it.status === "available");
    const options = [
      el("option", { value: AUTO, disabled: !real.length }, real.length ? "Automatic" : "Automatic (none ready)"),
      ...providers.map((it) => {
        const state = it.status === "available" ? "" : ` (${it.state.replaceAll("_", " ")})`;
        return el("option", { value: it.name }, `${it.title || it.name}${state}`);
      }),
    ];
    $("provider").replaceChildren(...options);
    const demo = providers.find((it) => it.is_demo);
    const best = real.length || !demo ? AUTO : demo.name;
    this.#choose(this.#isChosen && before ? before : best);
    this.#showModels($("model").value);
    this.#showAttach();
  }

  /** Go on with who answered in a conversation last. */
  suggest(provider) {
    if (this.#isChosen || !provider) return;
    const found = this.#providers.find((it) => it.name === provider);
    // Its rules decide for a conversation that was begun by them; a demo is reached by its name alone.
    if (found?.is_demo) this.#choose(found.name);
    this.#showModels("");
    this.#showAttach();
  }

  #choose(name) {
    const isThere = [...$("provider").options].some((it) => it.value === name && !it.disabled);
    if (isThere) $("provider").value = name;
  }

  get #chosen() {
    return this.#providers.find((it) => it.name === $("provider").value);
  }

  #showModels(before) {
    const chosen = this.#chosen;
    const names = chosen ? [...new Set([...chosen.models, ...Object.keys(chosen.aliases)])] : [];
    const first = chosen ? `Default (${chosen.default_model})` : "Default model";
    $("model").replaceChildren(el("option", { value: "" }, first), ...names.map((it) => el("option", { value: it }, it)));
    if (names.includes(before)) $("model").value = before;
    show($("model"), names.length > 1);
  }

  get #media() {
    const chosen = this.#chosen;
    const asked = chosen ? [chosen] : this.#providers.filter((it) => !it.is_demo && it.status === "available");
    return [...new Set(asked.flatMap((it) => it.media))];
  }

  #showAttach() {
    const media = this.#media;
    $("file").accept = media.join(",");
    show($("attach"), media.length > 0 && this.#limits.media_max_count > 0);
  }

  setRunning(isRunning) {
    show($("stop"), isRunning);
    show($("send"), !isRunning);
  }

  setConnected(isConnected) {
    $("send").disabled = !isConnected;
  }

  focus() {
    this.text.focus();
  }

  complain(text) {
    $("composer-notice").textContent = text;
    show($("composer-notice"), Boolean(text));
  }

  /** Put a question back that was not taken. */
  restore({ text, files }) {
    if (!this.text.value) this.text.value = text;
    if (!this.#files.length) this.#files = files;
    this.#showFiles();
    this.#grow();
  }

  #onKey(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.#send();
  }

  #send() {
    if ($("send").hidden || $("send").disabled) return;
    const question = { text: this.text.value, files: this.#files, provider: $("provider").value, model: $("model").value };
    if (!question.text.trim() && !question.files.length) return;
    if (this.#isTooLarge(question)) return;
    this.complain("");
    this.text.value = "";
    this.#files = [];
    this.#showFiles();
    this.#grow();
    this.on.send(question);
  }

  /** The hub would hang up on it, again and again. */
  #isTooLarge(question) {
    const most = (this.#limits.message_max_bytes ?? Infinity) - SPARE_BYTES;
    const bytes = new Blob([JSON.stringify(question)]).size;
    if (bytes <= most) return false;
    this.complain(`Text and files together are ${megabytes(bytes)} as they are sent; at most ${megabytes(most)} go with a question.`);
    return true;
  }

  #grow() {
    this.text.style.height = "auto";
    this.text.style.height = `${Math.min(this.text.scrollHeight, GROWS_TO_PX)}px`;
  }

  #paste(event) {
    const files = [...event.clipboardData.files];
    if (!files.length) return;
    event.preventDefault();
    this.#add(files);
  }

  async #add(files) {
    const media = this.#media;
    const { media_max_bytes: maxBytes, media_max_count: maxCount } = this.#limits;
    for (const file of files) {
      const kinds = media.map((it) => KINDS[it] ?? it.replace("image/", "").toUpperCase()).join(", ");
      if (!media.includes(file.type)) {
        this.complain(media.length ? `${file.name}: this provider takes ${kinds}.` : `${file.name}: this provider takes no files.`);
      } else if (file.size > maxBytes) {
        this.complain(`${file.name} is larger than ${Math.floor(maxBytes / 1048576)} MB.`);
      } else if (this.#files.length >= maxCount) {
        this.complain(`At most ${maxCount} files go with a question.`);
      } else {
        this.#files.push({ name: file.name, type: file.type, bytes: file.size, url: await asDataUrl(file) });
        tell(`${file.name} is attached`);
      }
    }
    this.#showFiles();
    this.focus();
  }

  #showFiles() {
    $("files").replaceChildren(...this.#files.map((file) => {
      const remove = el("button", { type: "button", class: "quiet", "aria-label": `Remove ${file.name}` }, "×");
      remove.addEventListener("click", () => {
        this.#files = this.#files.filter((it) => it !== file);
        this.#showFiles();
        this.focus();
      });
      return el("li", { class: "chip" }, file.name, remove);
    }));
  }
}
