// SPDX-License-Identifier: GPL-3.0-or-later
// The playground: sends a task to one model or two, and shows their answers as they come.
import { call, make, said } from "./call.js";

const form = document.getElementById("play"), halt = document.getElementById("halt");
const sides = ["first", "second"];
const talks = { first: [], second: [] }; // the messages of the chat so far
const running = new Map(); // by side: its task, whose id and stream it has once they are there

export async function openPlayground() {
  const { first, second } = form.elements;
  try {
    const names = [...new Set((await call("GET", "/v1/pools")).pools.filter((p) => p.workload === "completion").map((p) => p.model.id))];
    for (const select of [first, second]) {
      const chosen = select.value;
      select.replaceChildren(...(select === second ? [make("option", "none", { value: "" })] : []), ...names.map((n) => make("option", n, { value: n })));
      if (names.includes(chosen)) select.value = chosen;
    }
  } catch (error) {
    said(error.message);
  }
}

function busy() {
  halt.disabled = ![...running.values()].some((own) => own.id);
  form.querySelector("[type=submit]").disabled = running.size > 0;
}

async function ask(side, model, f) {
  const out = document.querySelector(`[data-talk="${side}"]`), fact = document.querySelector(`[data-facts="${side}"]`);
  const words = f.words.value, chat = f.kind.value === "chat";
  document.getElementById(side + "-title").textContent = model;
  if (!chat) {
    out.replaceChildren();
    talks[side] = [];
  }
  out.append(make("p", words, { class: "asked" }));
  const request = { model_ref: model, max_tokens: Number(f.max_tokens.value) || 128 };
  if (chat) request.messages = [...talks[side], { role: "user", content: words }];
  else request.prompt = words;
  if (f.seed.value !== "") request.seed = Number(f.seed.value);
  if (f.strict.checked) request.determinism = "strict";
  fact.textContent = "…";
  const own = {};
  running.set(side, own);
  busy();
  const over = (text) => {
    own.source?.close();
    if (running.get(side) === own) running.delete(side);
    fact.textContent = text;
    busy();
  };
  try {
    const task = await call("POST", "/v1/tasks", JSON.stringify(request));
    const answer = make("span"), thought = make("span", "", { class: "thought" });
    out.append(thought, answer);
    const source = new EventSource("/v1/tasks/" + task.task_id + "/stream");
    Object.assign(own, { id: task.task_id, source });
    busy();
    source.addEventListener("metrics", (event) => {
      const m = JSON.parse(event.data);
      fact.textContent = m.phase === "queued" ? m.queue_position + " ahead" : m.phase;
    });
    source.addEventListener("token", (event) => {
      const t = JSON.parse(event.data);
      (t.channel === "reasoning" ? thought : answer).append(t.t);
      out.scrollTop = out.scrollHeight;
    });
    source.addEventListener("end", (event) => {
      const e = JSON.parse(event.data);
      if (chat) talks[side] = [...request.messages, { role: "assistant", content: answer.textContent }];
      const rate = e.decode_time_ms > 0 ? ", " + (1000 * e.tokens_out / e.decode_time_ms).toFixed(1) + " a second" : "";
      over(e.tokens_out + " tokens" + rate + ", seed " + e.receipt.seed + ", " + e.receipt.determinism.replace("_", " ") + ", transcript " + e.receipt.transcript_sha256.slice(0, 12) + "…");
    });
    source.addEventListener("error", (event) => {
      if (event.data) over(JSON.parse(event.data).message);
      else if (source.readyState === EventSource.CLOSED) over("The stream was lost. The task is in the list of tasks."); // else the browser comes back
    });
  } catch (error) {
    over(error.message);
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (running.size > 0) return;
  const f = form.elements;
  document.getElementById("second").hidden = f.second.value === "";
  for (const side of sides) if (f[side].value) ask(side, f[side].value, f);
});

document.getElementById("words").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && running.size === 0) form.requestSubmit();
});

halt.addEventListener("click", async () => {
  for (const { id } of [...running.values()].filter((own) => own.id)) await call("POST", "/v1/tasks/" + id + "/cancel").catch((error) => said(error.message));
});

document.getElementById("anew").addEventListener("click", () => {
  for (const side of sides) {
    talks[side] = [];
    document.querySelector(`[data-talk="${side}"]`).replaceChildren();
    document.querySelector(`[data-facts="${side}"]`).textContent = "";
  }
});
