// SPDX-License-Identifier: GPL-3.0-or-later

// Anthropic's SDK.

import Anthropic from "@anthropic-ai/sdk";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";
import { jsonSchemaOutputFormat } from "@anthropic-ai/sdk/helpers/json-schema";
import * as s from "./suite.mjs";

const { assert } = s;
const client = (more) => new Anthropic({ baseURL: s.base, apiKey: "sk-any", ...more });
const anthropic = client();
const user = (content) => [{ role: "user", content }];
const haiku = { model: "haiku", max_tokens: 8000, temperature: 0, messages: user([{ type: "text", text: s.question, cache_control: { type: "ephemeral" } }]) };
const weather = { name: "get_weather", description: "the weather of a town", input_schema: s.town };
const inOslo = { model: "scripted", max_tokens: 1000, messages: user("Look at the weather in Oslo"), tools: [weather] };
const text = (message) => message.content.filter((b) => b.type === "text").map((b) => b.text).join("");

// joined puts the events of a stream together.
async function joined(stream) {
  const all = { types: [], blocks: [], stop: null, usage: null };
  for await (const e of stream) {
    all.types.push(e.type);
    if (e.type === "content_block_start") all.blocks[e.index] = { type: e.content_block.type, name: e.content_block.name, text: "" };
    if (e.type === "content_block_delta") all.blocks[e.index].text += e.delta.text ?? e.delta.thinking ?? e.delta.partial_json ?? "";
    if (e.type === "message_delta") ({ delta: { stop_reason: all.stop }, usage: all.usage } = e);
  }
  return all;
}

// read is all that the model was given: what came from the cache counts apart.
const read = (usage) => usage.input_tokens + (usage.cache_read_input_tokens ?? 0);

