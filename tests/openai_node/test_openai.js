// The OpenAI npm package against a running server: WHARF_URL names it, `cargo xtask ci` starts it.
//
// WHARF_KEYED_URL and WHARF_KEY name a server that asks for a key and one that it takes; WHARF_TOOLS_URL (with WHARF_KEY, if that is set)
// one whose model calls tools whenever it must. Tests that need them are ignored without. The last line counts in the words of Rust's test
// harness, so that one summary can add up all. A CommonJS module, because only those are found through NODE_PATH.

'use strict';

const assert = require('node:assert/strict');
const OpenAI = require('openai');
const { VERSION } = require('openai/version');

const { WHARF_URL, WHARF_KEY, WHARF_KEYED_URL, WHARF_TOOLS_URL } = process.env;
const QUESTION = [{ role: 'user', content: 'What is the capital of France?' }];

const TOOLS = ['weather', 'time'].map((name) => ({
  type: 'function',
  function: {
    name: `get_${name}`,
    description: `The ${name} in a place; "now" if no day is given`,
    parameters: {
      type: 'object',
      properties: { place: { type: 'string' }, days: { type: 'integer' }, exact: { type: 'boolean' } },
      required: ['place'],
    },
  },
}));
const MUST_CALL = { messages: [{ role: 'user', content: 'What is it like in Zürich?' }], tools: TOOLS, tool_choice: 'required' };

const at = (url, apiKey = 'not needed') => new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0, timeout: 120_000 });
const client = at(WHARF_URL);
let MODEL;

const chat = (ask, options) => client.chat.completions.create({ model: MODEL, messages: QUESTION, ...ask }, options);

async function collect(stream) {
  const chunks = [];
  for await (const chunk of await stream) chunks.push(chunk);
  return chunks;
}

/** The error, which must be of this class. */
async function failsWith(kind, call) {
  const error = await call().then(() => undefined, (error) => error);
  assert.ok(error instanceof kind, `${kind.name} was not thrown, but ${error}`);
  return error;
}

/** A client whose model calls tools, and that model. */
async function withTools() {
  const tools = at(WHARF_TOOLS_URL, WHARF_KEY);
  return [tools, (await tools.models.list()).data[0].id];
}

/** What must be true of the calls of `MUST_CALL`, however they came. */
function calledBoth(calls) {
  assert.deepEqual(calls.map((call) => call.function.name), ['get_weather', 'get_time']);
  assert.equal(new Set(calls.map((call) => call.id)).size, 2);
  for (const call of calls) {
    const { place, days, exact } = JSON.parse(call.function.arguments);
    assert.deepEqual([call.type, typeof place, typeof days, typeof exact], ['function', 'string', 'number', 'boolean']);
  }
}

