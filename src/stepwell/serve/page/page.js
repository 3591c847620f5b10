"use strict";
// The search page. Everything that comes from the server is put in as text, never as markup.

const DEBOUNCE = 120; // milliseconds of quiet before a search
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
  const found = await Promise.all(names.map((name) => one(name, text, own.signal)));
  if (own.signal.aborted || found.includes(null)) return;
  problem.textContent = "";
  show(found);
}

async function one(name, text, signal) {
  const began = performance.now();
  try {
    const answer = await ask("/search", { query: text, system: name, k: Number(by("k").value) }, signal);
    const system = offer.systems.find((other) => other.name === name);
    const here = performance.now() - began;
    return { system, passages: answer.answers[0].passages, server: answer.milliseconds, here };
  } catch (error) {
    complain(error);
    return null;
  }
}

function remember(text) {
  const state = new URLSearchParams(text ? { q: text } : {});
  for (const pick of [...picks, by("k")]) if (pick.value && pick.selectedIndex >= 0) state.set(pick.id, pick.value);
  history.replaceState(null, "", `?${state}`);
}

// -- showing -------------------------------------------------------------------------------------------------------

function show(found) {
  const ranks = found.map((side) => new Map(side.passages.map((passage) => [passage.id, passage.rank])));
  columns.classList.toggle("two", found.length === 2);
  columns.replaceChildren(
    ...found.map((side, at) => {
      const other = found.length === 2 ? ranks[1 - at] : null;
      const items = side.passages.map((passage) => item(passage, other && change(passage, other, at)));
      const list = items.length ? make("ol", {}, ...items) : make("p", { class: "none" }, "No passage has a word of it.");
      const heading = make("h2", { id: `system-${at}` }, side.system.label);
      return make("section", { "aria-labelledby": heading.id }, make("div", { class: "head" }, heading, facts(side)), list);
    }),
  );
  columns.querySelector("h3 button")?.setAttribute("tabindex", "0");
  legend.hidden = found.length < 2;
  summary.textContent = found.length === 2 ? compared(found, ranks) : `${found[0].passages.length} passages in ${ms(found[0].here)}.`;
}

function facts(side) {
  const quality = side.system.quality === null ? [] : [make("span", {}, `${offer.measure} ${side.system.quality.toFixed(3)}`), " · "];
  return make("p", {}, ...quality, make("span", { class: "latency" }, `${ms(side.server)} there, ${ms(side.here)} here`));
}

function ms(value) {
  return value < 10 ? `${value.toFixed(1)} ms` : value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`;
}

// What became of a passage between the first system and the second; the first column only says what is gone.
function change(passage, other, at) {
  const rank = other.get(passage.id);
  if (rank === undefined) return at ? ["new", "new", "not among the first system's"] : ["gone", "gone", "not among the second system's"];
  if (at === 0) return null;
  const up = rank - passage.rank;
  if (up === 0) return ["same", "=", "the same rank as before"];
  const words = `${up > 0 ? "up" : "down"} from ${rank}`;
  return [up > 0 ? "up" : "down", `${up > 0 ? "▲" : "▼"} ${Math.abs(up)}`, words];
}

function compared(found, ranks) {
  const kinds = { new: 0, up: 0, down: 0, same: 0 };
  for (const passage of found[1].passages) kinds[change(passage, ranks[0], 1)[0]] += 1;
  legend.replaceChildren(
    ...[["new", "new", "only here"], ["up", "▲", "moved up"], ["down", "▼", "moved down"], ["gone", "gone", "only there"]].map(
      ([kind, sign, words]) => make("span", {}, make("span", { class: `badge ${kind}` }, sign), ` ${words}`),
    ),
  );
  const both = found[1].passages.length - kinds.new;
  return `From ${found[0].system.label} to ${found[1].system.label}: ${both} in both, ${kinds.new} new, ${kinds.up} up, ${kinds.down} down, ${kinds.same} unmoved.`;
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