await s.run({
  "messages, whole and streamed": async () => {
    const { data: whole, response } = await anthropic.messages.create(haiku).withResponse();
    assert.equal(whole.stop_reason, "end_turn");
    assert.ok(text(whole));
    const id = response.headers.get("x-task-id");
    assert.equal(whole.id, `msg_${id}`);
    assert.equal((await s.task(id)).tokens_in, read(whole.usage));
    const streamed = await joined(await anthropic.messages.create({ ...haiku, stream: true }));
    assert.equal(streamed.blocks[0].text, text(whole));
    assert.equal(streamed.stop, "end_turn");
    assert.equal(streamed.usage.output_tokens, whole.usage.output_tokens);
    assert.equal(streamed.types.at(-1), "message_stop");
  },
  "messages, the stream helper": async () => {
    let seen = "";
    const stream = anthropic.messages.stream(haiku).on("text", (t) => (seen += t));
    const final = await stream.finalMessage();
    assert.equal(text(final), seen);
    assert.equal(final.stop_reason, "end_turn");
    assert.ok(final.usage.output_tokens > 0);
  },
  "messages, an answer that is cut": async () => {
    const { stop_reason, usage } = await anthropic.messages.create({ ...haiku, max_tokens: 3 });
    assert.equal(stop_reason, "max_tokens");
    assert.equal(usage.output_tokens, 3);
  },
  "messages, a system prompt in blocks": async () => {
    const system = [{ type: "text", text: "Be short.", cache_control: { type: "ephemeral" } }, { type: "text", text: "Be kind." }];
    await anthropic.messages.create({ ...inOslo, system, metadata: { user_id: '{"a":"b"}' } });
    const { messages } = await s.asked();
    assert.equal(messages[0].role, "system");
    assert.match(JSON.stringify(messages[0].content), /Be short\..*Be kind\./);
  },
  "tools": async () => {
    const whole = await anthropic.messages.create(inOslo);
    const call = whole.content.find((b) => b.type === "tool_use");
    assert.equal(whole.stop_reason, "tool_use");
    assert.equal(text(whole), "I ask.");
    assert.deepEqual(call.input, { city: "Oslo" });
    const streamed = await joined(await anthropic.messages.create({ ...inOslo, stream: true }));
    assert.equal(streamed.stop, "tool_use");
    assert.deepEqual(streamed.blocks.map((b) => b.type), ["text", "tool_use"]);
    assert.deepEqual(JSON.parse(streamed.blocks[1].text), { city: "Oslo" });
    const final = await anthropic.messages.stream(inOslo).finalMessage();
    assert.deepEqual(final.content.find((b) => b.type === "tool_use").input, { city: "Oslo" });
    const result = { type: "tool_result", tool_use_id: call.id, content: [{ type: "text", text: "12 degrees" }] };
    const answer = await anthropic.messages.create({ ...inOslo, messages: [...inOslo.messages, { role: "assistant", content: whole.content }, ...user([result])] });
    assert.equal(text(answer), "It is 12 degrees in Oslo.");
  },
  "two calls at once": async () => {
    const final = await anthropic.messages.stream({ ...inOslo, messages: user("Look at two towns") }).finalMessage();
    assert.deepEqual(final.content.map((b) => b.input.city), ["Oslo", "Bergen"]);
    assert.notEqual(final.content[0].id, final.content[1].id);
  },
  "the tool runner": async () => {
    const run = ({ city }) => `${city}: 12 degrees`;
    const tools = [betaTool({ name: "get_weather", description: "the weather of a town", inputSchema: s.town, run })];
    const final = await anthropic.beta.messages.toolRunner({ ...inOslo, tools });
    assert.equal(text(final), "It is 12 degrees in Oslo.");
  },
  "a JSON schema": async () => {
    const answer = await anthropic.messages.parse({
      model: "scripted",
      max_tokens: 1000,
      messages: user("A frog as JSON"),
      output_config: { format: jsonSchemaOutputFormat(s.frog) },
    });
    assert.deepEqual(answer.parsed_output, { name: "frog", legs: 4 });
    assert.deepEqual((await s.asked()).json_schema.required, s.frog.required);
  },
  "an image": async () => {
    const image = { type: "image", source: { type: "base64", media_type: "image/png", data: s.picture } };
    const answer = await anthropic.messages.create({ model: "scripted", max_tokens: 1000, messages: user([image, { type: "text", text: "What is in the picture?" }]) });
    assert.equal(text(answer), "A red dot.");
    assert.ok(JSON.stringify((await s.asked()).messages).includes(s.picture));
  },
  "thinking": async () => {
    const asked = { model: "scripted", max_tokens: 4000, messages: user("Think of frogs"), thinking: { type: "enabled", budget_tokens: 1024 } };
    const whole = await anthropic.messages.create(asked);
    assert.deepEqual(whole.content.map((b) => b.type), ["thinking", "text"]);
    assert.equal(whole.content[0].thinking, "Frogs are green.");
    assert.ok(whole.content[0].signature);
    const final = await anthropic.messages.stream(asked).finalMessage();
    assert.equal(final.content[0].thinking, "Frogs are green.");
    assert.equal(final.content[0].signature.length > 0, true);
    const again = [...asked.messages, { role: "assistant", content: whole.content }, ...user("Think again")];
    assert.equal(text(await anthropic.messages.create({ ...asked, messages: again })), "Green.");
  },
  "count_tokens": async () => {
    const { max_tokens, temperature, ...counted } = haiku;
    assert.equal((await anthropic.messages.countTokens(counted)).input_tokens, read((await anthropic.messages.create(haiku)).usage));
    const { max_tokens: _, ...tools } = inOslo;
    const recorded = s.recorder();
    const { usage } = await client({ fetch: recorded.fetch }).messages.create(inOslo);
    const { input_tokens } = await anthropic.messages.countTokens(tools);
    assert.equal(input_tokens, read(usage));
    assert.equal(input_tokens, (await s.task(recorded.task)).tokens_in);
    const burst = await Promise.all(Array.from({ length: 30 }, () => anthropic.messages.countTokens(tools)));
    assert.ok(burst.every((b) => b.input_tokens === input_tokens));
  },
  "models": async () => {
    const ids = [];
    for await (const m of anthropic.models.list()) {
      assert.equal(m.type, "model");
      ids.push(m.id);
    }
    for (const id of ["haiku", "scripted", "claude-frog"]) assert.ok(ids.includes(id), ids.join());
    assert.equal((await anthropic.models.retrieve("haiku")).id, "haiku");
    assert.ok((await s.caught(anthropic.models.retrieve("no-such"))) instanceof Anthropic.NotFoundError);
  },
  "an alias": async () => {
    const answer = await anthropic.messages.create({ ...haiku, model: "claude-frog" });
    assert.equal(text(answer), text(await anthropic.messages.create(haiku)));
  },
  "an abort cancels the task": async () => {
    const recorded = s.recorder();
    const stream = client({ fetch: recorded.fetch }).messages.stream({ ...haiku, model: "slow-haiku" });
    const failed = s.caught(stream.finalMessage());
    await new Promise((resolve) => stream.once("text", resolve));
    stream.abort();
    assert.ok((await failed) instanceof Anthropic.APIUserAbortError);
    await s.becomes(recorded.task, "canceled");
  },
  "a full queue: the SDK repeats the request": async () => {
    const free = await s.occupy({ queue: true });
    const recorded = s.recorder();
    const asked = client({ fetch: recorded.fetch }).messages.create({ ...inOslo, model: "narrow" });
    await s.until("a refusal", () => recorded.calls.length > 0);
    await free();
    assert.equal((await asked).stop_reason, "tool_use");
    s.refusedThenServed(recorded.calls);
  },
  "a full queue: the error, where it does not": async () => {
    const free = await s.occupy({ queue: true });
    const e = await s.caught(anthropic.messages.create({ ...inOslo, model: "narrow" }, { maxRetries: 0 }));
    await free();
    assert.ok(e instanceof Anthropic.RateLimitError, e);
    assert.equal(e.error.error.type, "overloaded_error");
  },
  "pings while a task waits": async () => {
    const free = await s.occupy();
    const recorded = s.recorder({ bodies: true });
    const stream = await client({ fetch: recorded.fetch }).messages.create({ ...inOslo, model: "narrow", stream: true });
    await s.until("a ping", () => recorded.last.seen.includes("event: ping"));
    assert.ok(!recorded.last.seen.includes("message_start"));
    await free();
    assert.equal((await joined(stream)).stop, "tool_use");
  },
  "errors": async () => {
    let e = await s.caught(anthropic.messages.create({ ...haiku, model: "claude-none" }));
    assert.ok(e instanceof Anthropic.NotFoundError, e);
    assert.equal(e.error.error.type, "not_found_error");
    assert.match(e.message, /haiku/);
    assert.ok(e.requestID);
    e = await s.caught(anthropic.messages.create({ ...haiku, messages: user(s.long) }));
    assert.ok(e instanceof Anthropic.BadRequestError, e);
    assert.match(e.message, /prompt is too long: \d+ tokens > 256 maximum/);
    e = await s.caught(anthropic.messages.create({ ...haiku, tools: [weather] }));
    assert.equal(e.error.error.type, "invalid_request_error");
    assert.match(e.message, /tools/);
  },
  "a stream that fails is no whole answer": async () => {
    const e = await s.caught(anthropic.messages.stream({ ...inOslo, messages: user("Break") }).finalMessage());
    assert.ok(e instanceof Anthropic.APIError, e);
  },
  "a worker that is killed in mid-answer": async () => {
    const slow = { ...haiku, model: "slow-haiku" };
    const want = text(await anthropic.messages.stream(slow).finalMessage());
    const stream = anthropic.messages.stream(slow);
    let n = 0;
    let killed;
    stream.on("text", () => ++n === 5 && (killed = s.killWorkers()));
    assert.equal(text(await stream.finalMessage()), want);
    await killed;
    assert.ok(n > 5);
  },
  "message batches": async () => {
    const batches = anthropic.messages.batches;
    const params = { ...haiku, max_tokens: 4 };
    const made = await batches.create({
      requests: [
        { custom_id: "frogs", params: { ...params, messages: user("Write of frogs") } },
        { custom_id: "toads", params: { ...params, messages: user("Write of toads") } },
        { custom_id: "none", params: { ...params, model: "claude-none" } },
      ],
    });
    assert.equal(made.processing_status, "in_progress");
    const ended = await s.until("the batch to end", async () => {
      const b = await batches.retrieve(made.id);
      return b.processing_status === "ended" && b;
    });
    assert.deepEqual(ended.request_counts, { processing: 0, succeeded: 2, errored: 1, canceled: 0, expired: 0 });
    const results = {};
    for await (const one of await batches.results(made.id)) results[one.custom_id] = one.result;
    const alone = await anthropic.messages.create({ ...params, messages: user("Write of toads") });
    assert.equal(text(results.toads.message), text(alone));
    assert.equal(results.frogs.type, "succeeded");
    assert.equal(results.none.error.error.type, "not_found_error");
    const seen = [];
    for await (const b of batches.list({ limit: 1 })) seen.push(b.id);
    assert.ok(seen.includes(made.id));
    assert.equal((await batches.delete(made.id)).type, "message_batch_deleted");
    assert.ok((await s.caught(batches.retrieve(made.id))) instanceof Anthropic.NotFoundError);

    const free = await s.occupy();
    const waiting = await batches.create({ requests: [{ custom_id: "a", params: { ...inOslo, model: "narrow" } }] });
    await batches.cancel(waiting.id);
    await s.until("the batch to be canceled", async () => (await batches.retrieve(waiting.id)).request_counts.canceled === 1);
    await free();
    const twice = await s.caught(batches.create({ requests: [{ custom_id: "a", params }, { custom_id: "a", params }] }));
    assert.ok(twice instanceof Anthropic.BadRequestError, twice);
  },
  "a request with a key joins its task": async () => {
    const keyed = { headers: { "Idempotency-Key": "anthropic-1" } };
    const first = await anthropic.messages.create(haiku, keyed);
    assert.deepEqual(await anthropic.messages.create(haiku, keyed), first);
    const e = await s.caught(anthropic.messages.create({ ...haiku, max_tokens: 7999 }, keyed));
    assert.ok(e instanceof Anthropic.ConflictError, e);
    assert.match(e.message, /Idempotency-Key/);
  },
});
