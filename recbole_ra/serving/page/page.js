"use strict";

// Text from the server goes into the page as text alone (textContent), never as HTML.

const byId = (id) => document.getElementById(id);
const history_ = []; // {item, title}, oldest first
let key = null;
let remembers = false;
let asked = 0; // answers to earlier questions are left out
let typed = 0; // and suggestions for what stood there before
let options = [];
let active = -1;

function make(tag, text, attributes = {}) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

const nameOf = (one) => one.title || one.item;

async function ask(path, body) {
  const headers = key === null ? {} : { Authorization: `Bearer ${key}` };
  const given = { headers };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    given.method = "POST";
    given.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, given);
  } catch {
    throw new Error("The server does not answer; is it running?");
  }
  const content = await answer.json().catch(() => ({}));
  if (answer.status === 401) {
    byId("key-form").hidden = false;
    byId("key").focus();
  }
  if (!answer.ok) throw new Error(content.detail || `The server answers ${answer.status}.`);
  return content;
}

function say(text) { byId("status").textContent = text; }
function complain(error) { say(""); byId("problem").textContent = error ? error.message : ""; }

// The history

function showHistory(focus) {
  const list = byId("history");
  list.replaceChildren(...history_.map((one, place) => {
    const row = make("li", nameOf(one));
    if (one.title) row.append(" ", make("span", one.item, { class: "token" }));
    const remove = make("button", "Remove", { type: "button", class: "quiet", "aria-label": `Remove ${nameOf(one)}` });
    remove.addEventListener("click", () => {
      history_.splice(place, 1);
      showHistory();
      say(`${nameOf(one)} removed.`);
      (list.querySelectorAll("button")[place] || byId("search")).focus();
    });
    row.append(remove);
    return row;
  }));
  byId("empty").hidden = history_.length > 0;
  byId("recommend").disabled = byId("clear").disabled = history_.length === 0;
  if (focus) byId("search").focus();
}

function add(one) {
  history_.push(one);
  byId("search").value = "";
  closeSuggestions();
  showHistory(true);
  say(`${nameOf(one)} added; ${history_.length} in the history.`);
}

// Suggestions: a combobox with a list, as the ARIA practices describe it

function closeSuggestions() {
  typed += 1;
  options = [];
  active = -1;
  byId("suggestions").hidden = true;
  byId("suggestions").replaceChildren();
  byId("search").setAttribute("aria-expanded", "false");
  byId("search").removeAttribute("aria-activedescendant");
}

function choose(place) {
  active = place;
  const rows = [...byId("suggestions").children];
  rows.forEach((row, number) => row.setAttribute("aria-selected", String(number === place)));
  if (rows[place]) {
    byId("search").setAttribute("aria-activedescendant", rows[place].id);
    rows[place].scrollIntoView({ block: "nearest" });
  } else {
    byId("search").removeAttribute("aria-activedescendant");
  }
}

async function suggest() {
  const text = byId("search").value.trim();
  const number = ++typed;
  if (!text) return closeSuggestions();
  options = []; // those of what stood there before: Enter takes none of them
  choose(-1);
  try {
    const found = await ask(`/items?k=8&search=${encodeURIComponent(text)}`);
    if (number !== typed) return;
    closeSuggestions();
    complain(null);
    options = found.items;
    byId("suggestions").replaceChildren(...options.map((one, place) => {
      const row = make("li", one.title ? `${one.title} (${one.item})` : one.item,
        { role: "option", id: `option-${place}`, "aria-selected": "false" });
      row.addEventListener("mousedown", (event) => { event.preventDefault(); add(one); });
      return row;
    }));
    const any = options.length > 0;
    byId("suggestions").hidden = !any;
    byId("search").setAttribute("aria-expanded", String(any));
    say(any ? `${options.length} suggestions.` : `Nothing is called “${text}”.`);
  } catch (error) { complain(error); }
}

byId("search").addEventListener("input", suggest);
byId("search").addEventListener("blur", closeSuggestions);
byId("search").addEventListener("keydown", (event) => {
  if (event.key === "Escape") return closeSuggestions();
  if (event.key === "Enter") {
    event.preventDefault();
    const one = options[Math.max(active, 0)];
    if (one) add(one);
    return;
  }
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step && options.length) {
    event.preventDefault();
    choose(active < 0 && step < 0 ? options.length - 1 : (active + step + options.length) % options.length);
  }
});

// Recommendations

function moved(rank, other) {
  if (other === undefined) return make("span", "only here", { class: "move" });
  if (rank === other) return make("span", "same place", { class: "move" });
  const way = rank < other ? "up" : "down";
  return make("span", `${way === "up" ? "↑ up" : "↓ down"} from ${other}`, { class: `move ${way}` });
}

