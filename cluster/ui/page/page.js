// Routes of the page: #/ (the store), #/run/NAME, #/data/NAME?filters.
import {get, make, Refused, takeToken} from "./make.js";
import {home, run} from "./run.js";
import {dataset, pressed} from "./list.js";

const main = document.getElementById("main");
const help = document.getElementById("help");
let turn = 0;

async function route() {
  const mine = ++turn, alive = () => mine === turn;
  const [path, query = ""] = location.hash.slice(1).split("?");
  const [, kind = "", coded = ""] = path.split("/");
  let name = "";
  try {
    name = decodeURIComponent(coded);
  } catch { /* not a name: it is looked up as it is, and refused */ name = coded; }
  document.getElementById("path").replaceChildren(...(kind ? [make("a", {href: "#/"}, "store"), make("span", {}, name)] : []));
  try {
    if (kind === "run") await run(main, alive, name);
    else if (kind === "data") await dataset(main, alive, name, new URLSearchParams(query));
    else await home(main, alive);
  } catch (error) {
    if (!alive()) return;
    const said = error instanceof TypeError ? "The server does not answer. Start `gristmill ui` again." : error.message;
    main.replaceChildren(make("div", {class: "narrow-main"}, make("div", {class: "error"}, said)));
    if (!(error instanceof Refused)) console.error(error);
  }
}

document.getElementById("help-button").addEventListener("click", () => help.showModal());
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.matches("input, textarea, select");
  if (event.key === "?" && !typing) {
    help.showModal();
    event.preventDefault();
  } else if (location.hash.startsWith("#/data/")) pressed(event, typing);
});
window.addEventListener("hashchange", route);
takeToken();
get("/api/store").then(found => {
  document.getElementById("person").textContent = "decides as " + found.by;
}, () => {});
route();
