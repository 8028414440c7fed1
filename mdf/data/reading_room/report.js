"use strict";
const report = JSON.parse(document.getElementById("report").textContent);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const one = (selector, within = document) => within.querySelector(selector);

// ---- the photograph: size, layers, maps, places ----

function fit(viewer) {
  const frame = one(".frame", viewer), stage = one(".stage", viewer), photograph = one(".photograph", viewer);
  if (!frame) return;
  const width = Number(photograph.getAttribute("width")), height = Number(photograph.getAttribute("height"));
  const zoom = Number(one("[data-zoom]", viewer).value);
  frame.style.height = `${frame.clientWidth * height / width}px`; // the style sheet has a largest height
  const room = Math.min(frame.clientWidth / width, frame.clientHeight / height);
  const middle = [frame.scrollLeft + frame.clientWidth / 2, frame.scrollTop + frame.clientHeight / 2];
  const before = stage.clientWidth || 1;
  stage.style.width = `${width * room * zoom}px`;
  stage.style.height = `${height * room * zoom}px`;
  const grown = stage.clientWidth / before;
  frame.scrollTo(middle[0] * grown - frame.clientWidth / 2, middle[1] * grown - frame.clientHeight / 2);
}

for (const viewer of all(".viewer")) {
  if (!one(".frame", viewer)) continue;
  const show = (toggle) => {
    const layer = all(".layer", viewer).find((l) => l.dataset.layer === toggle.dataset.toggle);
    layer.hidden = !toggle.checked;
  };
  const toggles = all("[data-toggle]", viewer);
  toggles.forEach((toggle) => { toggle.addEventListener("change", () => show(toggle)); show(toggle); });
  const every = (on) => toggles.forEach((toggle) => { toggle.checked = on; show(toggle); });
  one("[data-all]", viewer)?.addEventListener("click", () => every(true));
  one("[data-none]", viewer)?.addEventListener("click", () => every(false));
  one("[data-zoom]", viewer).addEventListener("input", () => fit(viewer));
  one("[data-bright]", viewer).addEventListener("input", (event) => {
    one(".photograph", viewer).style.filter = `brightness(${event.target.value})`;
  });
  one("[data-opacity]", viewer)?.addEventListener("input", (event) => {
    all(".layer, .map", viewer).forEach((layer) => { layer.style.opacity = event.target.value; });
  });
  one("[data-pick]", viewer)?.addEventListener("change", (event) => {
    all(".map", viewer).forEach((map) => { map.hidden = map.dataset.map !== event.target.value; });
  });
  new ResizeObserver(() => fit(viewer)).observe(one(".frame", viewer));
  fit(viewer);
}

let pinned = null;

function point(row) {
  all(".pointed, .on, .meant").forEach((element) => element.classList.remove("pointed", "on", "meant"));
  const path = row?.dataset.row;
  if (!path) return;
  row.classList.add("pointed");
  const viewer = one(".viewer", row.closest(".eye") ?? document.createElement("div"));
  if (!viewer) return;
  const marked = all("[data-boxes]", viewer).filter((g) => g.dataset.boxes === path);
  marked.forEach((g) => g.classList.add("on"));
  const masks = (row.dataset.masks || "").split(" ");
  const meant = all(".layer", viewer).filter((layer) => masks.includes(layer.dataset.layer) && !layer.hidden);
  meant.forEach((layer) => layer.classList.add("meant"));
  if (meant.length) one(".stage", viewer).classList.add("pointed");
}

