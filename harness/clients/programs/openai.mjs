// SPDX-License-Identifier: GPL-3.0-or-later

// OpenAI's SDK.

import OpenAI, { toFile } from "openai";
import * as s from "./suite.mjs";

const { assert } = s;
const client = (more) => new OpenAI({ baseURL: `${s.base}/v1`, apiKey: "sk-any", ...more });
const openai = client();
const user = (content) => [{ role: "user", content }];
const haiku = { model: "haiku", messages: user(s.question), seed: 7, temperature: 0.8, max_completion_tokens: 32000 };
const weather = { type: "function", function: { name: "get_weather", description: "the weather of a town", parameters: s.town, strict: true } };
const weatherNow = { type: "function", name: "get_weather", description: "the weather of a town", parameters: s.town, strict: true };
const inOslo = { model: "scripted", messages: user("Look at the weather in Oslo"), tools: [weather] };

// joined puts the chunks of a chat together.
async function joined(stream) {
  const all = { text: "", thought: "", calls: [], finish: null, usage: null, chunks: 0, roles: [] };
  for await (const chunk of stream) {
    all.chunks++;
    all.usage = chunk.usage ?? all.usage;
    for (const { delta, finish_reason } of chunk.choices) {
      if (delta.role) all.roles.push(all.chunks);
      all.text += delta.content ?? "";
      all.thought += delta.reasoning_content ?? "";
      all.finish = finish_reason ?? all.finish;
      for (const c of delta.tool_calls ?? []) {
        const call = (all.calls[c.index] ??= { id: "", name: "", arguments: "" });
        call.id += c.id ?? "";
        call.name += c.function?.name ?? "";
        call.arguments += c.function?.arguments ?? "";
      }
    }
  }
  return all;
}

// events puts the events of a response together, and checks their numbers.
async function events(stream) {
  const all = { types: [], text: "", thought: "", response: null };
  for await (const e of stream) {
    assert.equal(e.sequence_number, all.types.length);
    all.types.push(e.type);
    if (e.type === "response.output_text.delta") all.text += e.delta;
    if (e.type === "response.reasoning_text.delta") all.thought += e.delta;
    all.response = e.response ?? all.response;
  }
  return all;
}

