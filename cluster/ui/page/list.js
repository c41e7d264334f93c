// A dataset: search, filters, rows, decisions by keyboard.
import {count, get, make, plain, post, score, shown, toast, told, words} from "./make.js";
import {detail} from "./detail.js";
import {dataLink} from "./run.js";

const VIEWS = [["", "All"], ["kept", "Kept"], ["dropped", "Dropped"], ["both", "Side by side"]];
const FILTERS = ["words", "method", "reason", "tag", "score", "low", "high", "decision", "sort"];
const WAIT_MS = 120;
let view = null;

export async function dataset(main, alive, name, given) {
  let facts = await get("/api/dataset", {dataset: name});
  document.title = name + " · Gristmill";
  while (alive() && facts.building !== undefined) {
    const done = make("i");
    done.style.width = 100 * facts.building / facts.rows + "%";
    main.replaceChildren(make("h1", {}, name), make("div", {class: "progress"}, done),
      make("p", {class: "soft"}, "The index is being built: " + count(facts.building) + " of " + count(facts.rows) + " rows. This is done once."));
    await new Promise(resume => setTimeout(resume, 400));
    facts = await get("/api/dataset", {dataset: name});
  }
  if (!alive()) return;
  view = new View(main, alive, name, facts, given);
  await view.load();
}

export function pressed(event, typing) {
  if (view && view.alive()) view.pressed(event, typing);
}

class View {
  constructor(main, alive, name, facts, given) {
    Object.assign(this, {main, alive, name, facts, turn: 0, open: null, editing: false});
    this.state = given.get("state") || "";
    this.asked = Object.fromEntries(FILTERS.map(key => [key, given.get(key) || ""]));
    this.start = given.get("row");
    this.columns = [];
    this.column = 0;
    this.build();
  }

  address() {
    const set = Object.entries({state: this.state, ...this.asked}).filter(([, value]) => value);
    return new URLSearchParams(set).toString();
  }

  build() {
    const {facts} = this;
    this.search = make("input", {type: "search", placeholder: "Search texts, ids, tags and reasons", value: this.asked.words,
      "aria-label": "Search", spellcheck: false, oninput: () => this.later("words", this.search.value)});
    this.segments = make("div", {class: "segments", role: "group", "aria-label": "Kept or dropped"}, VIEWS.map(([state, name]) =>
      make("button", {onclick: () => this.show(state), "data-state": state}, name)));
    const filters = make("div", {class: "controls filters"}, this.filters(facts));
    this.status = make("div", {class: "status"});
    this.split = make("div", {class: "split"});
    this.list = make("div");
    this.bottom = make("div", {class: "bottom", hidden: true});
    const inputs = Object.values(facts.inputs).map(other => make("span", {}, "made of ", make("a", {href: dataLink(other)}, plain(other))));
    this.split.append(this.list);
    this.main.replaceChildren(make("h1", {}, this.name), make("div", {class: "facts"},
      make("span", {}, count(facts.rows) + " rows"), make("span", {}, count(facts.kept) + " kept"), inputs,
      facts.metadata.decided_by && make("span", {}, "decided by " + facts.metadata.decided_by)),
    make("div", {class: "controls"}, this.search, this.segments), filters, this.status, this.split, this.bottom);
    this.pressSegment();
    this.decisions(facts.decisions);
  }

  choice(key, label, entries) {
    const node = make("select", {"aria-label": label, onchange: () => this.set(key, node.value)},
      make("option", {value: ""}, label), entries);
    node.value = this.asked[key];
    return node;
  }

