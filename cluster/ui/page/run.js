// The list of runs and datasets, and the live funnel of a run.
import {count, get, make, plain, words} from "./make.js";

const POLL_MS = 2000;
export const dataLink = (name, more = "") => "#/data/" + encodeURIComponent(name) + more;
const when = seconds => new Date(seconds * 1000).toLocaleString("sv").slice(0, 16);
const badge = state => make("span", {class: "badge " + state}, state);

export async function home(main, alive) {
  const found = await get("/api/store");
  if (!alive()) return;
  document.title = "Gristmill · " + found.store;
  document.getElementById("person").textContent = "decides as " + found.by;
  const runs = found.runs.sort((a, b) => b.started - a.started).map(run => make("tr", {},
    make("td", {}, make("a", {href: "#/run/" + encodeURIComponent(run.run)}, run.run)),
    make("td", {}, badge(run.state)),
    make("td", {class: "num hide-narrow"}, run.started ? when(run.started) : ""),
    make("td", {class: "soft hide-narrow"}, Object.entries(run.jobs).map(([job, state]) => job + " " + state).join(", "))));
  const datasets = found.datasets.filter(one => one.kind === "samples").map(one => make("tr", {},
    make("td", {}, make("a", {href: dataLink(one.dataset)}, one.dataset)),
    make("td", {class: "num"}, count(one.rows)),
    make("td", {class: "num"}, count(one.kept)),
    make("td", {class: "num hide-narrow"}, count(one.rows - one.kept))));
  const head = (...names) => make("thead", {}, make("tr", {}, names.map(([name, kind]) => make("th", {class: kind}, name))));
  const box = (title, heads, rows, none) => [make("h2", {}, title), make("div", {class: "card scroll"},
    rows.length ? make("table", {}, head(...heads), make("tbody", {}, rows)) : make("p", {class: "empty"}, none))];
  const opt = "hide-narrow";
  main.replaceChildren(make("div", {class: "narrow-main"},
    make("h1", {}, found.store),
    ...(found.damaged || []).map(said => make("div", {class: "error"}, said)),
    box("Runs", [["run", ""], ["state", ""], ["started", "num " + opt], ["jobs", opt]], runs, "No run yet."),
    box("Datasets", [["dataset", ""], ["rows", "num"], ["kept", "num"], ["dropped", "num " + opt]], datasets,
      "No dataset of samples yet.")));
  if (found.runs.some(run => run.state === "running")) setTimeout(() => alive() && home(main, alive), POLL_MS);
}

export async function run(main, alive, name) {
  const found = await get("/api/run", {name});
  if (!alive()) return;
  document.title = found.name + " · Gristmill";
  const live = found.state === "running";
  const age = Math.max(0, Math.round(found.now - found.ended));
  main.replaceChildren(make("div", {class: "narrow-main"},
    make("h1", {}, found.name + " ", badge(found.state)),
    make("div", {class: "facts"},
      make("span", {}, found.run),
      found.started > 0 && make("span", {}, "started " + when(found.started)),
      make("span", {}, live ? "last event " + age + " s ago" : "last event " + when(found.ended)),
      found.attempts > 1 && make("span", {}, found.attempts + " attempts")),
    found.error && make("div", {class: "error"}, found.error),
    found.jobs.map(job)));
  const more = found.jobs.some(one => one.uncounted);
  if (live || more) setTimeout(() => alive() && run(main, alive, name), more ? 100 : POLL_MS);
}

function job(one) {
  const card = make("section", {class: "card job"}, make("header", {},
    make("b", {}, words(one.job)), badge(one.state),
    one.rows !== undefined && one.complete && make("a", {href: dataLink(one.output)}, "samples"),
    make("span", {class: "soft"}, one.output)));
  if (one.shards > 0 && !one.complete) {
    const done = make("i");
    done.style.width = 100 * one.shards_done / one.shards + "%";
    card.append(make("div", {class: "progress"}, done),
      make("div", {class: "soft"}, count(one.shards_done) + " of " + count(one.shards) + " shards"));
  }
  if (one.rows) card.append(funnel(one));
  return card;
}

function funnel(one) {
  const box = make("div", {class: "funnel"});
  const line = (label, number, kind, query) => {
    const bar = make("div", {class: "bar " + kind});
    bar.style.width = 100 * number / one.rows + "%";
    const name = one.complete ? make("a", {class: "label", href: dataLink(one.output, query)}, plain(label))
      : make("span", {class: "label"}, plain(label));
    const share = (100 * number / one.rows).toFixed(1) + " %";
    box.append(name, make("div", {}, bar), make("span", {class: "num"}, count(number) + "  ·  " + share));
  };
  line("kept", one.kept, "kept", "?state=kept");
  for (const [reason, number] of one.reasons) line(reason, number, "", "?state=dropped&reason=" + encodeURIComponent(reason));
  return box;
}
