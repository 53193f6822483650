// One service: figures, charts, replicas, and what its runner decided and why.

import { json } from './api.js';
import { cards } from './cards.js';
import { Chart } from './chart.js';
import * as definition from './definition.js';
import { h, keep, morph } from './dom.js';
import { count, ms, percent, rate, spanned, tone, words } from './format.js';
import { replicas } from './replicas.js';
import { phase } from './services.js';
import { listen, service as find, store } from './store.js';

const SPANS = [60_000, 300_000, 900_000];
const HOUR = 3_600_000;
/** What a gateway that knows a Prometheus can tell as well. */
const LONG = [6 * HOUR, 24 * HOUR, 168 * HOUR];
/** Values that the gateway keeps. */
const KEPT = 900;
/** A history with a gap this long is fetched anew. */
const GAP_MS = 3500;
/** A Prometheus that did not answer is asked again after this long. */
const REST_MS = 10_000;

let span = 300_000;

/** Whether hours are shown, which the gateway does not remember itself. */
const isLong = () => span >= HOUR;

/** Shows the service in `root`; returns what ends the view. */
export function mount(root, name) {
  const charts = makeCharts();
  const tabs = { chosen: 'overview', definition: null };
  let past = null;
  let asking = false;
  /** Why there are no hours to show, and since when that is known. */
  let refused = null;

  async function fetchPast() {
    if (asking) return;
    asking = true;
    const asked = span;
    try {
      const hours = isLong() ? `&hours=${span / HOUR}` : '';
      const answer = await json(`api/history?service=${encodeURIComponent(name)}${hours}`);
      // Somebody may have chosen another time meanwhile.
      if ((asked >= HOUR) === isLong() && (!isLong() || asked === span)) past = answer;
      refused = null;
      drawCharts();
    } catch (error) {
      // Of the gateway itself the stream says what is wrong; the charts begin with what it brings.
      if (isLong() && asked === span) refused = { why: error.message, at: performance.now() };
      draw();
    } finally {
      asking = false;
    }
  }

  function take() {
    const one = find(name);
    if (!one || !store.connected) return;
    const at = store.overview.at_ms;
    if (refused && performance.now() - refused.at < REST_MS) return;
    if (!past || at - past.end_ms > (isLong() ? 2 * past.step_ms : GAP_MS)) fetchPast();
    else if (isLong()) return;
    else if (at - past.end_ms > past.step_ms * 0.7) append(past, one, at);
    drawCharts();
  }

  function drawCharts() {
    for (const { chart, values } of charts) {
      chart.update({ end: past?.end_ms ?? 0, step: past?.step_ms ?? 1000, span, values: values.map((of) => (past ? past[of] : [])) });
    }
  }

  function draw() {
    const one = find(name);
    const page = one ? body(one) : h('p', { class: 'empty', key: 'gone' }, store.overview ? `There is no service ${name} here.` : 'Connecting to the gateway.');
    morph(root, h('div', { class: 'page', key: `service-${name}` }, page));
  }

  function body(one) {
    return [head(one), one.facts?.message && message(one), choice(),
      tabs.chosen === 'definition' ? keep(tabs.definition) : overview(one)];
  }

  function choice() {
    const tab = (id, label) => h('button', { type: 'button', 'aria-pressed': String(tabs.chosen === id), onclick: () => pick(id) }, label);
    const range = (long) => h('button', { type: 'button', 'aria-pressed': String(span === long), onclick: () => choose(long) }, spanned(long));
    return h('div', { class: 'row', key: 'choice' },
      h('div', { class: 'segments', role: 'group', 'aria-label': 'Part' }, tab('overview', 'Overview'), tab('definition', 'Definition')),
      h('span', { class: 'grow' }),
      tabs.chosen === 'overview' && h('div', { class: 'segments', role: 'group', 'aria-label': 'Time shown' }, (store.overview?.remembers ? [...SPANS, ...LONG] : SPANS).map(range)));
  }

  function choose(chosen) {
    const other = isLong() || chosen >= HOUR;
    span = chosen;
    refused = null;
    if (other) {
      past = null;
      fetchPast();
    }
    draw();
    drawCharts();
  }

  function pick(id) {
    tabs.chosen = id;
    if (id === 'definition') tabs.definition = definition.view(name);
    draw();
    drawCharts();
  }

  function overview(one) {
    return [
      tiles(one),
      refused && h('p', { class: 'notice warn', key: 'refused', role: 'status' }, `The charts have no values for ${spanned(span)}: ${refused.why}`),
      h('section', { class: 'charts', key: 'charts', 'aria-label': 'Charts' }, charts.map(({ chart }) => keep(chart.element))),
      replicas(one, store.overview.at_ms),
      cards(one, store.overview.at_ms),
    ];
  }

  fetchPast();
  draw();
  const ignore = listen(() => { take(); draw(); });
  return () => {
    ignore();
    for (const { chart } of charts) chart.close();
  };
}

