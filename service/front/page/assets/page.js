// SPDX-License-Identifier: GPL-3.0-or-later
// Which view is shown, the times that count, and the buttons that call the API.
import { call, clock, said } from "./call.js";
import { ask, follow } from "./live.js";
import { onFilter, only, openLog, take, wanted } from "./logs.js";
import { showTask, showTasks, staleTasks } from "./tasks.js";
import { openPlayground } from "./play.js";

const views = ["overview", "tasks", "models", "logs", "playground"];
let shown = "";

function view() {
  const next = views.includes(location.hash.slice(1)) ? location.hash.slice(1) : "overview";
  for (const name of views) document.getElementById(name).hidden = name !== next;
  for (const a of document.querySelectorAll("nav a")) {
    if (a.hash === "#" + next) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
  document.title = next === "overview" ? "llama-orch" : next[0].toUpperCase() + next.slice(1) + " – llama-orch";
  if (shown && shown !== next) document.getElementById("main").focus({ preventScroll: true });
  if (shown !== next && next === "tasks") showTasks();
  if (shown !== next && next === "playground") openPlayground();
  if (shown !== next && next === "logs") openLog();
  shown = next;
  ask(shown === "logs" ? wanted() : "");
}

function left(ms) {
  const s = Math.ceil(ms / 1000);
  if (s <= 0) return "any moment";
  if (s < 60) return s + " s";
  if (s < 3600) return Math.floor(s / 60) + " m " + String(s % 60).padStart(2, "0") + " s";
  return Math.floor(s / 3600) + " h " + String(Math.floor((s % 3600) / 60)).padStart(2, "0") + " m";
}

function tick() {
  const now = Date.now();
  for (const t of document.querySelectorAll("time[data-at]")) {
    const at = Number(t.dataset.at);
    const text = t.dataset.as === "left" ? left(at - now) : clock.format(at);
    if (t.textContent !== text) t.textContent = text;
  }
}

document.addEventListener("click", async (event) => {
  const target = event.target.closest("button, a");
  if (!target) return;
  if (target.dataset.task) showTask(target.dataset.task);
  if (target.dataset.state !== undefined) {
    document.forms["tasks-form"].elements.state.value = target.dataset.state;
    if (shown === "tasks") showTasks();
  }
  if (target.dataset.log) {
    target.closest("dialog").close();
    only(target.dataset.log);
    if (shown === "logs") ask(wanted());
    else location.hash = "logs";
  }
  if (target.dataset.call) {
    target.disabled = true;
    try {
      await call(target.dataset.call, target.dataset.path, target.dataset.body);
      said(target.dataset.done);
    } catch (error) {
      said(error.message);
    } finally {
      target.disabled = false;
    }
  }
});

addEventListener("hashchange", view);
view();
onFilter(() => ask(wanted()));
follow(document.body.dataset.seen, {
  lines: take,
  changed(changes) {
    tick();
    // A task that comes, begins or ends changes one of these.
    if (shown === "tasks" && (changes.running?.o || changes.recent?.o || changes.totals?.r?.waiting)) staleTasks();
  },
});
tick();
setInterval(tick, 1000);
