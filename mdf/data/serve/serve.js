"use strict";
// Keys: Alt+1 … Alt+5 choose a tab, Escape stops the answer. Enter and Tab are the browser's own.
document.addEventListener("keydown", (event) => {
  if (event.altKey && !event.ctrlKey && /^[1-5]$/.test(event.key)) {
    const tab = document.querySelectorAll("#tabs [role=tab]:not([aria-hidden=true])")[Number(event.key) - 1];
    if (tab) { tab.click(); tab.focus(); event.preventDefault(); }
  }
  if (event.key === "Escape" && document.querySelector("#log [aria-busy=true]")) {
    document.querySelector("#stop")?.click();
  }
});