  filters(facts) {
    const option = (value, text) => make("option", {value}, plain(text));
    const counted = entries => entries.map(([word, kept, dropped]) => [word, kept + dropped]).sort((a, b) => b[1] - a[1]);
    const cut = text => text.length > 60 ? text.slice(0, 59) + "…" : text;
    const methods = counted(facts.method).map(([word, number]) => option(word, words(word) + " (" + count(number) + ")"));
    const kinds = new Map();
    for (const entry of counted(facts.reason)) {
      const kind = entry[0].split(": ")[0];
      kinds.set(kind, [...(kinds.get(kind) || []), entry]);
    }
    const reasons = [...kinds].map(([kind, entries]) => make("optgroup", {label: plain(kind)},
      entries.length > 1 && option(kind, kind + ": any (" + count(entries.reduce((sum, one) => sum + one[1], 0)) + ")"),
      entries.map(([word, number]) => option(word, cut(word) + " (" + count(number) + ")"))));
    const tags = Object.entries(facts.tags).map(([name, entries]) => make("optgroup", {label: plain(name)},
      counted(entries).map(([word, number]) => option(JSON.stringify([name, word]), name + " = " + cut(word) + " (" + count(number) + ")"))));
    const names = Object.keys(facts.scores);
    const scores = names.map(name => option(name, words(name)));
    const sorts = names.flatMap(name => [option("highest:" + name, words(name) + ", highest first"),
      option("lowest:" + name, words(name) + ", lowest first")]);
    this.range = make("span", {class: "controls range"});
    const found = [
      methods.length > 1 && this.choice("method", "Any method", methods),
      reasons.length > 0 && this.choice("reason", "Any reason", reasons),
      tags.length > 0 && this.choice("tag", "Any tag", tags),
      names.length > 0 && this.choice("score", "Any score", scores),
      this.range,
      this.choice("decision", "Decided or not", [option("any", "decided"), ...["accepted", "rejected", "edited"].map(one => option(one, one))]),
      names.length > 0 && this.choice("sort", "In their order", sorts),
    ];
    this.scoreRange();
    return found;
  }

  scoreRange() {
    const range = this.facts.scores[this.asked.score];
    this.range.replaceChildren();
    if (!range) return;
    const field = (key, label, value) => {
      const node = make("input", {type: "number", step: "any", placeholder: value.toPrecision(3), value: this.asked[key],
        "aria-label": label, oninput: () => this.later(key, node.value)});
      return node;
    };
    const most = Math.max(1, ...range.kept.map((one, n) => one + range.dropped[n]));
    const bars = make("span", {class: "hist", title: "kept (blue) and dropped rows by " + words(this.asked.score)},
      range.kept.map((one, n) => {
        const kept = make("b"), dropped = make("u");
        kept.style.height = 100 * one / most + "%";
        dropped.style.height = 100 * range.dropped[n] / most + "%";
        return make("i", {}, dropped, kept);
      }));
    this.range.append(field("low", "Least", range.low), bars, field("high", "Most", range.high));
  }

