// One row: its turns, what is known about it, its relatives, and the form that edits it.
import {count, get, make, plain, score, shown, toast, told, words} from "./make.js";
import {dataLink} from "./run.js";

export function detail(view, row) {
  const mark = text => shown(text, view.asked.words);
  const key = (name, letter, act) => make("button", {onclick: act}, name, make("kbd", {}, letter));
  const turns = make("div", {}, row.turns.map((turn, n) => said(turn, row.decision?.texts?.[n], mark)));
  const kin = make("div");
  const panel = make("aside", {class: "detail", "aria-label": "Row " + row.row},
    make("div", {class: "tools"},
      key("Accept", "a", () => view.decide("accepted")), key("Reject", "r", () => view.decide("rejected")),
      key("Edit", "e", () => panel.edit()), row.verdict && key("Withdraw", "u", () => view.decide(null)),
      make("button", {class: "quiet close", title: "Close (Esc)", "aria-label": "Close", onclick: () => view.close()}, "✕")),
    make("div", {class: "meta"}, make("span", {class: "badge " + (row.dropped ? "dropped" : "kept")}, row.dropped ? "dropped" : "kept"),
      row.verdict && make("span", {class: "badge " + row.verdict}, row.verdict + " by " + row.decision.by)),
    row.dropped && make("p", {class: "reason"}, mark(row.dropped)),
    row.decision?.note && make("p", {class: "soft"}, shown(row.decision.note)),
    turns, facts(row, mark), kin);

  panel.edit = () => {
    if (view.editing) return;
    view.editing = true;
    const fields = row.turns.map((turn, n) => turn.editable ? make("textarea", {value: row.decision?.texts?.[n] ?? turn.content,
      "aria-label": turn.role}) : null);
    const before = fields.map(field => field && field.value);  // a field has other ends of lines than its text may have
    const text = (turn, n) => fields[n] && fields[n].value !== before[n] ? fields[n].value : row.decision?.texts?.[n] ?? turn.content;
    const keep = () => view.decide("edited", {texts: row.turns.map(text)});
    const leave = () => {
      view.editing = false;
      view.look(row.row);
    };
    if (row.turns.some(turn => turn.cut)) {
      view.editing = false;
      toast("a turn of this row is too long to be edited here");
      return;
    }
    turns.replaceChildren(...row.turns.map((turn, n) => fields[n] ? make("div", {class: "turn"}, make("b", {}, turn.role), fields[n]) : said(turn, undefined, mark)),
      make("p", {class: "buttons"}, make("button", {class: "main", id: "keep", onclick: keep}, "Keep the edit"), make("button", {onclick: leave}, "Leave as it was")));
    turns.addEventListener("keydown", event => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) keep();
    });
    fields.findLast(Boolean)?.focus();
  };

  panel.relatives = told(async alive => {
    const found = await get("/api/row", {dataset: view.name, row: row.row, relatives: 1});
    if (!alive()) return;
    const generations = ["Parents", "Parents of the parents", "Before them", "Before them", "Before them", "Before them"];
    const {parents, named, siblings, children} = found.relatives;
    kin.replaceChildren(...[
      group("Named in the reason", named), ...parents.map((some, n) => group(generations[n], some)),
      group("Other rows of the same parents", siblings), group("Children", children),
      found.waiting.length > 0 && make("p", {class: "soft"}, "Indexes are being built: " + found.waiting.join(", "))].flat().filter(Boolean));
    if (found.waiting.length) setTimeout(() => alive() && panel.relatives(alive), 1000);
  });

  const group = (title, some) => some.length > 0 && [make("h3", {}, title + (some.length > 1 ? " (" + count(some.length) + ")" : "")), ...some.map(relative)];
  const relative = one => one.dataset === undefined ? make("div", {class: "kin soft mono"}, shown(one.id))
    : make("a", {class: "kin", href: dataLink(one.dataset, "?row=" + one.row), onclick: event => {
      if (one.dataset !== view.name) return;
      event.preventDefault();
      if (!view.editing) view.look(one.row);
    }},
    make("div", {class: "clip"}, shown(one.instruction || one.answer)), one.instruction && make("div", {class: "clip reply"}, shown(one.answer)),
    make("div", {class: "meta"}, make("span", {class: "dot " + (one.dropped ? "" : "kept")}, plain(words(one.method))),
      one.dropped && make("span", {class: "why"}, shown(one.dropped)), one.dataset !== view.name && make("span", {}, one.dataset)));
  return panel;
}

function said(turn, text, mark) {
  const role = plain(turn.role) + (turn.name ? " · " + plain(turn.name) : "") + (turn.train ? "" : " · context, not trained on");
  const changed = text !== undefined && text !== null && text !== turn.content;
  return make("div", {class: "turn" + (changed ? " was" : "")}, make("b", {}, role),
    turn.reasoning && make("div", {class: "text thought"}, mark(turn.reasoning)),
    turn.content !== null && make("div", {class: "text"}, mark(turn.content)),
    changed && make("div", {class: "turn"}, make("b", {}, "edited"), make("div", {class: "text"}, mark(text))),
    turn.cut && make("div", {class: "soft"}, "The text is longer. Export the dataset to see all of it."),
    turn.calls.map(call => make("div", {class: "text code"}, mark(call.name + "(" + call.arguments + ")"))),
    turn.parts && make("div", {class: "text code soft"}, mark(turn.parts)));
}

function facts(row, mark) {
  const list = make("dl");
  const add = (name, value) => value !== "" && value !== undefined && value !== null && list.append(make("dt", {}, shown(name)), make("dd", {}, mark(String(value))));
  add("id", row.id);
  add("method", words(row.method));
  for (const [name, value] of Object.entries(row.scores)) add(words(name), score(value, 4));
  for (const [name, value] of Object.entries(row.tags)) add(name, value);
  add("round", row.round);
  for (const [name, value] of Object.entries(row.origin)) add(name, value);
  if (row.tokens.length) add("tokens", row.tokens[0] + " read, " + row.tokens[1] + " written");
  add("tools", row.tools);
  return list;
}
