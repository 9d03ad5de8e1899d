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

function apply(changes) {
  for (const [name, change] of Object.entries(changes)) {
    const list = document.querySelector(`[data-group="${name}"]`);
    if (!list) continue;
    const have = new Map([...list.children].map((e) => [e.dataset.key, e]));
    for (const [key, html] of Object.entries(change.r || {})) {
      const row = parsed(html), old = have.get(key);
      if (old) morph(old, row);
      else have.set(key, row);
    }
    if (change.x) list.replaceChildren();
    if (!change.o) continue;
    const keys = new Set(change.o);
    for (const [key, e] of have) if (!keys.has(key)) e.remove();
    change.o.forEach((key, i) => {
      const e = have.get(key);
      if (list.children[i] !== e) list.insertBefore(e, list.children[i] || null);
    });
  }
}

export function follow(seen, changed) {
  const link = document.getElementById("link");
  const tell = (text, lost) => {
    if (link.textContent.trim() === text) return;
    link.classList.toggle("lost", lost);
    link.replaceChildren(mark(lost ? "ring" : "full"), " " + text);
  };
  const open = () => {
    const source = new EventSource("/page/events?after=" + encodeURIComponent(seen));
    source.onopen = () => tell("live", false);
    source.addEventListener("patch", (event) => {
      seen = event.lastEventId;
      apply(JSON.parse(event.data));
      changed();
    });
    source.onerror = () => {
      tell("not connected, trying again", true);
      if (source.readyState === EventSource.CLOSED) setTimeout(again, 2000);
    };
  };
  const again = async () => { // the browser gave up: either nobody answers, or this page may not follow any more
    try {
      const answer = await fetch("/page/events", { method: "HEAD" });
      if (answer.status === 401 || answer.status === 403) return location.reload();
      if (answer.ok) return open();
    } catch { /* nobody answers */ }
    setTimeout(again, 2000);
  };
  open();
}