const tests = {
  async models_can_be_listed_and_retrieved() {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    assert.ok(ids.includes(MODEL));
    assert.equal((await client.models.retrieve(MODEL)).id, MODEL);
  },

  async a_chat_completes_with_usage() {
    const { choices: [choice], usage } = await chat({ max_tokens: 40, temperature: 0 });
    assert.equal(choice.message.role, 'assistant');
    assert.ok(choice.message.content.trim());
    assert.ok(['stop', 'length'].includes(choice.finish_reason));
    assert.ok(usage.prompt_tokens > 0 && usage.completion_tokens > 0 && usage.completion_tokens <= 40);
    assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
  },

  async streaming_gives_the_same_text_and_usage_last() {
    const ask = { max_tokens: 40, temperature: 0 };
    const whole = await chat(ask);
    const chunks = await collect(chat({ ...ask, stream: true, stream_options: { include_usage: true } }));
    const choices = chunks.flatMap((chunk) => chunk.choices);
    assert.equal(choices.map((choice) => choice.delta.content ?? '').join(''), whole.choices[0].message.content);
    assert.equal(choices.at(-1).finish_reason, whole.choices[0].finish_reason);
    assert.deepEqual(chunks.at(-1).choices, []);
    assert.equal(chunks.at(-1).usage.completion_tokens, whole.usage.completion_tokens);
  },

  async the_packages_own_assembly_of_a_stream_gives_the_whole_answer() {
    const ask = { model: MODEL, messages: QUESTION, max_tokens: 20, temperature: 0 };
    const assembled = await client.chat.completions.stream(ask).finalChatCompletion();
    const whole = await chat(ask);
    assert.equal(assembled.choices[0].message.content, whole.choices[0].message.content);
    assert.equal(assembled.choices[0].finish_reason, whole.choices[0].finish_reason);
  },

  async a_seed_repeats_an_answer() {
    const ask = { max_tokens: 30, temperature: 1, seed: 7 };
    const [first, second] = [await chat(ask), await chat(ask)];
    assert.equal(first.choices[0].message.content, second.choices[0].message.content);
  },

  async stop_strings_end_the_answer_and_stay_out_of_it() {
    const ask = { max_tokens: 60, temperature: 0 };
    const whole = (await chat(ask)).choices[0].message.content;
    const stop = whole.trim().split(/\s+/)[2];
    const cut = (await chat({ ...ask, stop: [stop] })).choices[0];
    assert.equal(cut.finish_reason, 'stop');
    assert.equal(cut.message.content, whole.slice(0, whole.indexOf(stop)));
  },

  async several_choices() {
    const { choices } = await chat({ max_tokens: 8, n: 3, seed: 1, temperature: 1 });
    assert.deepEqual(choices.map((choice) => choice.index).sort(), [0, 1, 2]);
  },

  async chat_logprobs() {
    const { choices: [choice] } = await chat({ max_tokens: 5, temperature: 0, logprobs: true, top_logprobs: 3 });
    const tokens = choice.logprobs.content;
    assert.ok(tokens.length > 0 && tokens.length <= 5);
    for (const token of tokens) {
      assert.ok(token.logprob <= 0 && token.top_logprobs.length === 3);
      const best = token.top_logprobs.reduce((a, b) => (b.logprob > a.logprob ? b : a));
      assert.equal(best.token, token.token, 'greedy decoding takes the likeliest token');
    }
  },

  async completions() {
    const ask = { model: MODEL, prompt: 'Once upon a time', max_tokens: 16, temperature: 0 };
    const { choices: [choice], usage } = await client.completions.create({ ...ask, logprobs: 2 });
    assert.ok(choice.text && usage.completion_tokens <= 16);
    assert.equal(choice.logprobs.tokens.length, choice.logprobs.token_logprobs.length);
    const chunks = await collect(client.completions.create({ ...ask, stream: true }));
    assert.equal(chunks.flatMap((chunk) => chunk.choices).map((part) => part.text).join(''), choice.text);
  },

  async an_unknown_model_is_not_found() {
    const error = await failsWith(OpenAI.NotFoundError, () => chat({ model: 'no-such-model' }));
    assert.deepEqual([error.status, error.code], [404, 'model_not_found']);
  },

  async a_bad_parameter_is_named() {
    const error = await failsWith(OpenAI.BadRequestError, () => chat({ max_tokens: -1 }));
    assert.equal(error.param, 'max_tokens');
  },

  async a_prompt_beyond_the_context_is_refused() {
    const messages = [{ role: 'user', content: 'word '.repeat(200_000) }];
    const error = await failsWith(OpenAI.BadRequestError, () => chat({ messages }));
    assert.equal(error.code, 'context_length_exceeded');
  },

  async leaving_a_stream_early_leaves_the_server_well() {
    const stream = await chat({ max_tokens: 500, stream: true });
    for await (const chunk of stream) {
      assert.ok(chunk.choices.length > 0);
      break; // which aborts the request
    }
    assert.ok(stream.controller.signal.aborted);
    await tests.a_chat_completes_with_usage();
  },

  async an_aborted_request_is_an_abort_and_leaves_the_server_well() {
    const controller = new AbortController();
    const stream = await chat({ max_tokens: 500, stream: true }, { signal: controller.signal });
    // The package ends the loop of a stream that the caller has ended, without an error.
    for await (const chunk of stream) {
      assert.ok(chunk.choices.every((choice) => choice.finish_reason === null), 'nothing ended before it was aborted');
      controller.abort();
    }
    const before = new AbortController();
    before.abort();
    await failsWith(OpenAI.APIUserAbortError, () => chat({}, { signal: before.signal }));
    await tests.a_chat_completes_with_usage();
  },
};

