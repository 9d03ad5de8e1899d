// SPDX-License-Identifier: GPL-3.0-or-later
// The list of tasks, and the dialog with everything about one.
import { call, clock, make, mark } from "./call.js";
import { arrange } from "./live.js";

const page = 100, most = 500;
const marks = { queued: "ring", running: "play", completed: "tick", failed: "cross", canceled: "dash" };
const tones = { running: "busy", completed: "good", failed: "bad" };
const restMS = 3000; // between two reads of the list
let list = [], drawn = 0, next;

function state(word) {
  const e = make("span", undefined, { class: "state " + (tones[word] || "calm") });
  e.append(mark(marks[word] || "ring"), " " + word);
  return e;
}

function energy(t) {
  if (t.energy_j === undefined) return "";
  return t.energy_j.toFixed(1) + " J" + (t.energy_cost === undefined ? "" : ", at a cost of " + t.energy_cost.toPrecision(3));
}

function cell(name, content, kind = "") {
  const td = make("td", undefined, { "data-name": name, class: kind });
  td.append(content);
  return td;
}

function row(t) {
  const tr = make("tr", undefined, { "data-key": t.task_id }), acts = make("td", undefined, { class: "acts" });
  const at = make("time", clock.format(Date.parse(t.accepted_at)), { "data-at": Date.parse(t.accepted_at), "data-as": "clock" });
  const name = make("button", t.task_id, { type: "button", class: "link", "data-task": t.task_id, "aria-label": "Details of task " + t.task_id });
  const task = cell("Task", name);
  task.append(" ", make("span", t.model_ref, { class: "dim" }));
  if (t.state === "queued" || t.state === "running") {
    acts.append(make("button", "Cancel", { type: "button", class: "small", "data-call": "POST", "data-path": "/v1/tasks/" + t.task_id + "/cancel", "data-done": "Cancel: " + t.task_id, "aria-label": "Cancel " + t.task_id }));
  }
  tr.append(cell("Accepted", at), task, cell("State", state(t.state)), cell("Pool", t.pool_id), cell("Tokens", String(t.tokens_out), "number"), acts);
  return tr;
}

function draw(n) {
  drawn = Math.min(n, list.length);
  const shown = list.slice(0, drawn);
  arrange(document.getElementById("tasks-rows"), shown.map((t) => [t.task_id, row(t)]), shown.map((t) => t.task_id));
  document.getElementById("tasks-more").hidden = drawn >= list.length;
  document.getElementById("tasks-count").textContent = list.length === 0 ? "No task. Send one, or try the playground." :
    drawn + " of " + (list.length === most ? "the newest " : "") + list.length;
}

async function read(n) {
  clearTimeout(next);
  next = 0;
  const wanted = document.forms["tasks-form"].elements.state.value;
  try {
    list = (await call("GET", "/v1/tasks?limit=" + most + (wanted ? "&state=" + wanted : ""))).tasks;
  } catch (error) {
    list = [];
    document.getElementById("tasks-count").textContent = error.message;
    return;
  }
  draw(n);
}

export function showTasks() {
  return read(page);
}

// staleTasks has the list read again soon.
export function staleTasks() {
  next ||= setTimeout(() => read(Math.max(drawn, page)), restMS);
}

document.forms["tasks-form"].addEventListener("submit", (event) => { event.preventDefault(); showTasks(); });
document.getElementById("tasks-more").addEventListener("click", () => draw(drawn + page));

const dialog = document.getElementById("task"), body = document.getElementById("task-body"), said = document.getElementById("task-said");
const reasons = document.getElementById("task-why"); // apart from the facts, which are drawn anew while the task lives
let open = null, later, wanted = ""; // open is the task that is shown, wanted the id of the one to be shown
let again = null; // the task that was run again, and what it is compared with

function facts(pairs) {
  const dl = make("dl");
  for (const [name, value] of pairs) {
    if (value === undefined || value === "" || value === null) continue;
    const dd = make("dd");
    dd.append(value);
    dl.append(make("dt", name), dd);
  }
  return dl;
}

async function proofPath(id) {
  const found = await call("GET", "/v1/artifacts?kind=proof&limit=1&task_id=" + encodeURIComponent(id));
  return found.artifacts?.length ? "/v1/artifacts/" + found.artifacts[0].id + "/content" : "";
}