  later(key, value) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.set(key, value), WAIT_MS);
  }

  set(key, value) {
    this.asked[key] = value;
    if (key === "score") {
      Object.assign(this.asked, {low: "", high: ""});
      this.scoreRange();
    }
    this.load();
  }

  show(state) {
    this.state = state;
    this.pressSegment();
    this.close();
    this.load();
  }

  pressSegment() {
    for (const button of this.segments.children) button.setAttribute("aria-pressed", String(button.dataset.state === this.state));
  }

  // Reads the first page of each column.
  load = told(async () => {
    const mine = ++this.turn;
    const states = this.state === "both" ? ["kept", "dropped"] : [this.state];
    const found = await Promise.all(states.map(state => this.page(state, 0)));
    if (mine !== this.turn || !this.alive()) return;
    const query = this.address();
    history.replaceState(null, "", dataLink(this.name, query ? "?" + query : ""));
    this.columns = states.map((state, n) => ({state, ...found[n], at: 0}));
    this.column = Math.min(this.column, this.columns.length - 1);
    this.draw();
    if (this.start) {
      const row = Number(this.start);
      this.start = null;
      await this.look(row);
    } else if (this.open !== null) await this.look(this.current()?.row);
  });

  page(state, page) {
    return get("/api/rows", {dataset: this.name, page, state, ...Object.fromEntries(Object.entries(this.asked).filter(([, value]) => value))});
  }

  turnPage = told(async (column, by) => {
    const page = column.page + by;
    if (page < 0 || page >= column.pages) return;
    const mine = ++this.turn, found = await this.page(column.state, page);
    if (mine !== this.turn || !this.alive()) return;
    Object.assign(column, found, {at: 0});
    this.draw();
    window.scrollTo(0, 0);
    if (this.open !== null) await this.look(this.current()?.row);
  });

  draw() {
    const one = this.columns.length === 1;
    const slow = Math.max(...this.columns.map(column => column.milliseconds));
    const total = this.columns.reduce((sum, column) => sum + column.total, 0);
    this.status.replaceChildren(make("span", {id: "total"}, count(total) + " of " + count(this.facts.rows) + " rows"),
      make("span", {}, slow.toFixed(0) + " ms"), one ? this.pager(this.columns[0]) : "");
    const lists = this.columns.map((column, n) => this.rows(column, n));
    this.split.classList.toggle("both", !one);
    this.list.replaceChildren(one ? lists[0] : make("div", {class: "pair"}, this.columns.map((column, n) =>
      make("section", {}, make("h3", {}, make("span", {class: "dot " + column.state}, column.state), count(column.total), this.pager(column)), lists[n]))));
    this.mark();
  }

  pager(column) {
    if (column.pages < 2) return make("span", {class: "pager"});
    return make("span", {class: "pager"},
      make("button", {class: "quiet", disabled: column.page === 0, "aria-label": "Page before", onclick: () => this.turnPage(column, -1)}, "‹"),
      make("span", {}, count(column.page + 1) + " / " + count(column.pages)),
      make("button", {class: "quiet", disabled: column.page + 1 >= column.pages, "aria-label": "Next page", onclick: () => this.turnPage(column, 1)}, "›"));
  }

  rows(column, n) {
    if (!column.rows.length) return make("div", {class: "rows empty"}, "No row is like this.");
    return make("ol", {class: "rows"}, column.rows.map((row, at) => {
      const node = make("li", {class: row.dropped ? "dropped" : "", onclick: () => this.go(n, at, true)},
        make("div", {class: "clip ask"}, shown(row.instruction || "(no text of a user)", this.asked.words)),
        make("div", {class: "clip reply"}, shown(row.answer, this.asked.words)),
        make("div", {class: "meta"},
          make("span", {class: "dot " + (row.dropped ? "" : "kept")}, shown(words(row.method))),
          row.dropped && make("span", {class: "why"}, shown(row.dropped, this.asked.words)),
          Object.entries(row.scores).slice(0, 4).map(([name, value]) => make("span", {}, shown(words(name) + " " + score(value, 3)))),
          make("span", {class: "verdict"})));
      row.node = node;
      this.verdict(row);
      return node;
    }));
  }

  verdict(row) {
    const place = row.node.querySelector(".verdict");
    place.className = "verdict" + (row.verdict ? " badge " + row.verdict : "");
    place.textContent = row.verdict || "";
  }

  current() {
    const column = this.columns[this.column];
    return column && column.rows[column.at];
  }

  mark() {
    for (const node of this.list.querySelectorAll("li.current")) node.classList.remove("current");
    this.current()?.node.classList.add("current");
  }

  go(column, at, open = false) {
    if (this.editing) return;
    this.column = column;
    this.columns[column].at = at;
    this.mark();
    this.current().node.scrollIntoView({block: "nearest"});
    if (open || this.open !== null) this.look(this.current().row);
  }

  move = told(async by => {
    const column = this.columns[this.column];
    if (!column || !column.rows.length) return;
    const at = column.at + by;
    if (at >= column.rows.length) {
      if (column.page + 1 < column.pages) await this.turnPage(column, 1);
    } else if (at < 0) {
      if (column.page > 0) {
        await this.turnPage(column, -1);
        this.go(this.column, column.rows.length - 1);
      }
    } else this.go(this.column, at);
  });

  // Shows a whole row, which need not be in the list.
  look = told(async row => {
    if (row === undefined) return this.close();
    this.open = row;
    const mine = this.lookTurn = (this.lookTurn || 0) + 1;
    const found = await get("/api/row", {dataset: this.name, row});
    if (mine !== this.lookTurn || this.open !== row || !this.alive()) return undefined;
    this.panel?.remove();
    this.panel = detail(this, found);
    this.split.append(this.panel);
    this.split.classList.add("open");
    return this.panel.relatives(() => mine === this.lookTurn && this.alive());
  });

  close() {
    this.open = null;
    this.editing = false;
    this.panel?.remove();
    this.panel = null;
    this.split.classList.remove("open");
  }

  // -- decisions

  decide = told(async (verdict, more = {}) => {
    const row = this.open ?? this.current()?.row;
    if (row === undefined) return;
    const found = await post("/api/decide", {dataset: this.name, row, verdict, ...more});
    if (this.editing) document.activeElement.blur();  // the next key is no text of the edit
    this.editing = false;
    this.decisions(found.decisions);
    for (const column of this.columns) for (const one of column.rows) if (one.row === row) {
      one.verdict = verdict || "";
      this.verdict(one);
    }
    if (verdict && this.current()?.row === row) await this.move(1);
    if (this.open === row) await this.look(row);
  });

  reject() {
    const box = document.getElementById("note"), text = document.getElementById("note-text");
    text.value = "";
    box.returnValue = "";
    box.addEventListener("close", () => box.returnValue === "keep" && this.decide("rejected", {note: text.value}), {once: true});
    box.showModal();
  }

  decisions(found) {
    const parts = Object.entries(found).filter(([, number]) => number);
    this.bottom.hidden = !parts.length;
    this.bottom.replaceChildren(...parts.map(([name, number]) => make("span", {class: "badge " + name}, count(number) + " " + name)),
      make("span", {class: "soft hide-narrow"}, "The dataset itself stays as it is."),
      make("button", {class: "main", id: "save", onclick: () => this.save()}, "Save as a new dataset"));
  }

  save = told(async () => {
    if (this.bottom.hidden) return;
    const button = document.getElementById("save");
    Object.assign(button, {disabled: true, textContent: "Saving…"});
    try {
      const made = await post("/api/save", {dataset: this.name});
      toast("Saved: ", make("a", {href: dataLink(made.dataset), id: "saved"}, made.dataset), " with " + count(made.kept) + " kept rows");
    } finally {
      Object.assign(button, {disabled: false, textContent: "Save as a new dataset"});
    }
  });

  pressed(event, typing) {
    const {key} = event;
    if (key === "Escape") {
      if (this.editing) this.look(this.open).then(() => { this.editing = false; });
      else if (typing) {
        event.preventDefault();  // else a field for searching is emptied
        event.target.blur();
      }
      else this.close();
      return;
    }
    if (typing || this.editing) return;
    const keys = {
      j: () => this.move(1), ArrowDown: () => this.move(1), k: () => this.move(-1), ArrowUp: () => this.move(-1),
      h: () => this.side(0), ArrowLeft: () => this.side(0), l: () => this.side(1), ArrowRight: () => this.side(1),
      n: () => this.turnPage(this.columns[this.column], 1), p: () => this.turnPage(this.columns[this.column], -1),
      a: () => this.decide("accepted"), r: () => this.decide("rejected"), R: () => this.reject(), u: () => this.decide(null),
      e: () => this.edit(), s: () => this.save(), "/": () => this.search.select(),
      Enter: () => this.open === null ? this.look(this.current()?.row) : this.close(),
    };
    const view = "1234".indexOf(key);
    const act = key in keys ? keys[key] : view >= 0 ? () => this.show(VIEWS[view][0]) : null;
    if (!act || (key === "Enter" && event.target.matches("button, a"))) return;
    event.preventDefault();
    act();
  }

  side(column) {
    if (this.columns.length > column && this.columns[column].rows.length) this.go(column, this.columns[column].at);
  }

  edit = told(async () => {
    if (this.open === null) await this.look(this.current()?.row);
    this.panel?.edit();
  });
}