const keyTests = {
  async a_wrong_key_is_an_authentication_error() {
    const error = await failsWith(OpenAI.AuthenticationError, () => at(WHARF_KEYED_URL, 'wrong').models.list());
    assert.deepEqual([error.status, error.code], [401, 'invalid_api_key']);
  },

  async the_right_key_is_let_in() {
    const keyed = at(WHARF_KEYED_URL, WHARF_KEY);
    const model = (await keyed.models.list()).data[0].id;
    const answer = await keyed.chat.completions.create({ model, messages: QUESTION, max_tokens: 4 });
    assert.ok(answer.choices[0].message.content);
  },
};

const toolTests = {
  async tools_that_must_be_called_are_called() {
    const [tools, model] = await withTools();
    const { choices: [choice] } = await tools.chat.completions.create({ model, ...MUST_CALL });
    assert.equal(choice.finish_reason, 'tool_calls');
    assert.equal(choice.message.content, null);
    calledBoth(choice.message.tool_calls);
  },

  async a_streamed_tool_call_comes_in_pieces_that_make_the_whole() {
    const [tools, model] = await withTools();
    const stream = tools.chat.completions.stream({ model, ...MUST_CALL });
    const pieces = [0, 0];
    stream.on('tool_calls.function.arguments.delta', ({ index, arguments_delta: piece }) => {
      if (piece) pieces[index] += 1;
    });
    const { choices: [choice] } = await stream.finalChatCompletion();
    assert.equal(choice.finish_reason, 'tool_calls');
    calledBoth(choice.message.tool_calls);
    assert.ok(pieces.every((count) => count > 1), `pieces of each call: ${pieces}`);
    const whole = await tools.chat.completions.create({ model, ...MUST_CALL });
    const said = (answer) => answer.choices[0].message.tool_calls.map((call) => call.function.arguments);
    assert.deepEqual(said({ choices: [choice] }), said(whole));
  },

  async a_named_function_is_the_one_that_is_called_and_its_result_goes_back() {
    const [tools, model] = await withTools();
    const named = { type: 'function', function: { name: 'get_time' } };
    const first = await tools.chat.completions.create({ model, ...MUST_CALL, tool_choice: named });
    const { message } = first.choices[0];
    assert.deepEqual(message.tool_calls.map((call) => call.function.name), ['get_time']);
    const result = { role: 'tool', tool_call_id: message.tool_calls[0].id, content: '{"time": "12:00"}' };
    const messages = [...MUST_CALL.messages, message, result];
    const last = await tools.chat.completions.create({ model, messages, tools: TOOLS, tool_choice: 'none' });
    assert.ok(last.choices[0].message.content && !last.choices[0].message.tool_calls);
  },
};

async function main() {
  MODEL = (await client.models.list()).data[0].id;
  const groups = [[tests, true], [keyTests, WHARF_KEYED_URL && WHARF_KEY], [toolTests, WHARF_TOOLS_URL]];
  let [passed, failed, ignored] = [0, 0, 0];
  for (const [group, can] of groups) {
    for (const [name, test] of Object.entries(group)) {
      if (!can) {
        ignored += 1;
        console.log(`test ${name} ... ignored`);
        continue;
      }
      try {
        await test();
        passed += 1;
        console.log(`test ${name} ... ok`);
      } catch (error) {
        failed += 1;
        console.log(`test ${name} ... FAILED\n${error.stack}`);
      }
    }
  }
  const word = failed ? 'FAILED' : 'ok';
  console.log(`test result: ${word}. ${passed} passed; ${failed} failed; ${ignored} ignored; openai ${VERSION}`);
  process.exitCode = failed ? 1 : 0;
}

main();
