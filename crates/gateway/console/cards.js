// What whoever runs a service decided, and why: traffic, release, scaling, the last cold start, events.

import { copyButton, h, styled } from './dom.js';
import { ago, clock, count, moment, plural, seconds, tone, words } from './format.js';

const STEPS = ['Preparing', 'Warming', 'Shifting', 'Verifying', 'Promoted'];
/** The old version goes before the new one comes. */
const RECREATE_STEPS = ['Preparing', 'Draining', 'Warming', 'Verifying', 'Promoted'];
const PARTS = [['schedule', 'Place to run'], ['fetch', 'Files'], ['load', 'Load'], ['warm', 'Warm-up']];
const DAY_MS = 86_400_000;

/** All of them that there is something to say of. */
export function cards({ name, demand, facts }, now) {
  if (!facts) return null;
  const { versions, rollout, scaling, cold_start: cold, events } = facts;
  return [
    h('div', { class: 'pair', key: 'pair' },
      versions.length > 0 && traffic(versions, demand.versions),
      rollout && release(rollout, name, now),
      scaling && scale(scaling, facts, now),
      cold && coldStart(cold)),
    events.length > 0 && happened(events, now),
  ];
}

function panel(title, mark, ...body) {
  return h('section', { class: 'panel', key: title, 'aria-label': title }, h('header', {}, h('h2', {}, title), h('span', { class: 'grow' }), mark), h('div', { class: 'body' }, body));
}

/** `counted`: how attempts at each version ended since the gateway started. */
function traffic(versions, counted) {
  const shares = versions.filter(({ weight }) => weight > 0);
  const bar = h('div', { class: 'shares', role: 'img', 'aria-label': shares.map(({ colour, weight }) => `${colour} ${weight}%`).join(', ') },
    shares.map(({ colour, weight }) => styled(h('i', { class: colour, key: colour }), { '--share': weight })));
  const rows = versions.map(({ colour, generation, weight, ready, wanted }) => {
    const { answered = 0, failed = 0 } = counted[colour] ?? {};
    const details = [`${ready} / ${wanted} ready`, `${count(answered)} answered`, failed > 0 && `${count(failed)} failed`].filter(Boolean);
    return h('div', { class: 'version', key: colour },
      h('span', { class: 'row tight' }, h('i', { class: `dot ${colour}` }), colour, h('span', { class: 'muted small' }, `generation ${generation}`)),
      h('b', { class: 'number' }, `${weight}%`),
      h('span', { class: 'muted small' }, details.join(' · ')));
  });
  return panel('Traffic', null, bar, rows);
}

function release({ phase, reason, strategy, generation, waits_for_promotion: waits, since_ms: since }, name, now) {
  const all = strategy === 'Recreate' ? RECREATE_STEPS : STEPS;
  const reached = all.indexOf(phase);
  const steps = reached >= 0 && h('ol', { class: 'steps' }, all.map((step, index) =>
    h('li', { class: index < reached || phase === 'Promoted' ? 'past' : index === reached ? 'now' : '', 'aria-current': index === reached ? 'step' : null }, step)));
  const command = `wharf rollout promote ${name}`;
  return panel('Release', h('span', { class: `badge ${tone(phase)}` }, words(phase)),
    steps,
    reason && h('p', {}, reason),
    waits && h('p', { class: 'notice warn row' }, h('span', { class: 'grow' }, 'It waits for ', h('code', {}, command)), copyButton(() => command, 'Copy the command')),
    h('p', { class: 'muted small' }, [strategy && words(strategy), `generation ${generation}`, since && `since ${ago(since, now)}`].filter(Boolean).join(' · ')));
}

function scale({ decided, reason, error, changes }, { bounds }, now) {
  const rows = changes.slice(-6).reverse().map(({ at_ms: at, from, to, reason: why }) => h('li', { key: `${at}-${from}-${to}` },
    h('span', { class: 'muted small number' }, when(at, now)),
    h('span', { class: `badge ${to > from ? 'busy' : ''}` }, `${from} → ${to}`),
    h('span', { class: 'small' }, why)));
  return panel('Scaling', h('span', { class: 'badge' }, `${plural(decided, 'replica')} of ${bounds[0]} to ${bounds[1]}`),
    reason && h('p', {}, reason),
    error && h('p', { class: 'notice bad' }, error),
    rows.length > 0 && h('ol', { class: 'changes' }, rows));
}

function coldStart(cold) {
  const all = PARTS.reduce((sum, [part]) => sum + cold[part], 0);
  const parts = PARTS.filter(([part]) => cold[part] > 0);
  const bar = h('div', { class: 'shares phases', role: 'img', 'aria-label': parts.map(([part, label]) => `${label} ${seconds(cold[part])}`).join(', ') },
    parts.map(([part]) => styled(h('i', { class: part, key: part }), { '--share': cold[part] })));
  const rows = PARTS.map(([part, label]) => h('div', { class: 'fact', key: part },
    h('span', { class: 'row tight' }, h('i', { class: `swatch ${part}` }), label), h('span', { class: 'number' }, seconds(cold[part]))));
  return panel('Last cold start', h('span', { class: 'badge' }, seconds(all)), bar, rows);
}

function happened(events, now) {
  const rows = [...events].reverse().map(({ at_ms: at, warning, reason, message }) => h('li', { key: `${at}-${reason}-${message}` },
    h('span', { class: 'muted small number', title: moment(at) }, when(at, now)),
    h('span', { class: `badge ${warning ? 'warn' : ''}` }, words(reason)),
    h('span', {}, message)));
  return h('section', { class: 'panel', key: 'events', 'aria-label': 'Events' },
    h('header', {}, h('h2', {}, 'Events'), h('span', { class: 'muted small' }, String(events.length))),
    h('ol', { class: 'events', tabindex: 0, 'aria-label': 'Events, newest first' }, rows));
}

/** The time of day; of what is older than a day, the day too. */
const when = (at, now) => (now - at < DAY_MS ? clock(at) : moment(at));