export async function showTask(id) {
  wanted = id;
  clearTimeout(later);
  const proof = document.getElementById("task-proof");
  if (!dialog.open || open?.task_id !== id) {
    open = null;
    said.textContent = "";
    document.getElementById("task-title").textContent = "Task " + id;
    dialog.querySelector("[data-log]").dataset.log = id;
    body.replaceChildren(make("p", "…"));
    reasons.replaceChildren();
    proof.hidden = true;
    for (const name of ["cancel", "replay"]) dialog.querySelector(`[data-do=${name}]`).hidden = true;
  }
  if (!dialog.open) dialog.showModal();
  try {
    const t = await call("GET", "/v1/tasks/" + encodeURIComponent(id));
    if (wanted !== id) return; // another one was asked for meanwhile
    open = t;
    const live = t.state === "queued" || t.state === "running";
    dialog.querySelector("[data-do=cancel]").hidden = !live;
    dialog.querySelector("[data-do=replay]").hidden = live;
    const receipt = t.end?.receipt;
    clearTimeout(later); // of a call that came before this one
    if (live) later = setTimeout(() => { if (dialog.open && open === t) showTask(id); }, 1000);
    body.replaceChildren(facts([
      ["State", state(t.state)], ["Model", t.model_ref], ["Pool", t.pool_id], ["Replica", t.replica_id], ["Sent by", t.actor],
      ["Accepted", new Date(t.accepted_at).toLocaleString()], ["Started", t.started_at && new Date(t.started_at).toLocaleString()],
      ["Ended", t.finished_at && new Date(t.finished_at).toLocaleString()], ["Position", t.state === "queued" ? String(t.queue_position) : ""],
      ["Tokens", t.tokens_in + " in, " + t.tokens_out + " out"], ["Energy", energy(t)], ["Finish", t.end?.finish_reason], ["Error", t.error && t.error.code + ": " + t.error.message],
    ]));
    if (again?.id === id && !live) {
      said.textContent = !receipt || !again.sha ? "It ended without a receipt, so there is nothing to compare." :
        receipt.transcript_sha256 === again.sha ? "The same transcript as before." :
        "Another transcript than before" + (again.strict ? ": llama-orch replay shows where they part." : "; the task is best effort.");
      again = null;
    }
    if (receipt) body.append(make("h3", "Receipt"), facts(Object.entries(receipt).map(([name, value]) => [name.replaceAll("_", " "), String(value)])));
    if (live) return;
    const path = await proofPath(id);
    if (path && open === t) {
      proof.href = path;
      proof.download = "proof-" + id + ".json";
      proof.hidden = false;
    }
  } catch (error) {
    if (wanted === id) body.replaceChildren(make("p", error.message, { class: "problem" }));
  }
}

// bundle is a task's proof, or null where it has none: it has not ended, or it was forgotten.
async function bundle(t) {
  const path = await proofPath(t.task_id);
  return path ? call("GET", path) : null;
}

// repeat makes the request that runs a bundle's task again, with every sampling value as it was. The server has its words.
function repeat(p) {
  const { model_ref, workload, priority, max_tokens, ctx } = p.request, { profile, ...params } = p.sampling;
  return {
    model_ref, workload, priority, replay_of: p.task_id, seed: p.seed, determinism: p.determinism, placement: { mode: "pin", pool_id: p.placement.pool_id },
    ...(max_tokens && { max_tokens }), ...(ctx && { ctx }), ...(workload === "completion" && { params: { ...params, stop: params.stop || [] }, ...(profile && { sampler_profile_version: profile }) }),
  };
}

// points are the reasons for something, under a title.
function points(title, items) {
  const ul = make("ul", undefined, { class: "plain" });
  ul.append(...items);
  return [make("h3", title), ul];
}

// Each acts on the task that was shown when its button was pressed, and shows what came of it unless another one is wanted by then.
const acts = {
  close: () => dialog.close(),
  async cancel(t) {
    const r = await call("POST", "/v1/tasks/" + encodeURIComponent(t.task_id) + "/cancel");
    if (wanted !== t.task_id) return;
    await showTask(t.task_id);
    if (wanted === t.task_id) said.textContent = "The task is " + r.outcome + ".";
  },
  async replay(t) {
    const p = await bundle(t);
    if (!p) throw new Error("The task has no proof bundle any more, so nobody knows what to run again.");
    const sent = await call("POST", "/v1/tasks", JSON.stringify(repeat(p)));
    if (wanted !== t.task_id) return;
    again = { id: sent.task_id, sha: p.receipt?.transcript_sha256, strict: p.determinism === "strict" };
    await showTask(sent.task_id);
    if (again && wanted === sent.task_id) said.textContent = "Sent again.";
  },
  async why(t) {
    const p = await bundle(t), asked = p?.request || t, shown = [];
    const wish = { model_ref: asked.model_ref, workload: asked.workload };
    for (const name of ["determinism", "engine", "ctx", "session_id", "placement"]) if (p && asked[name]) wish[name] = asked[name];
    if (p?.placement.replica_id) shown.push(...points("Why it ran on " + p.placement.replica_id, p.placement.reasons.map((r) => make("li", r))));
    const e = await call("POST", "/v1/placement/explain", JSON.stringify(wish));
    if (wanted !== t.task_id) return;
    const now = e.candidates.map((c) => {
      const li = make("li");
      li.append(mark(c.chosen ? "play" : "ring"), " " + (c.chosen ? "chosen: " : "") + (c.replica_id || c.pool_id) + ": " + c.reasons.join("; "));
      return li;
    });
    shown.push(...points("Where such a task would run now", [...now, ...e.evictions.map((v) => make("li", "makes room: " + v.replica_id))]));
    reasons.replaceChildren(...shown);
    reasons.scrollIntoView({ block: "nearest" });
    said.textContent = e.replica_id ? "It would run on " + e.replica_id + "." : e.pool_id ? "It would wait in pool " + e.pool_id + "." : "It would be refused.";
  },
};

dialog.addEventListener("click", async (event) => {
  const what = event.target.closest("[data-do]")?.dataset.do;
  if (!what || what !== "close" && !open) return;
  const of = wanted;
  try {
    await acts[what](open);
  } catch (error) {
    if (wanted === of) said.textContent = error.message;
  }
});