function makeCharts() {
  const line = (title, of, format, colour = 'one', whole = false) => ({
    chart: new Chart({ title, format, whole, series: [{ label: title, colour }] }), values: [of] });
  return [
    line('Requests/s', 'requests_per_second', rate),
    line('Tokens/s', 'tokens_per_second', rate),
    line('Time to first token, p95', 'first_token_p95_ms', ms),
    { chart: new Chart({ title: 'Requests', format: count, whole: true, series: [{ label: 'in flight', colour: 'one' }, { label: 'waiting', colour: 'two' }] }), values: ['in_flight', 'queued'] },
    line('Replicas ready', 'ready', count, 'three', true),
  ];
}

/** The last overview as one more value of the charts. */
function append(past, { endpoints, demand, rates }, at) {
  const values = {
    ready: endpoints.filter((endpoint) => endpoint.ready).length,
    in_flight: demand.in_flight,
    queued: demand.queued,
    requests_per_second: rates.requests_per_second,
    tokens_per_second: rates.tokens_per_second,
    first_token_p95_ms: rates.first_token_p95_ms,
  };
  for (const [name, value] of Object.entries(values)) past[name] = [...past[name], value].slice(-KEPT);
  past.end_ms = at;
}

function head(one) {
  const word = phase(one);
  return h('header', { key: 'head' },
    h('a', { href: '#/services', class: 'button quiet back', 'aria-label': 'All services' }, '←'),
    h('h1', {}, one.name), h('span', { class: `badge ${tone(word)}` }, words(word)),
    h('span', { class: 'muted grow' }, one.models.join(', ')));
}

function message({ facts }) {
  const kind = tone(facts.phase);
  return h('p', { class: `notice ${kind === 'bad' || kind === 'warn' ? kind : ''}`, key: 'message' }, facts.message);
}

function tiles({ endpoints, demand, rates, facts }) {
  const ready = endpoints.filter((endpoint) => endpoint.ready).length;
  const tile = (label, value, detail) => h('div', { class: 'tile' }, h('span', { class: 'muted small' }, label), h('b', {}, value), h('span', { class: 'muted small' }, detail));
  const kv = endpoints.length ? Math.max(...endpoints.map((endpoint) => endpoint.kv_cache)) : 0;
  return h('section', { class: 'tiles panel', key: 'tiles', 'aria-label': 'Now' },
    tile('Requests/s', rate(rates.requests_per_second), `${count(demand.arrived)} in all`),
    tile('Tokens/s', rate(rates.tokens_per_second), `${count(demand.generated_tokens)} in all`),
    tile('First token, p50', ms(rates.first_token_p50_ms), `p95 ${ms(rates.first_token_p95_ms)}`),
    tile('Errors', percent(rates.error_rate), `${count(demand.failed + demand.overflowed)} in all`),
    tile('Replicas', facts ? `${ready} / ${facts.wanted}` : count(ready), facts ? `${facts.bounds[0]} to ${facts.bounds[1]}` : 'listed'),
    tile('Waiting', count(demand.queued), demand.queued ? `oldest ${ms(demand.oldest_wait_ms)}` : `${count(demand.in_flight)} in flight`),
    tile('KV cache', percent(kv), 'the fullest replica'));
}
