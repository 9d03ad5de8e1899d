// SPDX-License-Identifier: GPL-3.0-or-later
// Follows the server. Each patch has the rows that changed, as HTML that the server has escaped, and the order of the lists that changed.

import { mark } from "./call.js";

// parsed is an element made of a row's HTML. A template's content runs nothing.
function parsed(html) {
  const t = document.createElement("template");
  t.innerHTML = html;
  return t.content.firstElementChild;
}

// morph makes one element like another, and keeps what is alike: so the focus stays where it is.
function morph(have, want) {
  if (have.isEqualNode(want)) return;
  for (const a of [...have.attributes]) if (!want.hasAttribute(a.name)) have.removeAttribute(a.name);
  for (const a of want.attributes) if (have.getAttribute(a.name) !== a.value) have.setAttribute(a.name, a.value);
  const old = [...have.childNodes], now = [...want.childNodes];
  now.forEach((n, i) => {
    const o = old[i];
    if (!o) have.append(n);
    else if (o.nodeType !== n.nodeType || o.nodeName !== n.nodeName) o.replaceWith(n);
    else if (n.nodeType === Node.ELEMENT_NODE) morph(o, n);
    else if (o.nodeValue !== n.nodeValue) o.nodeValue = n.nodeValue;
  });
  old.slice(now.length).forEach((o) => o.remove());
}

// arrange gives a list rows that are new or differ, by their keys, and the order of its keys, where that changed. What stays keeps the focus.
export function arrange(list, rows, order) {
  const have = new Map([...list.children].map((e) => [e.dataset.key, e]));
  for (const [key, row] of rows) {
    const old = have.get(key);
    if (old) morph(old, row);
    else have.set(key, row);
  }
  if (!order) return;
  const keys = new Set(order);
  for (const [key, e] of have) if (!keys.has(key)) e.remove();
  order.forEach((key, i) => {
    const e = have.get(key);
    if (list.children[i] !== e) list.insertBefore(e, list.children[i] || null);
  });
}

function apply(changes) {
  for (const [name, change] of Object.entries(changes)) {
    const list = document.querySelector(`[data-group="${name}"]`);
    if (!list) continue;
    arrange(list, Object.entries(change.r || {}).map(([key, html]) => [key, parsed(html)]), change.x ? [] : change.o);
  }
}

let source = null, seen = "", asked = "", on = {};

function tell(text, lost) {
  const link = document.getElementById("link");
  if (link.textContent.trim() === text) return;
  link.classList.toggle("lost", lost);
  link.replaceChildren(mark(lost ? "ring" : "full"), " " + text);
}

function open() {
  source?.close();
  const mine = source = new EventSource("/page/events?after=" + encodeURIComponent(seen) + asked);
  mine.onopen = () => tell("live", false);
  mine.addEventListener("patch", (event) => {
    seen = event.lastEventId;
    const changes = JSON.parse(event.data);
    apply(changes);
    on.changed(changes);
  });
  mine.addEventListener("log", (event) => on.lines(JSON.parse(event.data), true));
  mine.addEventListener("lines", (event) => on.lines(JSON.parse(event.data), false));
  mine.onerror = () => {
    if (mine !== source) return;
    tell("not connected, trying again", true);
    if (mine.readyState === EventSource.CLOSED) setTimeout(again, 2000, mine);
  };
}

async function again(lost) { // the browser gave up: either nobody answers, or this page may not follow any more
  if (lost !== source) return; // another one was opened meanwhile
  try {
    const answer = await fetch("/page/events", { method: "HEAD" });
    if (answer.status === 401 || answer.status === 403) return location.reload();
    if (answer.ok && lost === source) return open();
  } catch { /* nobody answers */ }
  setTimeout(again, 2000, lost);
}

// follow begins with what the page has. On.changed is called with what a patch changed, and on.lines with lines of the log.
export function follow(has, handlers) {
  seen = has;
  on = handlers;
  open();
}

// ask says what the one stream has beside the patches. It goes on where it was.
export function ask(query) {
  if (query === asked) return;
  asked = query;
  if (source) open();
}
