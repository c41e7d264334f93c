// Elements, texts and requests. Texts of samples become text nodes alone, never HTML.

export const make = (tag, attributes = {}, ...inner) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (name in node && name !== "list") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...inner.flat().filter(one => one !== undefined && one !== null && one !== false));
  return node;
};

export const count = number => number.toLocaleString("en");
export const words = name => name.replaceAll("_", " ");

// Characters that are not seen, or that turn the direction of a text, are shown as escapes.
const HIDDEN = /([\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u200b\u202a-\u202e\u2066-\u2069\ufeff]|\r(?!\n))/;

export const plain = text => text.split(HIDDEN).map((part, n) => n % 2 ? escaped(part) : part).join("");
const escaped = sign => "\\u" + sign.codePointAt(0).toString(16).padStart(4, "0");

// A score: a number, or the name of one that is not finite.
export const score = (value, digits) => typeof value === "number" ? Number(value.toFixed(digits)) : value;

export function shown(text, wanted = "") {
  const found = wanted.trim() ? new RegExp("(" + wanted.replace(/[.*+?^${}()|[\]\\]/g, "\\$&") + ")", "giu") : null;
  const nodes = [];
  for (const [place, part] of text.split(HIDDEN).entries()) {
    if (place % 2) {
      nodes.push(make("span", {class: "escape"}, escaped(part)));
    } else if (found) {
      part.split(found).forEach((piece, n) => nodes.push(n % 2 ? make("mark", {}, piece) : piece));
    } else nodes.push(part);
  }
  return nodes;
}

const KEY = "gristmill-token";

export function takeToken() {
  const given = location.hash.match(/^#token=([\w-]+)/);
  if (!given) return;
  localStorage.setItem(KEY, given[1]);
  history.replaceState(null, "", "/#/");
}

export class Refused extends Error {}

async function answer(response) {
  const value = await response.json();
  if (response.status === 401) throw new Refused(value.error);
  if (!response.ok) throw new Error(value.error);
  return value;
}

const headers = () => ({Authorization: "Bearer " + (localStorage.getItem(KEY) || "")});

export const get = async (path, asked = {}) => answer(await fetch(path + "?" + new URLSearchParams(asked), {headers: headers()}));

export const post = async (path, body) => answer(await fetch(path, {
  method: "POST", headers: {...headers(), "Content-Type": "application/json"}, body: JSON.stringify(body)}));

let hide = 0;
export function toast(...inner) {
  const box = document.getElementById("toast");
  box.replaceChildren(...inner);
  box.classList.add("shown");
  clearTimeout(hide);
  hide = setTimeout(() => box.classList.remove("shown"), 6000);
}

// Runs an action, and says its error in words.
export const told = action => async (...given) => {
  try {
    return await action(...given);
  } catch (error) {
    toast(error instanceof TypeError ? "the server does not answer; start `gristmill ui` again" : error.message);
    return undefined;
  }
};
