// All services: how each is, in one line.

import { spark } from './chart.js';
import { h, morph } from './dom.js';
import { count, ms, plural, rate, tone, words } from './format.js';
import { listen, store, trail } from './store.js';

/** Shows the view in `root`; returns what ends it. */
export function mount(root) {
  const draw = () => morph(root, h('div', { class: 'page', key: 'services' }, h('header', {}, h('h1', {}, 'Services'), summary()), list()));
  draw();
  return listen(draw);
}

/** Where a service is shown. */
export const address = (name) => `#/services/${encodeURIComponent(name)}`;

/** The phase that is shown: the runner's word, or what the gateway can tell by itself. */
export function phase({ facts, endpoints, demand }) {
  // Whoever waits is seen here before the runner has decided.
  if (facts?.phase === 'Idle' && demand.queued > 0) return 'Waking';
  if (facts?.phase) return facts.phase;
  if (endpoints.some((endpoint) => endpoint.ready)) return 'Ready';
  if (endpoints.length > 0) return 'NotReady';
  return demand.queued > 0 ? 'Waiting' : 'Idle';
}

function summary() {
  const services = store.overview?.services ?? [];
  if (services.length === 0) return null;
  const sum = (of) => services.reduce((total, one) => total + of(one), 0);
  return h('span', { class: 'muted' }, [
    plural(services.length, 'service'),
    `${rate(sum(({ rates }) => rates.requests_per_second))} requests/s`,
    `${rate(sum(({ rates }) => rates.tokens_per_second))} tokens/s`,
  ].join(' · '));
}

function list() {
  const { overview, problem } = store;
  if (!overview) return h('p', { class: 'empty', key: 'none' }, problem?.message ?? 'Connecting to the gateway.');
  if (overview.services.length === 0) {
    return h('p', { class: 'empty', key: 'none' }, 'This gateway knows no service that you may see. Services appear here as soon as they are applied.');
  }
  return h('ul', { class: 'cards', key: 'list' }, overview.services.map(card));
}

function card(service) {
  const { name, models, endpoints, demand, rates, facts } = service;
  const word = phase(service);
  const ready = endpoints.filter((endpoint) => endpoint.ready).length;
  const figure = (label, value) => h('div', { class: 'figure' }, h('b', {}, value), h('span', {}, label));
  return h('li', { key: name }, h('a', { class: 'card panel', href: address(name) },
    h('div', { class: 'what' },
      h('div', { class: 'row' }, h('i', { class: `dot ${tone(word)}` }), h('strong', {}, name), h('span', { class: `badge ${tone(word)}` }, words(word))),
      h('p', { class: 'muted small' }, facts?.message || models.join(', '))),
    h('div', { class: 'trend' }, spark(trail(name), 'requests per second, last minute')),
    figure('requests/s', rate(rates.requests_per_second)),
    figure('tokens/s', rate(rates.tokens_per_second)),
    figure('TTFT p95', ms(rates.first_token_p95_ms)),
    figure('replicas', facts ? `${ready} / ${facts.wanted}` : count(ready)),
    figure('waiting', count(demand.queued))));
}