await s.run({
  "chat, whole and streamed": async () => {
    const { data: whole, response } = await openai.chat.completions.create(haiku).withResponse();
    assert.equal(whole.choices[0].finish_reason, "stop");
    assert.ok(whole.choices[0].message.content);
    assert.equal((await s.task(response.headers.get("x-task-id"))).tokens_in, whole.usage.prompt_tokens);
    const streamed = await joined(await openai.chat.completions.create({ ...haiku, stream: true, stream_options: { include_usage: true } }));
    assert.equal(streamed.text, whole.choices[0].message.content);
    assert.deepEqual(streamed.roles, [1]);
    assert.equal(streamed.finish, "stop");
    const { prompt_tokens_details: first, ...usage } = whole.usage;
    const { prompt_tokens_details: second, ...same } = streamed.usage; // some of the prompt is in the KV by then
    assert.ok((second?.cached_tokens ?? 0) >= (first?.cached_tokens ?? 0));
    assert.deepEqual(same, usage);
  },
  "chat, the stream helper": async () => {
    const final = await openai.chat.completions.stream(haiku).finalChatCompletion();
    assert.equal(final.choices[0].finish_reason, "stop");
    assert.ok(final.choices[0].message.content);
  },
  "chat, an answer that is cut": async () => {
    const { choices, usage } = await openai.chat.completions.create({ ...haiku, max_completion_tokens: 3 });
    assert.equal(choices[0].finish_reason, "length");
    assert.equal(usage.completion_tokens, 3);
  },
  "chat, content as parts and a developer message": async () => {
    const { choices } = await openai.chat.completions.create({
      ...inOslo,
      messages: [
        { role: "developer", content: [{ type: "text", text: "Be short." }] },
        { role: "system", content: "Be kind." },
        { role: "user", content: [{ type: "text", text: "Look at the " }, { type: "text", text: "weather in Oslo" }] },
      ],
    });
    assert.equal(choices[0].finish_reason, "tool_calls");
    assert.equal((await s.asked()).messages.filter((m) => m.role === "system").length, 1);
  },
  "chat, tools": async () => {
    const whole = await openai.chat.completions.create(inOslo);
    const message = whole.choices[0].message;
    assert.equal(whole.choices[0].finish_reason, "tool_calls");
    assert.equal(message.content, "I ask.");
    assert.equal(message.tool_calls.length, 1);
    assert.deepEqual(JSON.parse(message.tool_calls[0].function.arguments), { city: "Oslo" });
    const streamed = await joined(await openai.chat.completions.create({ ...inOslo, stream: true }));
    assert.equal(streamed.finish, "tool_calls");
    assert.equal(streamed.text, message.content);
    assert.equal(streamed.calls[0].name, "get_weather");
    assert.equal(streamed.calls[0].arguments, message.tool_calls[0].function.arguments);
    const then = { ...inOslo, messages: [...inOslo.messages, message, { role: "tool", tool_call_id: message.tool_calls[0].id, content: "12 degrees" }] };
    const answer = await openai.chat.completions.create(then);
    assert.equal(answer.choices[0].message.content, "It is 12 degrees in Oslo.");
    assert.equal((await joined(await openai.chat.completions.create({ ...then, stream: true }))).text, "It is 12 degrees in Oslo.");
  },
  "chat, two calls at once": async () => {
    const asked = { ...inOslo, messages: user("Look at two towns") };
    const { choices } = await openai.chat.completions.create(asked);
    const cities = choices[0].message.tool_calls.map((c) => JSON.parse(c.function.arguments).city);
    assert.deepEqual(cities, ["Oslo", "Bergen"]);
    const { calls } = await joined(await openai.chat.completions.create({ ...asked, stream: true }));
    assert.deepEqual(calls.map((c) => JSON.parse(c.arguments).city), cities);
    assert.notEqual(calls[0].id, calls[1].id);
  },
  "chat, the tool runner": async () => {
    const runner = openai.chat.completions.runTools({
      ...inOslo,
      tools: [{ type: "function", function: { ...weather.function, parse: JSON.parse, function: ({ city }) => `${city}: 12 degrees` } }],
    });
    assert.equal(await runner.finalContent(), "It is 12 degrees in Oslo.");
  },
  "chat, a JSON schema": async () => {
    const { choices } = await openai.chat.completions.parse({
      model: "scripted",
      messages: user("A frog as JSON"),
      response_format: { type: "json_schema", json_schema: { name: "frog", schema: s.frog, strict: true } },
    });
    assert.deepEqual(JSON.parse(choices[0].message.content), { name: "frog", legs: 4 });
    assert.deepEqual((await s.asked()).json_schema, s.frog);
  },
  "chat, an image": async () => {
    const url = `data:image/png;base64,${s.picture}`;
    const { choices } = await openai.chat.completions.create({
      model: "scripted",
      messages: user([{ type: "text", text: "What is in the picture?" }, { type: "image_url", image_url: { url } }]),
    });
    assert.equal(choices[0].message.content, "A red dot.");
    assert.ok(JSON.stringify((await s.asked()).messages).includes(s.picture));
  },
  "chat, thinking": async () => {
    const asked = { model: "scripted", messages: user("Think of frogs"), reasoning_effort: "high" };
    const { choices } = await openai.chat.completions.create(asked);
    assert.equal(choices[0].message.reasoning_content, "Frogs are green.");
    assert.equal(choices[0].message.content, "Green.");
    const streamed = await joined(await openai.chat.completions.create({ ...asked, stream: true }));
    assert.equal(streamed.thought, "Frogs are green.");
    assert.equal(streamed.text, "Green.");
  },
  "log probabilities": async () => {
    const asked = { ...haiku, logprobs: true, top_logprobs: 3 };
    const { choices } = await openai.chat.completions.create(asked);
    const told = choices[0].logprobs.content;
    const spelled = (tokens) => Buffer.from(tokens.flatMap((t) => t.bytes)).toString();
    assert.equal(spelled(told), choices[0].message.content);
    for (const t of told) {
      assert.ok(t.logprob <= 0);
      assert.equal(t.top_logprobs.length, 3);
    }
    const streamed = [];
    for await (const chunk of await openai.chat.completions.create({ ...asked, stream: true })) streamed.push(...(chunk.choices[0].logprobs?.content ?? []));
    assert.deepEqual(streamed, told);
    const final = await openai.chat.completions.stream(asked).finalChatCompletion();
    assert.deepEqual(final.choices[0].logprobs.content, told);
    const text = (await openai.completions.create({ model: "haiku", prompt: s.question, temperature: 0, logprobs: 2, max_tokens: 8 })).choices[0];
    assert.equal(text.logprobs.tokens.join(""), text.text);
    assert.equal(text.logprobs.text_offset.length, text.logprobs.token_logprobs.length);
    const response = await openai.responses.create({
      model: "haiku", input: s.question, seed: 7, temperature: 0.8, include: ["message.output_text.logprobs"], top_logprobs: 3,
    });
    assert.equal(spelled(response.output[0].content[0].logprobs), response.output_text);
    await assert.rejects(openai.chat.completions.create({ ...haiku, top_logprobs: 3 }), (e) => e.status === 400 && e.param === "top_logprobs");
  },
  "completions": async () => {
    const asked = { model: "haiku", prompt: s.question, max_tokens: 8, seed: 7 };
    const whole = await openai.completions.create(asked);
    assert.equal(whole.choices[0].finish_reason, "length");
    let text = "";
    for await (const chunk of await openai.completions.create({ ...asked, stream: true })) text += chunk.choices[0]?.text ?? "";
    assert.equal(text, whole.choices[0].text);
  },
  "embeddings, as floats and as base64": async () => {
    const input = ["tea", "frogs"];
    const recorded = s.recorder({ bodies: true });
    const usual = await client({ fetch: recorded.fetch }).embeddings.create({ model: "vectors", input });
    assert.equal(typeof JSON.parse(recorded.last.seen).data[0].embedding, "string", "the SDK asks for base64");
    const floats = await openai.embeddings.create({ model: "vectors", input, encoding_format: "float" });
    assert.equal(usual.data.length, 2);
    assert.deepEqual(usual.data.map((d) => Array.from(d.embedding, Math.fround)), floats.data.map((d) => d.embedding.map(Math.fround)));
  },
  "models": async () => {
    const ids = [];
    for await (const m of openai.models.list()) ids.push(m.id);
    for (const id of ["haiku", "vectors", "scripted"]) assert.ok(ids.includes(id), ids.join());
    assert.equal((await openai.models.retrieve("haiku")).id, "haiku");
    assert.ok((await s.caught(openai.models.retrieve("no-such"))) instanceof OpenAI.NotFoundError);
  },
  "an abort cancels the task": async () => {
    const { data: stream, response } = await openai.chat.completions.create({ ...haiku, model: "slow-haiku", stream: true }).withResponse();
    for await (const chunk of stream) if (chunk.choices[0]?.delta.content) break; // the SDK aborts
    await s.becomes(response.headers.get("x-task-id"), "canceled");
  },
  "an abort while the task waits cancels it": async () => {
    const free = await s.occupy();
    const recorded = s.recorder();
    const stop = new AbortController();
    const asked = client({ fetch: recorded.fetch }).chat.completions.create({ model: "narrow", messages: user("hi"), stream: true }, { signal: stop.signal });
    const failed = s.caught(asked.then(async (stream) => { for await (const _ of stream); stop.signal.throwIfAborted(); }));
    await s.until("the head", () => recorded.calls.length > 0);
    const id = recorded.task;
    stop.abort();
    await failed;
    await s.becomes(id, "canceled");
    await free();
  },
  "a full queue: the SDK repeats the request": async () => {
    const free = await s.occupy({ queue: true });
    const recorded = s.recorder();
    const asked = client({ fetch: recorded.fetch }).chat.completions.create({ model: "narrow", messages: user("Look at the weather in Oslo"), tools: [weather] });
    await s.until("a refusal", () => recorded.calls.length > 0);
    await free();
    assert.equal((await asked).choices[0].finish_reason, "tool_calls");
    s.refusedThenServed(recorded.calls);
  },
  "a full queue: the error, where it does not": async () => {
    const free = await s.occupy({ queue: true });
    const e = await s.caught(openai.chat.completions.create({ model: "narrow", messages: user("hi") }, { maxRetries: 0 }));
    await free();
    assert.ok(e instanceof OpenAI.RateLimitError, e);
    assert.match(e.message, /overloaded/);
  },
  "comments while a task waits": async () => {
    const free = await s.occupy();
    const recorded = s.recorder({ bodies: true });
    const stream = await client({ fetch: recorded.fetch }).chat.completions.create({ model: "narrow", messages: user("A frog as JSON"), stream: true });
    await s.until("a comment", () => recorded.last.seen.startsWith(": "));
    assert.ok(!recorded.last.seen.includes("data:"));
    await free();
    assert.deepEqual(JSON.parse((await joined(stream)).text), { name: "frog", legs: 4 });
  },
  "errors": async () => {
    let e = await s.caught(openai.chat.completions.create({ ...haiku, model: "gpt-4o" }));
    assert.ok(e instanceof OpenAI.NotFoundError, e);
    assert.equal(e.code, "model_not_found");
    assert.match(e.message, /haiku/);
    assert.ok(e.requestID);
    e = await s.caught(openai.chat.completions.create({ ...haiku, messages: user(s.long) }));
    assert.ok(e instanceof OpenAI.BadRequestError, e);
    assert.equal(e.code, "context_length_exceeded");
    assert.match(e.message, /maximum context length is 256 tokens/);
    assert.match(e.message, /prompt is too long: \d+ tokens > 256 maximum/);
    e = await s.caught(openai.chat.completions.create({ ...haiku, n: 2 }));
    assert.equal(e.param, "n");
    e = await s.caught(openai.chat.completions.create({ ...inOslo, model: "haiku" }));
    assert.equal(e.status, 400);
    assert.match(e.message, /tools/);
  },
  "a stream that fails is no whole answer": async () => {
    const stream = await openai.chat.completions.create({ model: "scripted", messages: user("Break"), stream: true });
    await s.caught(joined(stream));
  },
  "a worker that is killed in mid-answer": async () => {
    const slow = { ...haiku, model: "slow-haiku", stream: true };
    const want = await joined(await openai.chat.completions.create(slow));
    const stream = await openai.chat.completions.create(slow);
    const got = await joined((async function* () {
      let n = 0;
      for await (const chunk of stream) {
        if (++n === 5) await s.killWorkers();
        yield chunk;
      }
    })());
    assert.equal(got.text, want.text);
    assert.equal(got.finish, "stop");
  },
  "responses, whole and streamed": async () => {
    const asked = { model: "haiku", input: s.question, temperature: 0, max_output_tokens: 32000 };
    const whole = await openai.responses.create(asked);
    assert.equal(whole.status, "completed");
    assert.ok(whole.output_text);
    const streamed = await events(await openai.responses.create({ ...asked, stream: true }));
    assert.equal(streamed.text, whole.output_text);
    assert.equal(streamed.types[0], "response.created");
    assert.equal(streamed.types.at(-1), "response.completed");
    const { input_tokens_details: reused, ...usage } = streamed.response.usage; // the second time, some of the prompt is in the KV
    assert.ok(reused.cached_tokens >= whole.usage.input_tokens_details.cached_tokens);
    assert.deepEqual({ ...usage, input_tokens_details: whole.usage.input_tokens_details }, whole.usage);
    const final = await openai.responses.stream(asked).finalResponse();
    assert.equal(final.output_text, whole.output_text);
  },
  "responses, an answer that is cut": async () => {
    const { status, incomplete_details } = await openai.responses.create({ model: "haiku", input: s.question, max_output_tokens: 3 });
    assert.equal(status, "incomplete");
    assert.equal(incomplete_details.reason, "max_output_tokens");
  },
  "responses, tools": async () => {
    const asked = { model: "scripted", input: user("Look at the weather in Oslo"), tools: [weatherNow] };
    const whole = await openai.responses.create(asked);
    const call = whole.output.find((o) => o.type === "function_call");
    assert.deepEqual(JSON.parse(call.arguments), { city: "Oslo" });
    const streamed = await events(await openai.responses.create({ ...asked, stream: true }));
    assert.ok(streamed.types.includes("response.function_call_arguments.done"));
    assert.equal(streamed.response.output.find((o) => o.type === "function_call").arguments, call.arguments);
    const answer = await openai.responses.create({
      ...asked,
      input: [...asked.input, ...whole.output, { type: "function_call_output", call_id: call.call_id, output: "12 degrees" }],
    });
    assert.equal(answer.output_text, "It is 12 degrees in Oslo.");
  },
  "responses, a JSON schema": async () => {
    const answer = await openai.responses.parse({
      model: "scripted",
      input: "A frog as JSON",
      text: { format: { type: "json_schema", name: "frog", schema: s.frog, strict: true } },
    });
    assert.deepEqual(JSON.parse(answer.output_text), { name: "frog", legs: 4 });
    assert.deepEqual((await s.asked()).json_schema, s.frog);
  },
  "responses, an image and thinking": async () => {
    const content = [{ type: "input_text", text: "What is in the picture?" }, { type: "input_image", image_url: `data:image/png;base64,${s.picture}`, detail: "auto" }];
    assert.equal((await openai.responses.create({ model: "scripted", input: user(content) })).output_text, "A red dot.");
    const asked = { model: "scripted", input: "Think of frogs", reasoning: { effort: "high" } };
    const whole = await openai.responses.create(asked);
    assert.equal(whole.output[0].type, "reasoning");
    assert.equal(whole.output_text, "Green.");
    assert.equal((await events(await openai.responses.create({ ...asked, stream: true }))).thought, "Frogs are green.");
  },
  "responses, kept and in the background": async () => {
    const asked = { model: "slow-haiku", input: s.question, seed: 7, temperature: 0.8, metadata: { town: "Oslo" } };
    const want = await openai.responses.create(asked);
    assert.deepEqual(await openai.responses.retrieve(want.id), want);
    const begun = await openai.responses.create({ ...asked, background: true });
    assert.equal(begun.status, "queued");
    let now = begun;
    while (now.status === "queued" || now.status === "in_progress") {
      await s.sleep(50);
      now = await openai.responses.retrieve(begun.id, { include: ["message.input_image.image_url"] });
    }
    assert.equal(now.status, "completed");
    assert.equal(now.output_text, want.output_text);
    assert.deepEqual(now.metadata, { town: "Oslo" });
    assert.equal(now.background, true);
    const final = await openai.responses.stream({ response_id: begun.id, starting_after: 3 }).finalResponse();
    assert.equal(final.output_text, want.output_text);
    const gone = await s.caught(openai.responses.retrieve((await openai.responses.create({ ...asked, model: "haiku", store: false })).id));
    assert.ok(gone instanceof OpenAI.NotFoundError, gone);
    assert.match((await s.caught(openai.responses.create({ ...asked, store: false, background: true }))).message, /`background`/);
  },
  "responses, a stream resumed after the daemon was killed": async () => {
    const asked = { model: "slow-haiku", input: s.question, seed: 7, temperature: 0.8, background: true, stream: true };
    const seen = [];
    let id;
    await s.caught((async () => {
      for await (const event of await openai.responses.create(asked)) {
        id ??= event.response.id;
        seen.push(event);
        if (seen.length === 12) await s.restart();
      }
    })());
    const last = seen.at(-1).sequence_number;
    assert.equal(last, seen.length - 1);
    assert.ok(!seen.some((e) => /completed|failed|incomplete/.test(e.type.slice("response.".length)) && e.response));
    for await (const event of await openai.responses.retrieve(id, { stream: true, starting_after: last })) seen.push(event);
    assert.equal(seen.at(-1).type, "response.completed");
    const whole = [];
    for await (const event of await openai.responses.retrieve(id, { stream: true })) whole.push(event);
    assert.equal(s.sha256(seen.map((e) => JSON.stringify(e)).join("\n")), s.sha256(whole.map((e) => JSON.stringify(e)).join("\n")));
    assert.equal(seen.at(-1).response.output_text ?? (await openai.responses.retrieve(id)).output_text, (await openai.responses.create({ ...asked, background: false, stream: false })).output_text);
    const e = await s.caught(openai.responses.retrieve(id, { stream: true, starting_after: seen.length }));
    assert.ok(e instanceof OpenAI.BadRequestError, e);
    assert.equal(e.param, "starting_after");
  },
  "responses, a conversation that the server keeps": async () => {
    const first = await openai.responses.create({ model: "scripted", input: user("Look at the weather in Oslo"), tools: [weatherNow], instructions: "Be brief." });
    const call = first.output.find((o) => o.type === "function_call");
    const answer = await openai.responses.create({
      model: "scripted",
      previous_response_id: first.id,
      tools: [weatherNow],
      input: [{ type: "function_call_output", call_id: call.call_id, output: "12 degrees" }],
    });
    assert.equal(answer.output_text, "It is 12 degrees in Oslo.");
    assert.equal(answer.previous_response_id, first.id);
    assert.deepEqual((await s.asked()).messages.map((m) => m.role), ["user", "assistant", "tool"]);
    const ids = [];
    for await (const item of openai.responses.inputItems.list(answer.id, { order: "asc", limit: 1 })) ids.push(`${item.type} ${item.role ?? ""}`);
    assert.deepEqual(ids, ["message user", "message assistant", "function_call ", "function_call_output "]);
    const newest = await openai.responses.inputItems.list(answer.id);
    assert.equal(newest.data[0].type, "function_call_output");
    await openai.responses.delete(first.id);
    const e = await s.caught(openai.responses.create({ model: "scripted", previous_response_id: answer.id, input: "And now?" }));
    assert.ok(e instanceof OpenAI.BadRequestError, e);
    assert.equal(e.code, "previous_response_not_found");
  },
  "responses, canceled and deleted": async () => {
    const begun = await openai.responses.create({ model: "scripted", input: "Wait for me", background: true });
    const stream = await openai.responses.retrieve(begun.id, { stream: true });
    const canceled = await openai.responses.cancel(begun.id);
    assert.equal(canceled.status, "cancelled");
    assert.equal((await openai.responses.cancel(begun.id)).status, "cancelled");
    const seen = [];
    for await (const event of stream) seen.push(event);
    assert.deepEqual(seen.map((e) => e.type), ["response.created", "response.queued", "response.failed"]);
    assert.equal(seen.at(-1).response.status, "cancelled");
    await s.becomes(begun.id.slice("resp_".length), "canceled");
    await openai.responses.delete(begun.id);
    assert.ok((await s.caught(openai.responses.retrieve(begun.id))) instanceof OpenAI.NotFoundError);
    const whole = await openai.responses.create({ model: "haiku", input: s.question });
    assert.ok((await s.caught(openai.responses.cancel(whole.id))) instanceof OpenAI.BadRequestError);
  },
  "responses, what is refused": async () => {
    const e = await s.caught(openai.responses.create({ model: "haiku", input: "hi", previous_response_id: "resp_1" }));
    assert.ok(e instanceof OpenAI.BadRequestError, e);
    assert.equal(e.param, "previous_response_id");
    assert.equal(e.code, "previous_response_not_found");
    const stream = await openai.responses.create({ model: "scripted", input: "Break", stream: true });
    const seen = [];
    await s.caught((async () => {
      for await (const event of stream) seen.push(event.type);
      assert.ok(!seen.includes("response.completed") && !seen.includes("response.failed"));
    })().then(() => assert.fail("it ended cleanly")));
    assert.ok(!seen.includes("response.completed"), seen.join());
  },
  "batches": async () => {
    const lines = ["frogs", "toads", "newts"].map((name) => ({
      custom_id: name,
      method: "POST",
      url: "/v1/chat/completions",
      body: { ...haiku, messages: user(`Write of ${name}`), max_completion_tokens: 4 },
    }));
    lines.push({ ...lines[0], custom_id: "unknown", body: { ...lines[0].body, model: "none" } });
    const content = lines.map((line) => JSON.stringify(line)).join("\n");
    const file = await openai.files.create({ file: await toFile(Buffer.from(content), "in.jsonl"), purpose: "batch" });
    assert.equal(file.bytes, content.length);
    assert.equal(await (await openai.files.content(file.id)).text(), content);
    const made = await openai.batches.create({
      input_file_id: file.id,
      endpoint: "/v1/chat/completions",
      completion_window: "24h",
      metadata: { of: "mine" },
    });
    assert.deepEqual(made.metadata, { of: "mine" });
    const batch = await s.until("the batch to end", async () => {
      const b = await openai.batches.retrieve(made.id);
      return b.status === "completed" && b;
    });
    assert.deepEqual(batch.request_counts, { total: 4, completed: 3, failed: 1 });
    const of = async (id) => (await (await openai.files.content(id)).text()).trim().split("\n").map((line) => JSON.parse(line));
    const done = await of(batch.output_file_id);
    assert.deepEqual(done.map((line) => line.custom_id), ["frogs", "toads", "newts"]);
    const alone = await openai.chat.completions.create(lines[1].body);
    assert.equal(done[1].response.body.choices[0].message.content, alone.choices[0].message.content);
    assert.equal((await s.task(done[1].response.request_id)).state, "completed");
    const [failed] = await of(batch.error_file_id);
    assert.equal(failed.custom_id, "unknown");
    assert.equal(failed.response.status_code, 404);
    assert.equal(failed.response.body.error.code, "model_not_found");
    const seen = [];
    for await (const b of openai.batches.list({ limit: 1 })) seen.push(b.id);
    assert.ok(seen.includes(made.id));
    for await (const f of openai.files.list({ purpose: "batch_output" })) assert.equal(f.purpose, "batch_output");
    assert.equal((await openai.files.delete(file.id)).deleted, true);
    assert.ok((await s.caught(openai.files.retrieve(file.id))) instanceof OpenAI.NotFoundError);
  },
  "batches, a cancel and what is refused": async () => {
    const lines = Array.from({ length: 20 }, (_, i) =>
      JSON.stringify({ custom_id: `c${i}`, method: "POST", url: "/v1/completions", body: { model: "narrow", prompt: "Wait for me" } }),
    );
    const free = await s.occupy();
    const file = await openai.files.create({ file: await toFile(Buffer.from(lines.join("\n")), "in.jsonl"), purpose: "batch" });
    const made = await openai.batches.create({ input_file_id: file.id, endpoint: "/v1/completions", completion_window: "24h" });
    await s.until("the batch to begin", async () => (await openai.batches.retrieve(made.id)).status === "in_progress");
    assert.ok((await s.caught(openai.files.delete(file.id))) instanceof OpenAI.ConflictError);
    await openai.batches.cancel(made.id);
    const batch = await s.until("the batch to be canceled", async () => {
      const b = await openai.batches.retrieve(made.id);
      return b.status === "cancelled" && b;
    });
    assert.equal(batch.request_counts.failed, 20);
    await free();
    const wrong = await s.caught(openai.files.create({ file: await toFile(Buffer.from("x"), "x"), purpose: "fine-tune" }));
    assert.ok(wrong instanceof OpenAI.BadRequestError, wrong);
    assert.equal(wrong.param, "purpose");
    const none = await s.caught(openai.batches.create({ input_file_id: file.id, endpoint: "/v1/moderations", completion_window: "24h" }));
    assert.equal(none.param, "endpoint");
    assert.ok((await s.caught(openai.batches.retrieve("batch_none"))) instanceof OpenAI.NotFoundError);
  },
  "a request with a key joins its task": async () => {
    const keyed = { headers: { "Idempotency-Key": "openai-1" } };
    const first = await openai.chat.completions.create({ ...haiku, stream: true }, keyed).withResponse();
    const id = first.response.headers.get("x-task-id");
    first.data.controller.abort(); // the client leaves, and comes back
    const again = await openai.chat.completions.create({ ...haiku, stream: true }, keyed).withResponse();
    assert.equal(again.response.headers.get("x-task-id"), id);
    const got = await joined(again.data);
    assert.equal(got.finish, "stop");
    const e = await s.caught(openai.chat.completions.create({ ...haiku, seed: 8, stream: true }, keyed));
    assert.ok(e instanceof OpenAI.ConflictError, e);
    assert.match(e.message, /Idempotency-Key/);
  },
});
