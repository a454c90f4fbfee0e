// Before anything is painted: the colours chosen last, else the system's.
(() => {
  "use strict";
  try {
    const chosen = localStorage.getItem("hub.theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch { /* a browser that keeps nothing */ }
})();
