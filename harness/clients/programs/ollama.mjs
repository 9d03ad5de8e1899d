// SPDX-License-Identifier: GPL-3.0-or-later

// Ollama's JavaScript client.

import { Ollama } from "ollama";
import * as s from "./suite.mjs";

const { assert } = s;
const client = (more) => new Ollama({ host: s.base, ...more });
const ollama = client();
const user = (content, more) => [{ role: "user", content, ...more }];
const options = { seed: 7, temperature: 0 };
const haiku = { model: "haiku", messages: user(s.question), options };
const weather = { type: "function", function: { name: "get_weather", description: "the weather of a town", parameters: s.town } };
const inOslo = { model: "scripted", messages: user("Look at the weather in Oslo"), tools: [weather] };

// joined puts the lines of a stream together.
async function joined(stream) {
  const all = { text: "", thought: "", calls: [], last: null };
  for await (const line of stream) {
    all.text += line.message?.content ?? line.response ?? "";
    all.thought += line.message?.thinking ?? line.thinking ?? "";
    all.calls.push(...(line.message?.tool_calls ?? []));
    all.last = line;
  }
  return all;
}

await s.run({
  "chat, whole and streamed": async () => {
    const recorded = s.recorder();
    const whole = await client({ fetch: recorded.fetch }).chat(haiku);
    assert.equal(whole.done, true);
    assert.equal(whole.done_reason, "stop");
    assert.ok(whole.message.content);
    assert.equal((await s.task(recorded.task)).tokens_in, whole.prompt_eval_count);
    const streamed = await joined(await ollama.chat({ ...haiku, stream: true }));
    assert.equal(streamed.text, whole.message.content);
    assert.equal(streamed.last.done, true);
    assert.equal(streamed.last.eval_count, whole.eval_count);
    assert.ok(streamed.last.total_duration > 0);
  },
  "generate, whole and streamed": async () => {
    const asked = { model: "haiku", prompt: s.question, options: { ...options, num_predict: 8 } };
    const whole = await ollama.generate(asked);
    assert.equal(whole.done_reason, "length");
    assert.equal(whole.eval_count, 8);
    assert.equal((await joined(await ollama.generate({ ...asked, stream: true }))).text, whole.response);
  },
  "tools": async () => {
    const whole = await ollama.chat(inOslo);
    assert.equal(whole.message.content, "I ask.");
    assert.deepEqual(whole.message.tool_calls[0].function.arguments, { city: "Oslo" });
    const streamed = await joined(await ollama.chat({ ...inOslo, stream: true }));
    assert.equal(streamed.text, "I ask.");
    assert.deepEqual(streamed.calls.map((c) => c.function), whole.message.tool_calls.map((c) => c.function));
    const messages = [...inOslo.messages, whole.message, { role: "tool", tool_name: "get_weather", content: "12 degrees" }];
    assert.equal((await ollama.chat({ ...inOslo, messages })).message.content, "It is 12 degrees in Oslo.");
  },
  "two calls at once": async () => {
    const { calls } = await joined(await ollama.chat({ ...inOslo, messages: user("Look at two towns"), stream: true }));
    assert.deepEqual(calls.map((c) => c.function.arguments.city), ["Oslo", "Bergen"]);
  },
  "a JSON schema": async () => {
    const { message } = await ollama.chat({ model: "scripted", messages: user("A frog as JSON"), format: s.frog });
    assert.deepEqual(JSON.parse(message.content), { name: "frog", legs: 4 });
    assert.deepEqual((await s.asked()).json_schema, s.frog);
    await ollama.generate({ model: "scripted", prompt: "A frog as JSON", format: s.frog });
    assert.deepEqual((await s.asked()).json_schema, s.frog);
  },
  "an image": async () => {
    const { message } = await ollama.chat({ model: "scripted", messages: user("What is in the picture?", { images: [s.picture] }) });
    assert.equal(message.content, "A red dot.");
    assert.ok(JSON.stringify((await s.asked()).messages).includes(s.picture));
  },
  "thinking": async () => {
    const asked = { model: "scripted", messages: user("Think of frogs"), think: true };
    const { message } = await ollama.chat(asked);
    assert.equal(message.thinking, "Frogs are green.");
    assert.equal(message.content, "Green.");
    const streamed = await joined(await ollama.chat({ ...asked, stream: true }));
    assert.equal(streamed.thought, "Frogs are green.");
    assert.equal(streamed.text, "Green.");
  },
  "log probabilities": async () => {
    const whole = await ollama.chat({ ...haiku, logprobs: true, top_logprobs: 2 });
    assert.equal(whole.logprobs.map((t) => t.token).join(""), whole.message.content);
    for (const t of whole.logprobs) assert.equal(t.top_logprobs[0].token, t.token);
    const streamed = [];
    for await (const line of await ollama.chat({ ...haiku, logprobs: true, top_logprobs: 2, stream: true })) streamed.push(...(line.logprobs ?? []));
    assert.deepEqual(streamed, whole.logprobs);
  },
  "embed": async () => {
    const { embeddings, prompt_eval_count } = await ollama.embed({ model: "vectors", input: ["tea", "frogs"] });
    assert.equal(embeddings.length, 2);
    assert.ok(prompt_eval_count > 0);
    const { embedding } = await ollama.embeddings({ model: "vectors", prompt: "tea" });
    assert.equal(embedding.length, embeddings[0].length);
  },
  "list, show, ps and version": async () => {
    const { models } = await ollama.list();
    for (const name of ["haiku", "vectors", "scripted"]) assert.ok(models.some((m) => m.name === name), name);
    const shown = await ollama.show({ model: "haiku" });
    assert.deepEqual(shown.capabilities, ["completion"]);
    assert.equal(shown.details.format, "gguf");
    assert.ok(Object.entries(shown.model_info).some(([key, value]) => key.endsWith(".context_length") && value === 256), JSON.stringify(shown.model_info));
    const { capabilities } = await ollama.show({ model: "scripted" });
    for (const can of ["completion", "tools", "vision", "thinking"]) assert.ok(capabilities.includes(can), capabilities.join());
    assert.ok((await ollama.ps()).models.some((m) => m.name === "haiku"));
    assert.match((await ollama.version()).version, /^\d+\.\d+\.\d+/);
    assert.equal((await ollama.chat({ ...haiku, model: "haiku:latest" })).done_reason, "stop");
  },
  "a chat without messages loads the model": async () => {
    const loaded = await ollama.chat({ model: "haiku", messages: [] });
    assert.equal(loaded.done_reason, "load");
  },
  "an abort cancels the task": async () => {
    const recorded = s.recorder();
    const mine = client({ fetch: recorded.fetch });
    const stream = await mine.chat({ ...haiku, model: "slow-haiku", stream: true });
    const e = await s.caught((async () => { for await (const line of stream) if (line.message.content) mine.abort(); })());
    assert.equal(e.name, "AbortError");
    await s.becomes(recorded.task, "canceled");
  },
  "a full queue: the error and its status": async () => {
    const free = await s.occupy({ queue: true });
    const recorded = s.recorder();
    const e = await s.caught(client({ fetch: recorded.fetch }).chat({ ...inOslo, model: "narrow" }));
    await free();
    assert.equal(e.status_code, 429);
    assert.match(e.message, /overloaded|full/);
    assert.match(recorded.last.headers.get("retry-after"), /^([1-9]|[1-5][0-9]|60)$/);
  },
  "white space while a task waits": async () => {
    const free = await s.occupy();
    const recorded = s.recorder({ bodies: true });
    const stream = await client({ fetch: recorded.fetch }).chat({ ...inOslo, model: "narrow", stream: true });
    await s.until("white space", () => recorded.last.seen !== "");
    assert.equal(recorded.last.seen.trim(), "");
    await free();
    assert.equal((await joined(stream)).calls.length, 1);
  },
  "errors": async () => {
    let e = await s.caught(ollama.chat({ ...haiku, model: "llama3" }));
    assert.equal(e.status_code, 404);
    assert.match(e.message, /model 'llama3' not found/);
    e = await s.caught(ollama.chat({ ...haiku, messages: user(s.long) }));
    assert.equal(e.status_code, 400);
    assert.match(e.message, /context length/);
    e = await s.caught(ollama.chat({ ...haiku, tools: [weather] }));
    assert.equal(e.status_code, 400);
    assert.match(e.message, /tools/);
  },
  "a stream that fails is no whole answer": async () => {
    await s.caught(joined(await ollama.chat({ model: "scripted", messages: user("Break"), stream: true })));
  },
  "a worker that is killed in mid-answer": async () => {
    const slow = { ...haiku, model: "slow-haiku", stream: true };
    const want = await joined(await ollama.chat(slow));
    const stream = await ollama.chat(slow);
    const got = await joined((async function* () {
      let n = 0;
      for await (const line of stream) {
        if (++n === 5) await s.killWorkers();
        yield line;
      }
    })());
    assert.equal(got.text, want.text);
    assert.equal(got.last.done_reason, "stop");
  },
  "a request with a key joins its task": async () => {
    const keyed = client({ headers: { "Idempotency-Key": "ollama-1" } });
    const first = await keyed.chat(haiku);
    assert.deepEqual(await keyed.chat(haiku), first);
    const e = await s.caught(keyed.chat({ ...haiku, options: { ...options, seed: 8 } }));
    assert.match(e.message, /Idempotency-Key/);
  },
});
