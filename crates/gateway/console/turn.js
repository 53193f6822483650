// One answer: the request, its stream, and how long things took.

import { ApiError, events, request } from './api.js';

/** What an answer is so far. `state`: `waiting`, `writing`, `done`, `stopped`, `failed`. */
export function newAnswer(model) {
  return { role: 'assistant', model, content: '', reasoning: '', state: 'waiting', error: null, finish: null, usage: null, pieces: 0, started: performance.now(), first: null, last: null };
}

/** Asks, and fills in `answer` while it arrives; `changed` is called after every piece. Never throws. */
export async function run(answer, { messages, parameters, signal, changed }) {
  const body = { model: answer.model, messages, stream: true, stream_options: { include_usage: true }, ...parameters };
  try {
    const response = await request('../v1/chat/completions', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
      signal,
    });
    for await (const data of events(response)) {
      if (data === '[DONE]') break;
      take(answer, JSON.parse(data));
      changed();
    }
    answer.state = 'done';
  } catch (error) {
    answer.state = signal.aborted ? 'stopped' : 'failed';
    if (!signal.aborted) answer.error = error instanceof ApiError ? error.message : `The connection broke off: ${error.message}`;
  }
  changed();
}

function take(answer, chunk) {
  if (chunk.error) throw new ApiError(0, chunk.error.code, chunk.error.message);
  if (chunk.usage) answer.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const delta = choice.delta ?? {};
  const thought = delta.reasoning_content ?? delta.reasoning ?? '';
  const text = delta.content ?? '';
  if (text || thought) {
    const now = performance.now();
    answer.first ??= now;
    answer.last = now;
    answer.pieces += 1;
    answer.content += text;
    answer.reasoning += thought;
    answer.state = 'writing';
  }
  if (choice.finish_reason) answer.finish = choice.finish_reason;
}

/** What came within so many seconds came at once: a connection says nothing of how fast it was made. */
const AT_ONCE = 0.05;

/** Times and tokens of an answer; a number that is not known is null. An event stands for a token until the engine has counted. */
export function figures(answer) {
  const { started, first, last, pieces, usage } = answer;
  const tokens = usage?.completion_tokens ?? pieces;
  const writing = first === null ? 0 : (last - first) / 1000;
  return {
    firstToken: first === null ? null : first - started,
    // The first token is where the clock begins, so it is not one of those that took this time.
    perSecond: tokens > 1 && writing > AT_ONCE ? (tokens - 1) / writing : null,
    tokens,
    prompt: usage?.prompt_tokens ?? null,
    cached: usage?.prompt_tokens_details?.cached_tokens ?? 0,
  };
}
