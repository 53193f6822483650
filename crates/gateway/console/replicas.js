// Replicas: what the runner says of a process beside what the gateway sees of the endpoint at the same address.

import { h, styled } from './dom.js';
import { ago, count, percent, tone, words } from './format.js';

/** The table. */
export function replicas({ endpoints, facts }, now) {
  const rows = merged(endpoints, facts?.replicas ?? []);
  const columns = ['Replica', 'Version', 'State', ['In flight', 'number'], ['Waiting', 'number'], 'KV cache', ['Restarts', 'number'], ['Since', 'number']];
  const head = columns.map((column) => (Array.isArray(column) ? h('th', { class: column[1], scope: 'col' }, column[0]) : h('th', { scope: 'col' }, column)));
  return h('section', { class: 'panel', key: 'replicas', 'aria-label': 'Replicas' },
    h('header', {}, h('h2', {}, 'Replicas'), h('span', { class: 'muted small' }, count(rows.length))),
    rows.length === 0
      ? h('p', { class: 'empty' }, 'None is running. The next request starts one.')
      : h('div', { class: 'scroll' }, h('table', {}, h('thead', {}, h('tr', {}, head)), h('tbody', {}, rows.map((row) => line(row, now))))));
}

/** Replicas with their endpoints, then endpoints that nobody runs. */
function merged(endpoints, known) {
  const left = new Map(endpoints.map((endpoint) => [endpoint.address, endpoint]));
  const rows = known.map((replica) => {
    const endpoint = replica.address ? left.get(replica.address) : undefined;
    left.delete(replica.address);
    return { ...replica, endpoint };
  });
  const listed = [...left.values()].map((endpoint) => ({
    name: endpoint.address, address: '', colour: endpoint.colour, state: seen(endpoint), reason: '', restarts: null, since_ms: 0, endpoint }));
  return [...rows, ...listed];
}

function seen({ ready, broken }) {
  if (broken) return 'left alone';
  return ready ? 'ready' : 'not ready';
}

function line({ name, address, colour, state, reason, pid, restarts, since_ms: since, endpoint }, now) {
  // The runner may not know yet what the gateway has noticed.
  const word = endpoint?.broken ? 'left alone' : state;
  const why = reason || (endpoint?.broken ? 'it failed several times in a row; the gateway tries again soon' : '');
  const details = [address, pid && `pid ${pid}`].filter(Boolean).join(' · ');
  return h('tr', { key: name },
    h('td', {}, h('div', { class: 'mono' }, name), details && h('div', { class: 'muted small mono' }, details)),
    h('td', {}, colour ? h('span', { class: 'row tight' }, h('i', { class: `dot ${colour}` }), colour) : h('span', { class: 'muted' }, '–')),
    h('td', { class: 'why' }, h('span', { class: `badge ${tone(word)}` }, words(word)), why && h('div', { class: 'muted small' }, why)),
    h('td', { class: 'number' }, endpoint ? count(endpoint.in_flight) : '–'),
    h('td', { class: 'number' }, endpoint ? count(endpoint.waiting) : '–'),
    h('td', {}, endpoint ? meter(endpoint.kv_cache) : h('span', { class: 'muted' }, '–')),
    h('td', { class: 'number' }, restarts === null ? '–' : count(restarts)),
    h('td', { class: 'number muted' }, since ? ago(since, now) : '–'));
}

function meter(share) {
  const fill = styled(h('i', {}), { '--share': `${Math.round(share * 100)}%` });
  return h('span', { class: 'row tight' },
    h('span', { class: `meter ${share > 0.9 ? 'full' : ''}`, role: 'img', 'aria-label': `KV cache ${percent(share)} full` }, fill),
    h('span', { class: 'small number' }, percent(share)));
}
