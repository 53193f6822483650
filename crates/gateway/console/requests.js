// The latest requests that ended. Neither prompts nor answers are kept, here or in the gateway.

import { json } from './api.js';
import { h, keep, morph } from './dom.js';
import { clock, exact, ms } from './format.js';

const EVERY_MS = 2000;
const KINDS = [['all', () => true], ['answered', ({ status }) => status < 400], ['failed', ({ status }) => status >= 400]];

const filter = { words: '', kind: 'all' };

/** Shows the view in `root`; returns what ends it. */
export function mount(root) {
  let rows = null;
  let problem = null;
  let paused = false;
  const search = h('input', { id: 'search', type: 'search', placeholder: 'Search', 'aria-label': 'Search requests', value: filter.words, oninput: () => { filter.words = search.value; draw(); } });
  const draw = () => {
    const kinds = KINDS.map(([kind]) => h('button', { type: 'button', 'aria-pressed': String(kind === filter.kind), onclick: () => { filter.kind = kind; draw(); } }, kind));
    const pause = h('button', { type: 'button', 'aria-pressed': String(paused), onclick: () => { paused = !paused; draw(); } }, paused ? 'Continue' : 'Pause');
    morph(root, h('div', { class: 'page', key: 'requests' },
      h('header', {}, h('h1', {}, 'Requests'), h('span', { class: 'muted grow' }, 'the latest 500, without prompts and answers'),
        h('div', { class: 'row' }, keep(search), h('div', { class: 'segments', role: 'group', 'aria-label': 'Status' }, kinds), pause)),
      body(rows, problem)));
  };
  const load = async () => {
    try {
      rows = await json('api/requests');
      problem = null;
    } catch (error) {
      problem = error.message;
    }
    draw();
  };
  draw();
  load();
  const timer = setInterval(() => { if (!document.hidden && !paused) load(); }, EVERY_MS);
  return () => clearInterval(timer);
}

function body(rows, problem) {
  if (problem) return h('p', { class: 'notice bad', key: 'problem' }, problem);
  if (rows === null) return h('p', { class: 'empty', key: 'wait' }, 'Loading');
  const [, fits] = KINDS.find(([kind]) => kind === filter.kind);
  const wanted = filter.words.toLowerCase().split(/\s+/).filter(Boolean);
  const holds = (row) => wanted.every((word) => [row.id, row.key, row.service, row.model, String(row.status)].some((text) => text.toLowerCase().includes(word)));
  const shown = rows.filter((row) => fits(row) && holds(row));
  if (shown.length === 0) return h('p', { class: 'empty', key: 'none' }, rows.length ? 'No request is like that.' : 'No request has ended yet.');
  const head = [['Ended'], ['Status'], ['Model'], ['Key'], ['Prompt', 'number'], ['Cached', 'number'], ['Answer', 'number'], ['First token', 'number'], ['Took', 'number'], ['Request']];
  return h('section', { class: 'panel scroll', key: 'table', 'aria-label': 'Requests', tabindex: 0 }, h('table', { class: 'dense' },
    h('thead', {}, h('tr', {}, head.map(([label, kind]) => h('th', { class: kind ?? null, scope: 'col' }, label)))),
    h('tbody', {}, shown.map(line))));
}

function line(row) {
  const number = (value) => h('td', { class: 'number' }, value);
  return h('tr', { key: `${row.at_ms} ${row.id}` },
    h('td', { class: 'mono' }, clock(row.at_ms)),
    h('td', {}, h('span', { class: `badge ${row.status < 400 ? 'good' : row.status < 500 ? 'warn' : 'bad'}`, title: row.status === 499 ? 'the client left' : null }, String(row.status))),
    h('td', {}, h('div', {}, row.model || '–'), h('div', { class: 'muted small' }, row.service)),
    h('td', {}, row.key || h('span', { class: 'muted' }, '–')),
    number(exact(row.prompt_tokens)), number(exact(row.cached_tokens)), number(exact(row.completion_tokens)),
    number(ms(row.first_token_ms)), number(ms(row.duration_ms)),
    h('td', { class: 'mono muted id', title: row.id }, row.id));
}
