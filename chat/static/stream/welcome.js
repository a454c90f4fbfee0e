// What a new conversation begins with: who can be asked, and how to get a real provider where none is ready.

import { $, el } from "./dom.js";

const COMMAND = /^(?:uv|npm|pip|run) /;

export function showProviders(providers) {
  const real = providers.filter((it) => !it.is_demo);
  const ready = real.filter((it) => it.status === "available");
  $("welcome-text").replaceChildren(...(ready.length ? offer(ready) : advise(real)));
}

function offer(ready) {
  const names = ready.map((it) => it.title || it.name).join(", ");
  return [el("p", {}, `Ready: ${names}. Automatic lets the hub's rules choose.`)];
}

function advise(real) {
  const ways = real.filter((it) => it.mend).map((it) => el("li", {}, el("strong", {}, it.title || it.name), ": ", asCode(it.mend)));
  const demo = el("p", {}, "Only the demo provider is ready. It repeats what you say, so you can see how answers stream.");
  return ways.length ? [demo, el("p", {}, "To talk to a real model:"), el("ul", {}, ...ways)] : [demo];
}

const asCode = (mend) => (COMMAND.test(mend) && mend.length < 80 ? el("code", {}, mend) : mend);
