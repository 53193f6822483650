// Who may call, and what each key used since the gateway started.

import { json } from './api.js';
import { h, morph, styled } from './dom.js';
import { count, exact, plural, tone, words } from './format.js';

const EVERY_MS = 2000;

/** Shows the view in `root`; returns what ends it. */
export function mount(root) {
  let rows = null;
  let problem = null;
  const draw = () => morph(root, h('div', { class: 'page', key: 'keys' }, h('header', {}, h('h1', {}, 'Keys and usage'), summary(rows)), body(rows, problem)));
  const load = async () => {
    try {
      rows = await json('api/keys');
      problem = null;
    } catch (error) {
      problem = error.message;
    }
    draw();
  };
  draw();
  load();
  const timer = setInterval(() => { if (!document.hidden) load(); }, EVERY_MS);
  return () => clearInterval(timer);
}

function summary(rows) {
  if (!rows?.length) return null;
  const ids = new Set(rows.map(({ id }) => id).filter(Boolean));
  return h('span', { class: 'muted' }, `${ids.size ? `${plural(ids.size, 'key')} · ` : ''}since the gateway started`);
}

function body(rows, problem) {
  if (problem) return h('p', { class: 'notice bad', key: 'problem' }, problem);
  if (rows === null) return h('p', { class: 'empty', key: 'wait' }, 'Loading');
  const open = rows.every(({ id }) => id === '');
  const note = open && h('p', { class: 'notice', key: 'open' }, 'This gateway asks for no keys: everybody may call, and all are counted together. ',
    h('code', {}, 'wharf key create'), ' makes one.');
  if (rows.length === 0) return [note, h('p', { class: 'empty', key: 'none' }, 'Nothing was used yet.')];
  const tokens = ({ prompt_tokens: prompt, completion_tokens: completion }) => prompt + completion;
  const most = Math.max(1, ...rows.map(tokens));
  const sum = (of) => rows.reduce((total, row) => total + row[of], 0);
  const number = (label) => h('th', { class: 'number', scope: 'col' }, label);
  return [note, h('section', { class: 'panel scroll', key: 'table', 'aria-label': 'Usage', tabindex: 0 }, h('table', {},
    h('thead', {}, h('tr', {}, ['Key', 'State', 'Service'].map((label) => h('th', { scope: 'col' }, label)),
      ['Requests', 'Failed', 'Prompt', 'Cached', 'Answers'].map(number), h('th', { scope: 'col' }, 'Share of tokens'))),
    h('tbody', {}, rows.map((row) => line(row, tokens(row) / most))),
    h('tfoot', {}, h('tr', {}, h('td', { colspan: 3 }, 'All'),
      ['requests', 'failed', 'prompt_tokens', 'cached_tokens', 'completion_tokens'].map((of) => h('td', { class: 'number', title: exact(sum(of)) }, count(sum(of)))), h('td', {})))))];
}

function line(row, share) {
  const { id, name, state, models, service } = row;
  const figure = (value) => h('td', { class: 'number', title: exact(value) }, count(value));
  return h('tr', { key: `${id} ${service}` },
    h('td', {}, h('div', {}, name || 'no name'), id && h('div', { class: 'muted small mono' }, id),
      models.length > 0 && h('div', { class: 'muted small' }, `only ${models.join(', ')}`)),
    h('td', {}, state ? h('span', { class: `badge ${tone(state)}` }, words(state === 'early' ? 'not valid yet' : state)) : h('span', { class: 'muted' }, '–')),
    h('td', {}, service || h('span', { class: 'muted' }, 'not used yet')),
    figure(row.requests), figure(row.failed), figure(row.prompt_tokens), figure(row.cached_tokens), figure(row.completion_tokens),
    h('td', {}, h('span', { class: 'meter wide', 'aria-hidden': 'true' }, styled(h('i', {}), { '--share': `${Math.round(share * 100)}%` }))));
}
