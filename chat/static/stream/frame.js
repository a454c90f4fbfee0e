// The window's frame: colours, and on narrow screens the menu with the conversations.

import { $, show } from "./dom.js";

$("theme").value = document.documentElement.dataset.theme ?? "";
$("theme").addEventListener("change", () => {
  const chosen = $("theme").value;
  if (chosen) document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
  try { localStorage.setItem("hub.theme", chosen); } catch { /* a browser that keeps nothing */ }
});

const narrow = matchMedia("(max-width: 760px)");
const isOpen = () => narrow.matches && document.body.classList.contains("menu-open");

function setMenu(opens) {
  document.body.classList.toggle("menu-open", opens);
  $("menu").setAttribute("aria-expanded", String(opens));
  $("main").inert = opens && narrow.matches;
  $("sidebar").inert = narrow.matches && !opens;
  show($("veil"), opens && narrow.matches);
  if (opens) $("new").focus();
}

/** Whether there was a menu to close. */
export function closeMenu() {
  if (!isOpen()) return false;
  setMenu(false);
  $("menu").focus();
  return true;
}

$("sessions").addEventListener("click", closeMenu);
$("menu").addEventListener("click", () => setMenu(!isOpen()));
$("veil").addEventListener("click", closeMenu);
narrow.addEventListener("change", () => setMenu(false));
setMenu(false);
