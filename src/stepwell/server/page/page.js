"use strict";
// The search page. Everything that comes from the server is put in as text, never as markup.

const DEBOUNCE = 120; // milliseconds of quiet before a search
const PATIENCE = 300; // milliseconds until a fast system is shown without a slow one
const by = (id) => document.getElementById(id);
const [query, summary, problem, columns, legend] = ["query", "summary", "problem", "columns", "legend"].map(by);
const picks = [by("a"), by("b")];
let offer = null;
let running = null; // what can abort the searches under way
let timer = 0;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null) node.setAttribute(name, value);
  }
  node.append(...children); // strings become text
  return node;
}

async function ask(path, body, signal) {
  const token = sessionStorage.getItem("stepwell-token");
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  const content = await answer.json().catch(() => ({ error: `the server answered ${answer.status}.` }));
  if (!answer.ok) throw Object.assign(new Error(content.error), { status: answer.status });
  return content;
}

function complain(error) {
  if (error.name === "AbortError") return;
  const locked = error.status === 401;
  by("token-form").hidden = !locked;
  if (locked) by("token").focus();
  const message = error instanceof TypeError ? "The server does not answer." : error.message;
  problem.textContent = locked ? "" : message.charAt(0).toUpperCase() + message.slice(1);
}

// -- what is searched ----------------------------------------------------------------------------------------------

async function begin() {
  try {
    offer = await ask("/systems");
  } catch (error) {
    complain(error);
    return;
  }
  by("token-form").hidden = true;
  const count = offer.passages.toLocaleString("en");
  by("about").textContent = `${offer.collection}, ${count} passages`;
  document.title = `${offer.collection} · stepwell`;
  const options = () => offer.systems.map((system) => make("option", { value: system.name }, titled(system)));
  picks[0].replaceChildren(...options());
  picks[1].replaceChildren(make("option", { value: "" }, "nothing"), ...options());
  const wanted = new URLSearchParams(location.search);
  query.value = wanted.get("q") ?? "";
  query.maxLength = offer.limits.text;
  for (const pick of [...picks, by("k")]) {
    const value = wanted.get(pick.id);
    if (value !== null && [...pick.options].some((option) => option.value === value)) pick.value = value;
  }
  by("examples").querySelector("ul").replaceChildren(...offer.examples.map((text) => make("li", {}, example(text))));
  search();
}

function titled(system) {
  return system.quality === null ? system.label : `${system.label} · ${offer.measure} ${system.quality.toFixed(3)}`;
}

function example(text) {
  const button = make("button", { type: "button" }, text);
  button.addEventListener("click", () => {
    query.value = text;
    query.focus();
    search();
  });
  return button;
}

// -- searching -----------------------------------------------------------------------------------------------------

function soon() {
  clearTimeout(timer);
  timer = setTimeout(search, DEBOUNCE);
}

async function search() {
  clearTimeout(timer);
  running?.abort();
  const text = query.value.trim();
  const names = [...new Set(picks.map((pick) => pick.value))].filter(Boolean);
  remember(text);
  if (!offer) return;
  by("examples").hidden = text !== "" || offer.examples.length === 0;
  if (!text) {
    columns.replaceChildren();
    summary.textContent = problem.textContent = "";
    legend.hidden = true;
    return;
  }
  const own = (running = new AbortController());
  for (const section of columns.children) section.setAttribute("aria-busy", "true");
  problem.textContent = "";
  const found = names.map((name) => ({ system: offer.systems.find((system) => system.name === name), passages: null }));
  const jobs = found.map((side) => one(side, text, own.signal));
  await Promise.race([Promise.all(jobs), new Promise((done) => setTimeout(done, PATIENCE))]);
  if (own.signal.aborted) return;
  if (found.some((side) => side.passages)) show(found);
  else summary.textContent = "Searching …";
  if (found.every((side) => side.passages)) return;
  await Promise.all(jobs);
  if (!own.signal.aborted) show(found);
}

async function one(side, text, signal) {
  const began = performance.now();
  try {
    const answer = await ask("/search", { query: text, system: side.system.name, k: Number(by("k").value) }, signal);
    Object.assign(side, { passages: answer.answers[0].passages, server: answer.milliseconds, total: performance.now() - began });
  } catch (error) {
    side.failed = true;
    complain(error);
  }
}

function remember(text) {
  const state = new URLSearchParams(text ? { q: text } : {});
  for (const pick of [...picks, by("k")]) if (pick.value && pick.selectedIndex >= 0) state.set(pick.id, pick.value);
  history.replaceState(null, "", `?${state}`);
}

// -- showing -------------------------------------------------------------------------------------------------------

function show(found) {
  const whole = found.every((side) => side.passages);
  const ranks = found.map((side) => new Map((side.passages ?? []).map((passage) => [passage.id, passage.rank])));
  const two = found.length === 2;
  columns.classList.toggle("two", two);
  columns.replaceChildren(...found.map((side, at) => column(side, at, two && whole ? ranks[1 - at] : null)));
  columns.querySelector("h3 button")?.setAttribute("tabindex", "0");
  legend.hidden = !(two && whole);
  if (!whole) summary.textContent = found.some((side) => side.failed) ? "" : "Searching …";
  else if (two) summary.textContent = compared(found, ranks);
  else summary.textContent = `${found[0].passages.length} passages in ${ms(found[0].total)}.`;
}

function column(side, at, other) {
  const heading = make("h2", { id: `system-${at}` }, side.system.label);
  const head = make("div", { class: "head" }, heading, facts(side));
  const items = (side.passages ?? []).map((passage) => item(passage, other && change(passage, other, at)));
  const words = side.passages ? "Nothing found: no passage shares a word with the query." : side.failed ? "No answer." : "Searching …";
  const list = items.length ? make("ol", {}, ...items) : make("p", { class: "none" }, words);
  return make("section", { "aria-labelledby": heading.id }, head, list);
}

