// What the page can do beyond what it shows without: the theme, opening all, finding, and reading cells by keyboard.
"use strict";

const byId = (id) => document.getElementById(id);

// The theme: the system's, until somebody says otherwise. What was chosen before is there before anything is drawn.
function oldTheme() {
  const before = kept("ramet-theme");
  if (before === "light" || before === "dark") document.documentElement.dataset.theme = before;
}

function theme() {
  const button = byId("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const show = () => {
    const chosen = root.dataset.theme;
    button.setAttribute("aria-pressed", String(chosen ? chosen === "dark" : system.matches));
  };
  button.addEventListener("click", () => {
    root.dataset.theme = button.getAttribute("aria-pressed") === "true" ? "light" : "dark";
    keep("ramet-theme", root.dataset.theme);
    show();
  });
  system.addEventListener("change", show);
  button.textContent = "Dark theme";
  button.hidden = false;
  show();
}

// Where a browser keeps nothing for a file, the choice lasts as long as the page.
function keep(name, value) {
  try { localStorage.setItem(name, value); } catch (refused) { return; }
}

function kept(name) {
  try { return localStorage.getItem(name); } catch (refused) { return null; }
}

// Experiments: open all, close all, and only those that have a word in them.
function experiments() {
  const all = [...document.querySelectorAll(".experiment")];
  if (all.length === 0) return;
  const field = byId("find");
  field.closest(".tools").hidden = false;
  const visible = () => all.filter((each) => !each.hidden);
  byId("open-all").addEventListener("click", () => visible().forEach((each) => { each.open = true; }));
  byId("close-all").addEventListener("click", () => all.forEach((each) => { each.open = false; }));
  const texts = all.map((each) => each.textContent.toLowerCase());
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    all.forEach((each, n) => { each.hidden = !words.every((word) => texts[n].includes(word)); });
    byId("found").textContent = words.length ? `${visible().length} of ${all.length}` : "";
  });
}

// A link to something that is closed opens it.
function openTarget() {
  const target = location.hash.length > 1 ? byId(decodeURIComponent(location.hash.slice(1))) : null;
  if (target === null) return;
  if (target.tagName === "DETAILS") { target.hidden = false; target.open = true; }
  target.scrollIntoView();
}

// The matrix: one cell can be reached with Tab, the others from there with the arrow keys; what was seen is read out.
function grid() {
  const table = byId("grid");
  if (table === null) return;
  const readout = byId("cell");
  const rows = [...table.tBodies[0].rows].map((row) => [...row.querySelectorAll("td")]);
  const told = new Map();
  rows.flat().forEach((cell) => {
    told.set(cell, cell.title);
    cell.removeAttribute("title");
    cell.tabIndex = -1;
  });
  let place = [0, 0];
  rows[0][0].tabIndex = 0;
  readout.hidden = false;
  const read = (cell) => { if (told.has(cell)) readout.textContent = told.get(cell); };
  const go = (row, column) => {
    rows[place[0]][place[1]].tabIndex = -1;
    place = [Math.min(Math.max(row, 0), rows.length - 1), Math.min(Math.max(column, 0), rows[0].length - 1)];
    const cell = rows[place[0]][place[1]];
    cell.tabIndex = 0;
    cell.focus();
  };
  const moves = {
    ArrowUp: (row, column) => [row - 1, column],
    ArrowDown: (row, column) => [row + 1, column],
    ArrowLeft: (row, column) => [row, column - 1],
    ArrowRight: (row, column) => [row, column + 1],
    Home: (row) => [row, 0],
    End: (row) => [row, rows[0].length - 1],
  };
  table.addEventListener("keydown", (event) => {
    const move = moves[event.key];
    if (move === undefined || !told.has(event.target)) return;
    event.preventDefault();
    go(...move(...place));
  });
  table.addEventListener("focusin", (event) => read(event.target.closest("td")));
  table.addEventListener("mouseover", (event) => read(event.target.closest("td")));
  table.addEventListener("click", (event) => {
    const cell = event.target.closest("td");
    if (!told.has(cell)) return;
    const row = rows.findIndex((cells) => cells.includes(cell));
    go(row, rows[row].indexOf(cell));
  });
}

oldTheme();
document.addEventListener("DOMContentLoaded", () => {
  theme();
  experiments();
  grid();
  openTarget();
});
addEventListener("hashchange", openTarget);