function pin(button) {
  const path = button.dataset.pin;
  pinned = pinned === path ? null : path;
  all("[data-pin]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.pin === pinned)));
  point(rowOf(button));
}

const rowOf = (element) => element.closest("[data-row]");
const rest = () => point(pinned ? all("[data-row]").find((row) => row.dataset.row === pinned) : null);
document.addEventListener("click", (event) => { if (event.target.matches("[data-pin]")) pin(event.target); });
document.addEventListener("focusin", (event) => { if (rowOf(event.target)) point(rowOf(event.target)); else rest(); });
document.addEventListener("mouseover", (event) => {
  const row = rowOf(event.target) ?? rowOf(document.activeElement);
  if (row) point(row); else rest();
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") { pinned = null; point(null); } });

// ---- what the reviewer says ----

const stands = (path) => path.split(".").reduce((value, key) => (value == null ? null : value[key]), report.state) ?? null;

function value(field) {
  if (field.dataset.type === "zones") return all("input:checked", field).map((box) => box.value);
  const text = field.value.trim();
  if (field.dataset.type === "tri") return text === "" ? null : text === "true";
  if (field.dataset.type === "int") return text === "" ? null : Number(text);
  return text === "" && field.tagName !== "TEXTAREA" ? null : text;
}

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const fields = all("[data-path]").filter((field) => field.dataset.path);
const shownFirst = new Map(fields.map((field) => [field, value(field)]));

function changes() {
  const found = [];
  for (const field of fields) {
    const now = value(field);
    field.classList.toggle("changed", !same(now, shownFirst.get(field)));
    if (same(now, shownFirst.get(field))) continue;
    if (field.closest('.lesion:not([data-state="true"])') && field.dataset.presence === undefined) continue;
    found.push({ path: field.dataset.path, before: stands(field.dataset.path), after: now });
  }
  for (const row of all(".added[data-row]")) {
    const number = one("input[type=number]", row).value;
    const zones = all(".zones input:checked", row).map((box) => box.value);
    found.push({
      path: row.dataset.row, before: null,
      after: { kind: row.dataset.kindOf, present: true, count: number === "" ? null : Number(number), zones: zones.length ? zones : null },
    });
  }
  return found;
}

function edits() {
  return {
    form: "mdf edits", report: report.state.id, of: report.of, reviewer: one("#reviewer").value.trim(),
    comment: one("#comment").value.trim(), photograph_seen: one("#seen").checked, edited: new Date().toISOString(),
    changes: changes(), confirmed: all("[data-confirm]:checked").map((box) => box.dataset.confirm),
  };
}

function tell(text, wrong = false) {
  const told = one("#told");
  told.textContent = text;
  told.classList.toggle("wrong", wrong);
}

const many = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
const dirty = (now) => now.changes.length + now.confirmed.length > 0 || now.comment !== "";
let saved = "";

function update() {
  const now = edits();
  tell(dirty(now) ? `${many(now.changes.length, "change")}, ${now.confirmed.length} checked. Not saved yet.` : "Nothing changed or checked yet.");
}

document.addEventListener("input", (event) => {
  const field = event.target;
  if (field.matches("[data-presence]")) field.closest(".lesion").dataset.state = field.value;
  const zones = field.closest(".zones");
  if (zones) one("summary", zones).textContent = all("input:checked", zones).map((box) => box.value).join(", ") || "place";
  update();
});

document.addEventListener("click", (event) => {
  const button = event.target;
  if (button.matches("[data-add]")) add(button.closest(".add"));
  if (button.matches("[data-drop]")) { const select = one("[data-kind]", button.closest(".block")); button.closest(".row").remove(); number(select); update(); }
});

function add(box) {
  const select = one("[data-kind]", box);
  if (!select.value) return select.focus();
  const row = one("#added").content.firstElementChild.cloneNode(true);
  row.dataset.kindOf = select.value;
  one(".label", row).textContent = select.selectedOptions[0].textContent;
  one(".rows", box.closest(".block")).append(row);
  select.value = "";
  number(select);
  one("input", row).focus();
  update();
}

function number(select) {
  all(".added", select.closest(".block")).forEach((row, i) => { row.dataset.row = `${select.dataset.kind}.${Number(select.dataset.next) + i}`; });
}

one("#save").addEventListener("click", () => {
  const now = edits();
  const missing = !now.reviewer ? "#reviewer" : !now.photograph_seen ? "#seen" : null;
  if (missing) { one(missing).focus(); return tell(missing === "#seen" ? "Say first that you have seen the photograph." : "Who reviews? A name is missing.", true); }
  if (!dirty(now)) return tell("Nothing to save: change or tick something first.", true);
  const wrong = all("input[type=number]").find((field) => !field.checkValidity());
  if (wrong) { wrong.focus(); return tell("This number is not a whole number of 0 or more.", true); }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(now, null, 2) + "\n"], { type: "application/json" }));
  link.download = `${report.name}.edits.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  saved = JSON.stringify([now.changes, now.confirmed, now.comment]);
  tell(`Saved as ${link.download}: ${many(now.changes.length, "change")}, ${now.confirmed.length} checked.`);
});

window.addEventListener("beforeunload", (event) => {
  const now = edits();
  if (dirty(now) && saved !== JSON.stringify([now.changes, now.confirmed, now.comment])) event.preventDefault();
});
// On paper everything is open, and a choice is the words that were chosen.
let shut = [];
window.addEventListener("beforeprint", () => {
  shut = all("details.proof:not([open])");
  shut.forEach((details) => { details.open = true; });
  all("select[data-path]").forEach((select) => {
    const ink = document.createElement("span");
    ink.className = "ink";
    ink.textContent = select.selectedOptions[0]?.textContent ?? "";
    select.after(ink);
  });
});
window.addEventListener("afterprint", () => {
  shut.forEach((details) => { details.open = false; });
  all(".ink").forEach((ink) => ink.remove());
});
