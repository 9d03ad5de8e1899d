// SPDX-License-Identifier: GPL-3.0-or-later
// Calls of the native API, with the cookie of the page.

export async function call(method, path, body) {
  const headers = body ? { "Content-Type": "application/json" } : {};
  const answer = await fetch(path, { method, headers, body: body || undefined });
  const text = await answer.text();
  const value = text && answer.headers.get("Content-Type")?.startsWith("application/json") ? JSON.parse(text) : {};
  if (answer.status === 401) location.reload();
  if (!answer.ok) throw new Error(value.message || "the server answered " + answer.status);
  return value;
}

export function said(text) {
  document.getElementById("said").textContent = text;
}

// make is an element with a text and attributes. Texts are never read as HTML.
export function make(name, text, attributes = {}) {
  const e = document.createElement(name);
  if (text !== undefined) e.textContent = text;
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
  return e;
}

// mark is the shape of a state.
export function mark(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg"), use = document.createElementNS(space, "use");
  for (const [key, value] of Object.entries({ class: "mark", "aria-hidden": "true", width: 12, height: 12 })) svg.setAttribute(key, value);
  use.setAttribute("href", "#mark-" + name);
  svg.append(use);
  return svg;
}