function facts(side) {
  const parts = side.system.quality === null ? [] : [`test ${offer.measure} ${side.system.quality.toFixed(3)}`];
  if (side.passages) parts.push(`server ${ms(side.server)}`, `total ${ms(side.total)}`);
  return make("p", {}, ...parts.map((part) => make("span", {}, part)));
}

function ms(value) {
  return value < 10 ? `${value.toFixed(1)} ms` : value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`;
}

// What the first system did to a passage against the second; beside the second's passages: what the first lost.
function change(passage, other, at) {
  const rank = other.get(passage.id);
  if (at) return rank === undefined ? ["gone", "gone", "not among the first system's passages"] : null;
  if (rank === undefined) return ["new", "new", "not among the second system's passages"];
  const up = rank - passage.rank;
  if (up === 0) return ["same", "=", "the same rank in both"];
  return up > 0 ? ["up", `▲ ${up}`, `up from rank ${rank}`] : ["down", `▼ ${-up}`, `down from rank ${rank}`];
}

function compared(found, ranks) {
  const kinds = { new: 0, up: 0, down: 0, same: 0 };
  for (const passage of found[0].passages) kinds[change(passage, ranks[1], 0)[0]] += 1;
  const [first, second] = found.map((side) => side.system.label);
  const signs = [["new", "new", `found by ${first} alone`], ["up", "▲", "moved up"], ["down", "▼", "moved down"], ["gone", "gone", `found by ${second} alone`]];
  legend.replaceChildren(...signs.map(([kind, sign, words]) => make("span", {}, make("span", { class: `badge ${kind}` }, sign), ` ${words}`)));
  return `${first} against ${second}: ${kinds.new} new, ${kinds.up} moved up, ${kinds.down} moved down, ${kinds.same} unmoved.`;
}

function item(passage, moved) {
  const text = make("p", { class: "text" }, ...marked(passage.text, passage.text_matches), passage.cut ? " …" : "");
  const name = passage.title ? marked(passage.title, passage.title_matches) : [passage.id];
  const button = make("button", { type: "button", tabindex: "-1", "aria-expanded": "false" }, ...name);
  const badge = moved ? make("span", { class: `badge ${moved[0]}`, title: moved[2], role: "img", "aria-label": moved[2] }, moved[1]) : "";
  const small = make("p", { class: "facts" }, passage.title ? `${passage.score.toFixed(3)} · ${passage.id}` : passage.score.toFixed(3));
  const node = make("li", { class: `passage ${moved ? moved[0] : ""}` }, make("span", { class: "rank" }, String(passage.rank)), make("h3", {}, button), badge, text, small);
  node.dataset.id = passage.id;
  button.addEventListener("click", () => button.setAttribute("aria-expanded", String(node.classList.toggle("open"))));
  for (const kind of ["focusin", "mouseenter"]) node.addEventListener(kind, () => twins(passage.id, true));
  for (const kind of ["focusout", "mouseleave"]) node.addEventListener(kind, () => twins(passage.id, false));
  return node;
}

// Matches count code points, a string's own places UTF-16 units: an array of its letters has the former.
function marked(text, matches) {
  const letters = [...text];
  const parts = [];
  let last = 0;
  for (const [start, stop] of matches) {
    parts.push(letters.slice(last, start).join(""), make("mark", {}, letters.slice(start, stop).join("")));
    last = stop;
  }
  return [...parts, letters.slice(last).join("")];
}

function twins(id, on) {
  const same = [...columns.querySelectorAll("li.passage")].filter((node) => node.dataset.id === id);
  for (const node of same) node.classList.toggle("twin", on && same.length > 1);
}

// -- keys ----------------------------------------------------------------------------------------------------------

function lists() {
  return [...columns.querySelectorAll("section")].map((section) => [...section.querySelectorAll("h3 button")]);
}

function go(button) {
  if (!button) return;
  for (const other of columns.querySelectorAll("h3 button")) other.tabIndex = other === button ? 0 : -1;
  button.focus();
  button.closest("li").scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const here = document.activeElement;
  const typing = here instanceof HTMLInputElement || here instanceof HTMLSelectElement;
  if (event.key === "/" && !typing) {
    event.preventDefault();
    query.focus();
    query.select();
    return;
  }
  if (event.key === "ArrowDown" && here === query) {
    event.preventDefault();
    go(lists().flat()[0]);
    return;
  }
  const all = lists();
  const column = all.findIndex((list) => list.includes(here));
  if (column < 0) return;
  const row = all[column].indexOf(here);
  const moves = {
    ArrowDown: () => go(all[column][row + 1]),
    ArrowUp: () => (row ? go(all[column][row - 1]) : query.focus()),
    ArrowLeft: () => go(all[column - 1]?.[Math.min(row, all[column - 1].length - 1)]),
    ArrowRight: () => go(all[column + 1]?.[Math.min(row, all[column + 1].length - 1)]),
    Home: () => go(all[column][0]),
    End: () => go(all[column].at(-1)),
    Escape: () => query.focus(),
  };
  if (moves[event.key]) {
    event.preventDefault();
    moves[event.key]();
  }
});

query.addEventListener("input", (event) => event.isComposing || soon());
query.addEventListener("compositionend", soon);
for (const pick of [...picks, by("k")]) pick.addEventListener("change", search);
by("form").addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});
by("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("stepwell-token", by("token").value.trim());
  begin();
});
begin();
