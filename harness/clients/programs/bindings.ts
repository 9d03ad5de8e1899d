// SPDX-License-Identifier: GPL-3.0-or-later

// Uses what `llama-orch bindings ts` wrote of the suite's server. TypeScript's compiler makes a program for Node of both.

import { APIError, Client, models, pools, ProtocolError, type Model, type TaskEvent } from "./served.js";

declare const process: { env: Record<string, string> };
const { LLORCH_BASE: base = "", LLORCH_TEST: test = "" } = process.env;
const prompt = 'Write a haiku about tea containing "ten past two".\n\n';
const llama = new Client({ addr: base, delayMs: 50, reconnects: 40 });

function holds(held: unknown, what = "it does not hold"): asserts held {
  if (!held) throw new Error(what);
}

const same = (a: unknown, b: unknown) => holds(JSON.stringify(a) === JSON.stringify(b), `${JSON.stringify(a)} is not ${JSON.stringify(b)}`);

async function caught(act: () => Promise<unknown>): Promise<unknown> {
  try {
    await act();
  } catch (e) {
    return e;
  }
  throw new Error("nothing was thrown");
}

async function all(events: AsyncIterable<TaskEvent>, each: (e: TaskEvent, seen: number) => unknown = () => {}): Promise<TaskEvent[]> {
  const got: TaskEvent[] = [];
  for await (const e of events) {
    if (e.name === "metrics") continue;
    got.push(e);
    await each(e, got.length);
  }
  return got;
}

async function submit(model_ref: Model, text = prompt): Promise<string> {
  const { data, error } = await llama.api.POST("/v1/tasks", { body: { model_ref, prompt: text, seed: 42 } });
  if (error) throw new APIError(error);
  return data.task_id;
}

const cases: Record<string, () => Promise<void>> = {
  "a task and its receipt": async () => {
    const events = await all(llama.run({ model_ref: models[models.indexOf("haiku")] ?? "haiku", prompt, seed: 42 }));
    const end = events.at(-1);
    holds(end?.name === "end" && end.data.receipt.seed === 42);
    const text = events.map((e) => (e.name === "token" ? e.data.t : "")).join("");
    const sum = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
    same([...sum].map((b) => b.toString(16).padStart(2, "0")).join(""), end.data.receipt.transcript_sha256);
  },
  "a stream goes on behind an event": async () => {
    const task = await submit("haiku");
    const whole = await all(llama.stream(task));
    same(await all(llama.stream(task, { after: whole[3]!.id })), whole.slice(4));
    same(await all(llama.stream(task, { after: whole.at(-1)!.id })), []);
  },
  "a loop that is left cancels": async () => {
    let task = "";
    for await (const e of llama.run({ model_ref: "slow-haiku", prompt, placement: { mode: "pin", pool_id: "slow" } })) {
      if (e.name === "started") task = e.data.task_id;
      if (e.name === "token") break;
    }
    const { data } = await llama.api.GET("/v1/tasks/{id}", { params: { path: { id: task } } });
    holds(data?.state === "canceled");
    const e = await caught(() => all(llama.stream(task)));
    holds(e instanceof APIError && e.code === "CANCELED" && e.status === 0, String(e));
  },
  "refusals are typed": async () => {
    const { error } = await llama.api.GET("/v1/tasks/{id}", { params: { path: { id: "nobody" } } });
    holds(error?.code === "NOT_FOUND" && !error.retriable);
    const tasks = [await submit("narrow", "Wait for me")];
    for (;;) {
      const { data } = await llama.api.GET("/v1/tasks/{id}", { params: { path: { id: tasks[0]! } } });
      if (data?.state === "running") break;
    }
    tasks.push(await submit("narrow", "Wait for me"));
    const e = await caught(() => all(llama.run({ model_ref: "narrow", prompt: "Wait for me" })));
    holds(e instanceof APIError && e.status === 429 && e.code === "ADMISSION_REJECT" && e.retriable && (e.retryAfterMs ?? 0) > 0, String(e));
    for (const id of tasks) await llama.api.POST("/v1/tasks/{id}/cancel", { params: { path: { id } } });
    holds((await caught(() => all(new Client({ addr: test }).stream("t")))) instanceof ProtocolError);
  },
  "the other planes": async () => {
    const { data } = await llama.api.GET("/v1/pools");
    same(data?.pools.map((p) => p.id).sort(), Object.keys(pools).sort());
    const health = await llama.api.GET("/v1/pools/{id}/health", { params: { path: { id: "fast" } } });
    holds(health.data?.replicas[0]?.state === "ready");
    const made = await llama.api.POST("/v1/artifacts", { body: { kind: "plan", content: "# Plän" } });
    const found = await llama.api.GET("/v1/artifacts", { params: { query: { kind: "plan", limit: 5 } } });
    holds(found.data?.artifacts.some((a) => a.id === made.data?.id));
  },
  "a stream survives a kill": async () => {
    const task = await submit("slow-haiku");
    const events = await all(llama.stream(task), (_, seen) => (seen === 5 ? fetch(`${test}/restart`, { method: "POST" }).then((r) => r.text()) : undefined));
    same(events.map((e) => Number.parseInt(e.id, 10)), events.map((_, i) => i));
    same(events, await all(llama.stream(task)));
  },
};

for (const [name, one] of Object.entries(cases)) {
  let detail = "";
  await one().catch((e) => (detail = String(e instanceof Error ? e.stack : e)));
  console.log(JSON.stringify({ name, ok: detail === "", detail }));
}
