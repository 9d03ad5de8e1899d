// SPDX-License-Identifier: GPL-3.0-or-later
// The view of the server's log. Its lines come on the stream that the page follows anyway, while the view is open.
import { clock, make, mark } from "./call.js";

const most = 500; // lines that are shown, and that are kept while nothing may move
const form = document.forms["log-form"], list = document.getElementById("log-lines"), hold = document.getElementById("log-hold");
let waiting = [], asked = 0, held = false, begins = false;

// wanted is what the stream is asked for.
export function wanted() {
  const ask = new URLSearchParams({ log: "on" });
  for (const name of ["level", "pool_id", "task_id", "text"]) {
    const value = form.elements[name].value.trim();
    if (value) ask.set(name, value);
  }
  return "&" + ask;
}

export function openLog() {
  const pools = [...document.querySelectorAll("[data-group=switches] [data-key]")].map((e) => e.dataset.key);
  const select = form.elements.pool_id, chosen = select.value;
  select.replaceChildren(make("option", "all", { value: "" }), ...pools.map((id) => make("option", id, { value: id })));
  if (pools.includes(chosen)) select.value = chosen;
  hold.setAttribute("aria-pressed", held = false);
}

// only shows the log of one task.
export function only(task) {
  form.reset();
  form.elements.task_id.value = task;
}

// What the sentence says, or what its own places show.
const said = new Set(["ts", "level", "logger", "msg", "human", "actor", "action", "target", "audit", "job_id", "task"]);
// Of a task, and 0 while they are not known.
const figures = new Set(["queue_position", "predicted_start_ms", "tokens_in", "tokens_out", "decode_time_ms"]);

function fields(line) {
  return Object.entries(line).filter(([name, value]) => !said.has(name) && value !== "" && !(figures.has(name) && value === 0) && (!line.human || name === "code"))
    .map(([name, value]) => name + "=" + (typeof value === "string" ? value : JSON.stringify(value))).join(" ");
}

const tones = { debug: "calm", info: "calm", warn: "busy", error: "bad" };

function row(line) {
  if (typeof line === "number") return make("p", line + (line === 1 ? " line is missing here" : " lines are missing here"), { class: "gap" });
  const p = make("p"), at = Date.parse(line.ts), level = make("span", undefined, { class: "state " + (tones[line.level] || "bad") });
  if (tones[line.level] !== "calm") level.append(mark(line.level === "warn" ? "half" : "cross"), " ");
  level.append(line.level);
  p.append(make("time", clock.format(at) + "." + String(at % 1000).padStart(3, "0")), " ", level, " ", make("span", line.logger || "", { class: "dim" }), " ", line.human || line.msg, " ");
  if (line.job_id) p.append(make("button", line.task || line.job_id.slice(0, 8), { type: "button", class: "link", "data-task": line.job_id, "aria-label": "Details of task " + line.job_id }), " ");
  p.append(make("span", fields(line), { class: "dim" }));
  return p;
}

function tell() {
  const count = document.getElementById("log-count"), shown = list.children.length;
  count.textContent = held ? waiting.length + " more" + (waiting.length >= most ? " or so" : "") + " wait" : shown === 0 ? "No such line yet." : shown >= most ? "the newest " + most : shown + " lines";
}

function draw() {
  asked = 0;
  if (held) return tell();
  const end = list.scrollHeight - list.scrollTop - list.clientHeight < 40, fresh = waiting.splice(0);
  if (begins) list.replaceChildren();
  begins = false;
  list.setAttribute("aria-live", fresh.length > 5 ? "off" : "polite"); // nobody can listen to a flood
  list.append(...fresh.map(row));
  while (list.children.length > most) list.firstElementChild.remove();
  if (end) list.scrollTop = list.scrollHeight;
  tell();
}

// take takes lines as they come. Anew: they begin with the oldest that is wanted.
export function take(lines, anew) {
  if (anew) {
    waiting = [];
    begins = true;
  }
  waiting.push(...lines);
  if (waiting.length > most) {
    const gone = waiting.splice(0, waiting.length - most + 1);
    waiting.unshift(gone.reduce((n, line) => n + (typeof line === "number" ? line : 1), 0));
  }
  if (!asked) asked = requestAnimationFrame(draw);
}

hold.addEventListener("click", () => {
  hold.setAttribute("aria-pressed", held = !held);
  draw();
});

// onFilter is called when another filter is wanted.
export function onFilter(changed) {
  form.addEventListener("submit", (event) => { event.preventDefault(); changed(); });
  form.addEventListener("change", changed);
}
