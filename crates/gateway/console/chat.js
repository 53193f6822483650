// The playground. The conversation lives in this module's memory: a reload forgets it, and nothing of it is stored anywhere.

import { json } from './api.js';
import { announce, copyButton, h, morph } from './dom.js';
import { exact, ms, plural, rate, seconds, words } from './format.js';
import { markdown } from './markdown.js';
import { listen, store } from './store.js';
import { figures, newAnswer, run } from './turn.js';

const STARTERS = ['Explain what a KV cache is in three sentences.', 'Write a haiku about harbours.', 'List five uses of a small language model.'];
const FIELDS = [
  { name: 'temperature', label: 'Temperature', min: 0, max: 2, step: 0.1, hint: 'Higher is more varied' },
  { name: 'top_p', label: 'Top P', min: 0, max: 1, step: 0.05, hint: 'Share of likely tokens that are drawn from' },
  { name: 'max_tokens', label: 'Max tokens', min: 1, max: 1_000_000, step: 1, hint: 'Where an answer is cut' },
];

const ENDED = ['done', 'stopped', 'failed'];

const state = { messages: [], model: null, models: [], trouble: null, system: '', values: {}, draft: '', stop: null, open: false };
/** The view, while it is shown. */
let view = null;
let frame = 0;

/** Shows the view in `root`; returns what ends it. */
export function mount(root) {
  view = build();
  morph(root, view.page);
  const ignore = listen(onOverview);
  draw();
  loadModels();
  const clock = setInterval(() => { if (state.stop && last()?.state === 'waiting') draw(); }, 100);
  return () => {
    ignore();
    clearInterval(clock);
    view = null;
  };
}

/** Puts the cursor where a message is written. */
export function focusPrompt() {
  view?.prompt.focus();
}

/** Ends the answer that is being written. Returns whether there was one. */
export function stop() {
  const running = state.stop !== null;
  state.stop?.abort();
  return running;
}

/** Another key may mean other models. */
export async function loadModels() {
  try {
    const { data } = await json('../v1/models');
    state.models = data.map((model) => model.id);
    state.trouble = null;
  } catch (error) {
    state.trouble = error.message;
  }
  if (!state.models.includes(state.model)) state.model = state.models[0] ?? null;
  draw();
}

function build() {
  const select = h('select', { id: 'model', onchange: () => { state.model = select.value; draw(); } });
  const prompt = h('textarea', { id: 'prompt', rows: 1, placeholder: 'Write a message', 'aria-label': 'Message', value: state.draft });
  prompt.oninput = () => { state.draft = prompt.value; grow(prompt); drawSend(); };
  prompt.onkeydown = (event) => {
    // Enter also ends the composition of a character; that is no sending.
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  };
  const send_ = h('button', { type: 'submit', class: 'primary send' });
  const form = h('form', { class: 'composer', onsubmit: (event) => { event.preventDefault(); if (!stop()) send(); } }, prompt, send_);
  const log = h('div', { class: 'log', role: 'log', 'aria-label': 'Conversation', tabindex: 0 });
  const panel = parameters();
  const toggle = h('button', { type: 'button', 'aria-controls': 'parameters', onclick: () => { state.open = !state.open; draw(); } }, 'Parameters');
  const fresh = h('button', { type: 'button', onclick: reset }, 'New chat');
  const page = h('div', { class: 'chat', key: 'chat' },
    h('header', {}, h('h1', {}, 'Chat'), h('label', { for: 'model', class: 'hidden' }, 'Model'), select, h('span', { class: 'grow' }), toggle, fresh),
    h('section', { class: 'talk', 'aria-label': 'Chat' }, log,
      h('div', { class: 'write' }, form, h('p', { class: 'muted small hint' }, h('kbd', {}, '/'), ' to write · ', h('kbd', {}, 'Enter'), ' to send · ', h('kbd', {}, 'Esc'), ' to stop · kept in this tab only'))),
    panel);
  return { page, select, prompt, send: send_, log, panel, toggle, fresh };
}

