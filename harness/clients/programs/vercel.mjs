// SPDX-License-Identifier: GPL-3.0-or-later

// Vercel's AI SDK, with each of its providers for our dialects.

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, isStepCount, jsonSchema, streamText, tool } from "ai";
import * as s from "./suite.mjs";

const { assert } = s;
const settings = { baseURL: `${s.base}/v1`, apiKey: "sk-any" };
const providers = {
  "openai-compatible, chat": createOpenAICompatible({ name: "lab", includeUsage: true, ...settings }),
  "openai, responses": createOpenAI(settings),
  "anthropic, messages": createAnthropic(settings),
};

globalThis.AI_SDK_LOG_WARNINGS = false;
const cases = {};
for (const [name, provider] of Object.entries(providers)) {
  const tools = {
    get_weather: tool({ description: "the weather of a town", inputSchema: jsonSchema(s.town), execute: async ({ city }) => `${city}: 12 degrees` }),
  };
  // The provider for responses sends the model's items of the turn before as references, unless it says store: false.
  const asked = { tools, stopWhen: isStepCount(3), prompt: "Look at the weather in Oslo" };
  cases[`${name}: a streamed text with a tool`] = async () => {
    const errors = [];
    const result = streamText({ model: provider("scripted"), ...asked, onError: ({ error }) => errors.push(error) });
    let text = "";
    for await (const part of result.textStream) text += part;
    assert.deepEqual(errors, []);
    assert.equal(text, "I ask.It is 12 degrees in Oslo.");
    const steps = await result.steps;
    assert.deepEqual(steps.map((step) => step.finishReason), ["tool-calls", "stop"]);
    assert.deepEqual(steps[0].toolCalls.map((c) => c.input), [{ city: "Oslo" }]);
    assert.ok((await result.totalUsage).outputTokens > 0);
  };
  cases[`${name}: a whole text with a tool`] = async () => {
    const result = await generateText({ model: provider("scripted"), ...asked });
    assert.equal(result.text, "It is 12 degrees in Oslo.");
  };
  cases[`${name}: a plain text of the bundled model`] = async () => {
    const result = await generateText({ model: provider("haiku"), prompt: s.question });
    assert.equal(result.finishReason, "stop");
    assert.ok(result.text);
  };
  cases[`${name}: a full queue`] = async () => {
    const free = await s.occupy({ queue: true });
    setTimeout(free, 500);
    const result = await generateText({ model: provider("narrow"), ...asked, maxRetries: 5 });
    assert.equal(result.text, "It is 12 degrees in Oslo.");
  };
}

cases["openai, responses: without keeping them"] = async () => {
  const tools = { get_weather: tool({ inputSchema: jsonSchema(s.town), execute: async () => "12 degrees" }) };
  const asked = { model: providers["openai, responses"]("scripted"), providerOptions: { openai: { store: false } }, tools, stopWhen: isStepCount(3), prompt: "Look at the weather in Oslo" };
  assert.equal((await generateText(asked)).text, "It is 12 degrees in Oslo.");
};

await s.run(cases);
