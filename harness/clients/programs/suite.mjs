// SPDX-License-Identifier: GPL-3.0-or-later

// What the programs share: a program has cases by name, runs one after the other, and writes a line of JSON about each: {name, ok, detail}.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

export { assert, sleep };

// The daemon, the scripted engines of the pools `scripted` and `narrow`, and the test, which kills workers and the daemon when asked.
export const { LLORCH_BASE: base, LLORCH_SCRIPTED: scripted, LLORCH_NARROW: narrow, LLORCH_TEST: test } = process.env;

export const question = 'Write a haiku about tea containing "ten past two".\n\n';
export const town = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
export const frog = {
  type: "object",
  properties: { name: { type: "string" }, legs: { type: "integer" } },
  required: ["name", "legs"],
  additionalProperties: false,
};
// A picture of one red pixel, as PNG in base64.
export const picture = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==";
export const long = "frog ".repeat(400);

// caseWithin bounds one case, in milliseconds.
const caseWithin = 60_000;

export async function run(cases) {
  for (const [name, one] of Object.entries(cases)) {
    let detail = "";
    try {
      const late = sleep(caseWithin, undefined, { ref: false }).then(() => {
        throw new Error(`it took over ${caseWithin} ms`);
      });
      await Promise.race([one(), late]);
    } catch (e) {
      detail = String(e?.stack ?? e);
    }
    process.stdout.write(JSON.stringify({ name, ok: detail === "", detail }) + "\n");
  }
  process.exit(0);
}

// recorder is a fetch that notes each call as {url, status, headers, seen}; seen is what has come of the body, where bodies are asked for.
export function recorder({ bodies = false } = {}) {
  const calls = [];
  return {
    calls,
    get last() {
      return calls.at(-1);
    },
    get task() {
      return calls.at(-1).headers.get("x-task-id");
    },
    fetch: async (url, init) => {
      const res = await fetch(url, init);
      const call = { url: String(url), status: res.status, headers: res.headers, seen: "" };
      calls.push(call);
      if (bodies && res.body) read(res.clone().body, call).catch(() => {}); // the client sees the error too
      return res;
    },
  };
}

async function read(body, call) {
  for await (const bytes of body) call.seen += Buffer.from(bytes).toString();
}

async function json(url, init) {
  const res = await fetch(url, init);
  const body = await res.json();
  assert.ok(res.ok, `${url}: ${JSON.stringify(body)}`);
  return body;
}

const post = (url, body) =>
  json(url, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

// until polls until try returns something true.
export async function until(what, attempt) {
  for (let seen; ; await sleep(20)) {
    seen = await attempt();
    if (seen) return seen;
  }
}

export const task = (id) => json(`${base}/v1/tasks/${id}`);

// becomes waits until the native API shows a task in a state.
export const becomes = (id, state) => until(`task ${id} to be ${state}`, async () => (await task(id)).state === state);

// occupy makes pool `narrow` busy: its one slot, and its queue of one place if asked. It returns what makes it idle again.
export async function occupy({ queue = false } = {}) {
  const ask = () => post(`${base}/v1/tasks`, { model_ref: "narrow", prompt: "Wait for me" });
  const ids = [(await ask()).task_id];
  await becomes(ids[0], "running");
  if (queue) ids.push((await ask()).task_id);
  return async () => {
    for (const id of ids) await post(`${base}/v1/tasks/${id}/cancel`, {});
  };
}

// killWorkers has the test kill the workers of the built-in engine.
export async function killWorkers() {
  const { killed } = await post(`${test}/kill`, {});
  assert.ok(killed > 0, "no worker was killed");
}

// restart has the test end the daemon by SIGKILL, and start it again at the same address.
export const restart = () => post(`${test}/restart`, {});

// sha256 is that of a text, in hex.
export const sha256 = (text) => createHash("sha256").update(text).digest("hex");

// asked is what the scripted engine was last asked on its chat endpoint: a body as llama-server takes it.
export async function asked(engine = scripted) {
  const all = await json(`${engine}/_scripted/requests`);
  return all.filter((r) => r.path.endsWith("/chat/completions") && !r.refused).at(-1).body;
}

// caught returns what a promise is rejected with.
export async function caught(promise) {
  try {
    await promise;
  } catch (e) {
    return e;
  }
  assert.fail("nothing was thrown");
}

// refusedThenServed checks a repeated request: the first try found the queue full and was told when to come back, a later one was served.
export function refusedThenServed(calls) {
  assert.equal(calls[0].status, 429);
  assert.match(calls[0].headers.get("retry-after"), /^([1-9]|[1-5][0-9]|60)$/);
  assert.equal(calls.at(-1).status, 200);
  assert.ok(calls.length >= 2);
}