function parameters() {
  const system = h('textarea', { id: 'system', rows: 5, placeholder: 'What the model should know or be', value: state.system, oninput: () => { state.system = system.value; } });
  const fields = FIELDS.map(({ name, label, hint, ...range }) => {
    const input = h('input', { id: name, type: 'number', inputmode: 'decimal', placeholder: 'default', ...range, value: state.values[name] ?? '', 'aria-describedby': `${name}-hint` });
    input.oninput = () => { state.values[name] = input.value; };
    return h('div', { class: 'field' }, h('label', { for: name }, label), input, h('p', { id: `${name}-hint`, class: 'muted small' }, hint));
  });
  return h('aside', { id: 'parameters', class: 'parameters', 'aria-label': 'Parameters' },
    h('div', { class: 'field' }, h('label', { for: 'system' }, 'System prompt'), system), fields);
}

function send() {
  const text = state.draft.trim();
  if (text === '' || state.stop || !state.model) return;
  state.draft = '';
  if (view) {
    view.prompt.value = '';
    grow(view.prompt);
  }
  state.messages.push({ role: 'user', content: text });
  answer();
}

/** Asks for an answer to what has been said. */
async function answer() {
  // A question without an answer is left out: many templates refuse two of them in a row.
  const counts = ({ role, content }, index) => content !== '' && !(role === 'user' && state.messages[index + 1]?.content === '');
  const said = state.messages.filter(counts).map(({ role, content }) => ({ role, content }));
  const messages = state.system.trim() ? [{ role: 'system', content: state.system }, ...said] : said;
  const numbers = Object.entries(state.values).filter(([, value]) => value !== '' && Number.isFinite(Number(value)));
  const made = newAnswer(state.model);
  state.messages.push(made);
  state.stop = new AbortController();
  draw(true);
  await run(made, {
    messages,
    parameters: Object.fromEntries(numbers.map(([name, value]) => [name, Number(value)])),
    signal: state.stop.signal,
    changed: () => { frame ||= requestAnimationFrame(() => { frame = 0; draw(); }); },
  });
  state.stop = null;
  draw();
  announce(made.state === 'failed' ? made.error : `Answer ${made.state === 'stopped' ? 'stopped' : 'complete'}`);
}

/** The last answer again. */
function regenerate() {
  if (state.stop) return;
  while (last()?.role === 'assistant') state.messages.pop();
  if (last()) answer();
}

function reset() {
  stop();
  state.messages = [];
  if (view) morph(view.log);
  draw();
  focusPrompt();
}

const last = () => state.messages.at(-1);

function onOverview() {
  const known = store.overview?.services.flatMap((service) => service.models).sort().join(' ');
  const listed = [...state.models].sort().join(' ');
  if (known !== undefined && known !== listed && known !== onOverview.asked) {
    onOverview.asked = known;
    loadModels();
  }
}

function draw(toEnd = false) {
  if (!view) return;
  const { log, select } = view;
  const atEnd = toEnd || log.scrollHeight - log.scrollTop - log.clientHeight < 48;
  morph(select, state.models.length ? state.models.map((name) => h('option', { value: name }, name)) : h('option', { value: '' }, 'no model'));
  select.value = state.model ?? '';
  log.setAttribute('aria-busy', String(state.stop !== null));
  drawLog(log);
  if (atEnd) log.scrollTop = log.scrollHeight;
  view.panel.classList.toggle('open', state.open);
  view.toggle.setAttribute('aria-expanded', String(state.open));
  view.fresh.disabled = state.messages.length === 0;
  drawSend();
}