function itemLine(node, one) {
  node.append(make("span", nameOf(one)));
  if (one.title) node.append(" ", make("span", one.item, { class: "token" }));
  return node;
}

function tableOf(caption, columns, rows) {
  const table = make("table");
  table.append(make("caption", caption));
  const head = make("tr");
  for (const name of columns) head.append(make("th", name, { scope: "col" }));
  const body = make("tbody");
  for (const cells of rows) {
    const row = make("tr");
    for (const text of cells) row.append(make("td", text));
    body.append(row);
  }
  const top = make("thead");
  top.append(head);
  table.append(top, body);
  return table;
}

function memoriesTable(told) {
  const box = make("div", undefined, { class: "scroll" });
  const number = (x) => (x === null ? "–" : x.toFixed(3));
  if (told.votes.length) {
    box.append(tableOf(
      "Items of the history that vote for it, by what followed them. Effect is what a vote adds to the score.",
      ["item of the history", "effect"],
      told.votes.map((one) => [nameOf(one), number(one.effect)])));
  }
  if (told.memories.length) {
    box.append(tableOf(
      `${told.memories.length} memories of ${told.n_owners} other users; without them rank ${told.rank_without}. ` +
      "Effect is what a memory adds to the score of this item.",
      ["followed by", "similarity", "attention", "effect", "whose"],
      [...told.memories].sort((a, b) => b.effect - a.effect).map((one) =>
        [nameOf(one), number(one.similarity), number(one.attention), number(one.effect), one.owner])));
  }
  if (told.note || !told.memories.length) {
    box.append(make("p", told.note || "No memory took part.", { class: "note" }));
  }
  return box;
}

function explained(one, history, other) {
  const details = make("details");
  const summary = itemLine(make("summary"), one);
  summary.append(" ", moved(one.rank, other));
  details.append(summary);
  let told = false;
  details.addEventListener("toggle", async () => {
    if (!details.open || told) return;
    told = true;
    const waiting = make("p", "Asking …", { class: "note" });
    details.append(waiting);
    try {
      const answer = await ask("/explain", { history, item: one.item });
      waiting.replaceWith(memoriesTable(answer));
      say(`${answer.memories.length} memories of ${nameOf(one)} shown.`);
    } catch (error) {
      told = false;
      waiting.remove();
      complain(error);
    }
  });
  return details;
}

async function recommend() {
  const number = ++asked;
  const history = history_.map((one) => one.item);
  const body = { histories: [history], k: Math.min(50, Math.max(1, Math.round(Number(byId("k").value)) || 10)) };
  complain(null);
  say("Asking …");
  try {
    const [best, plain] = await Promise.all(
      [true, false].map((memories) => ask("/recommend", { ...body, memories })));
    if (number !== asked) return;
    const rows = [best, plain].map((answer) => answer.recommendations[0].items);
    const ranks = rows.map((items) => new Map(items.map((one) => [one.item, one.rank])));
    byId("with-title").textContent = remembers ? "With memories" : "Recommended";
    byId("with").querySelector("ol").replaceChildren(...rows[0].map((one) => {
      const row = make("li");
      row.append(remembers ? explained(one, history, ranks[1].get(one.item)) : itemLine(make("span"), one));
      return row;
    }));
    byId("without").querySelector("ol").replaceChildren(...rows[1].map((one) => {
      const row = itemLine(make("li"), one);
      row.append(" ", moved(one.rank, ranks[0].get(one.item)));
      return row;
    }));
    byId("with").hidden = false;
    byId("without").hidden = !remembers;
    const shared = rows[0].filter((one) => ranks[1].has(one.item)).length;
    say(`${rows[0].length} recommendations` + (remembers ? `; ${shared} of them without memories too.` : "."));
  } catch (error) { if (number === asked) complain(error); }
}

byId("recommend").addEventListener("click", recommend);
byId("clear").addEventListener("click", () => {
  asked += 1;
  history_.length = 0;
  byId("with").hidden = byId("without").hidden = true;
  showHistory(true);
  say("The history is empty.");
});
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = byId("key").value.trim();
  if (!/^[\x21-\x7e]+$/.test(given)) { // a header takes no other
    return complain(new Error("A key is made of visible ASCII characters without a space."));
  }
  key = given;
  byId("key-form").hidden = true;
  complain(null);
  byId("search").focus();
});

ask("/health").then((told) => {
  remembers = told.memories !== null;
  const parts = [`${told.model} on ${told.dataset}`, `${told.items.toLocaleString("en")} items`, `${told.users.toLocaleString("en")} users`];
  parts.push(remembers ? `${told.memories.toLocaleString("en")} memories` : "no memories");
  byId("about").textContent = parts.join(" · ");
  byId("key-form").hidden = !told.needs_key;
}).catch(complain);