/** Messages that will not change any more are not made again: a long conversation costs a frame no more than a short one. */
function drawLog(log) {
  const stamps = state.messages.map((one) => (one.role === 'user' ? one.content : ENDED.includes(one.state) && `${one.state} ${one === last()}`));
  const settled = (index) => log.children[index]?.stamp === `${index} ${stamps[index]}` && stamps[index] !== false;
  morph(log, state.messages.length ? state.messages.map((one, index) => (settled(index) ? log.children[index] : message(one, index))) : welcome());
  if (state.messages.length) stamps.forEach((stamp, index) => { log.children[index].stamp = `${index} ${stamp}`; });
}

function drawSend() {
  view.send.textContent = state.stop ? 'Stop' : 'Send';
  view.send.disabled = !state.stop && (state.draft.trim() === '' || !state.model);
}

function welcome() {
  const title = state.model ? `Talk to ${state.model}` : 'No model yet';
  const text = state.trouble ?? (state.model ? 'Answers stream through the gateway, as for any client.' : 'Models appear here as soon as a service is known.');
  const starters = state.model && STARTERS.map((starter) => h('button', { type: 'button', onclick: () => { state.draft = starter; send(); } }, starter));
  return h('div', { class: 'welcome', key: 'welcome' }, h('h2', {}, title), h('p', { class: 'muted' }, text), h('div', { class: 'starters' }, starters));
}

function message(one, index) {
  if (one.role === 'user') {
    return h('article', { class: 'said user', key: `user-${index}`, 'aria-label': 'You' }, h('div', { class: 'bubble' }, one.content));
  }
  const thinking = one.reasoning && h('details', { class: 'thinking' }, h('summary', {}, one.content ? 'Thoughts' : 'Thinking'), h('div', {}, one.reasoning));
  return h('article', { class: 'said model', key: `model-${index}-${one.started}`, 'aria-label': one.model },
    thinking,
    one.state === 'waiting' ? waiting(one) : h('div', { class: 'text' }, markdown(one.content)),
    one.error && h('p', { class: 'notice bad', role: 'alert' }, one.error),
    one.state !== 'waiting' && footer(one, index));
}

/** What is known of the wait for the first token. */
function waiting(one) {
  const passed = seconds((performance.now() - one.started) / 1000);
  const service = store.overview?.services.find(({ models }) => models.includes(one.model));
  const asleep = service && !service.endpoints.some((endpoint) => endpoint.ready);
  const text = asleep ? `The model is waking up${service.facts ? ` (${words(service.facts.phase).toLowerCase()})` : ''}` : 'Waiting for the first token';
  return h('p', { class: 'waiting muted' }, h('i', { class: 'dot busy' }), `${text} · ${passed}`);
}

function footer(one, index) {
  const { firstToken, perSecond, tokens, prompt, cached } = figures(one);
  const ends = { length: 'cut at max tokens', content_filter: 'filtered' };
  const parts = [
    firstToken !== null && h('span', { title: 'Time to first token', 'data-figure': 'ttft' }, `${ms(firstToken)} to first token`),
    perSecond !== null && h('span', { 'data-figure': 'rate' }, `${rate(perSecond)} tokens/s`),
    tokens > 0 && h('span', { 'data-figure': 'tokens' }, plural(tokens, 'token')),
    prompt !== null && h('span', {}, `prompt ${exact(prompt)}${cached ? ` (${exact(cached)} cached)` : ''}`),
    one.state === 'stopped' && h('span', {}, 'stopped'),
    one.state === 'done' && ends[one.finish] && h('span', {}, ends[one.finish]),
  ];
  const over = one.state !== 'writing';
  return h('footer', { class: 'figures muted small' }, parts,
    over && h('span', { class: 'acts' }, one.content && copyButton(() => state.messages[index].content, 'Copy the answer'),
      one === last() && h('button', { type: 'button', class: 'quiet', onclick: regenerate }, one.state === 'failed' ? 'Try again' : 'Regenerate')));
}

/** As high as its text, up to a limit that the style sheet sets. */
function grow(area) {
  area.style.setProperty('height', 'auto');
  area.style.setProperty('height', `${area.scrollHeight + 2}px`);
}
