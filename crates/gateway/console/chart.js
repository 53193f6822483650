// Lines over time, as SVG: axis labels, a value under the pointer or the arrow keys, and the same in words for those who do not see it.

import { announce, h, morph, s, styled } from './dom.js';
import { onAxis, spanned, within } from './format.js';

const HEIGHT = 148;
const RIGHT = 10;
const TOP = 10;
const BOTTOM = 22;
/** Milliseconds between values from which on the last one is not called `now`. */
const LONG_STEP = 30_000;

/** A chart that is updated in place. `series`: `{ label, colour }`; `format` writes a value. */
export class Chart {
  constructor({ title, format, series, whole = false }) {
    Object.assign(this, { title, format, series, whole });
    this.data = { end: 0, step: 1000, span: 300_000, values: series.map(() => []) };
    this.chosen = null;
    this.width = 320;
    this.left = 34;
    this.now = h('span', { class: 'chart-now' });
    this.plot = s('svg', { class: 'plot', role: 'img', tabindex: 0, height: HEIGHT });
    this.tip = h('div', { class: 'tip', hidden: true });
    const legend = series.length > 1 && h('span', { class: 'legend' }, series.map(({ label, colour }) =>
      h('span', {}, h('i', { class: `swatch ${colour}` }), label)));
    this.element = h('figure', { class: 'chart panel', key: title },
      h('figcaption', {}, h('span', {}, title), legend, this.now), h('div', { class: 'frame' }, this.plot, this.tip));
    this.plot.onpointermove = (event) => this.choose(this.indexAt(event.clientX - this.plot.getBoundingClientRect().left));
    this.plot.onpointerleave = () => this.choose(null);
    this.plot.onblur = () => this.choose(null);
    this.plot.onkeydown = (event) => this.onKey(event);
    this.observer = new ResizeObserver(([entry]) => {
      this.width = Math.max(160, entry.contentRect.width);
      this.draw();
    });
    this.observer.observe(this.element);
  }

  /** New values: one list for each series, the last of each at `end`; `span` milliseconds of them are shown. */
  update(data) {
    this.data = data;
    this.draw();
  }

  close() {
    this.observer.disconnect();
  }

  draw() {
    const { end, step, span, values } = this.data;
    const shown = Math.round(span / step) + 1;
    const lines = values.map((list) => list.slice(-shown));
    const most = Math.max(0, ...lines.flat().filter((value) => value !== null));
    const top = ceiling(most, this.whole);
    const [right, bottom] = [this.width - RIGHT, HEIGHT - BOTTOM];
    const ticks = [0, top / 2, top].map((value) => [value, this.tick(value)]);
    // As wide as the longest number is.
    this.left = Math.max(34, ...ticks.map(([, text]) => 14 + 6.6 * text.length));
    this.x = (index, length) => right - ((length - 1 - index) * step / span) * (right - this.left);
    this.y = (value) => bottom - (value / top) * (bottom - TOP);
    this.lines = lines;
    const grid = ticks.map(([value, text]) => s('g', {},
      s('line', { class: 'grid', x1: this.left, x2: right, y1: this.y(value), y2: this.y(value) }),
      s('text', { x: this.left - 7, y: this.y(value) + 4, 'text-anchor': 'end' }, text)));
    // What comes once a second ends now; what comes seldomer ends when it came last.
    const time = (share) => (share === 1 && step < LONG_STEP ? 'now' : onAxis(end - span * (1 - share), span, share === 0));
    const times = [[0, 'start'], [0.5, 'middle'], [1, 'end']].map(([share, anchor]) =>
      s('text', { x: this.left + share * (right - this.left), y: HEIGHT - 5, 'text-anchor': anchor }, time(share)));
    const paths = lines.map((list, index) => this.path(list, this.series[index], index === 0 && lines.length === 1));
    this.plot.setAttribute('viewBox', `0 0 ${this.width} ${HEIGHT}`);
    this.plot.setAttribute('width', this.width);
    this.plot.setAttribute('aria-label', this.inWords(most));
    morph(this.plot, end ? [...grid, ...times, ...paths, this.marks()] : []);
    const last = lines.map((list) => list.at(-1) ?? null);
    this.now.textContent = last.map((value) => (value === null ? '–' : this.format(value))).join(' / ');
  }

  /** A line, in pieces where there are no values, and what lies below it. */
  path(list, { colour }, filled) {
    const pieces = [];
    list.forEach((value, index) => {
      if (value === null) return;
      const point = `${this.x(index, list.length).toFixed(1)} ${this.y(value).toFixed(1)}`;
      if (index > 0 && list[index - 1] !== null) pieces.at(-1).push(point);
      else pieces.push([point]);
    });
    const line = pieces.map((piece) => `M${piece.join('L')}${piece.length === 1 ? 'h0' : ''}`).join('');
    const floor = HEIGHT - BOTTOM;
    const area = pieces.map((piece) => `M${piece[0].split(' ')[0]} ${floor}L${piece.join('L')}L${piece.at(-1).split(' ')[0]} ${floor}Z`).join('');
    return s('g', { class: `line ${colour}` }, filled && s('path', { class: 'area', d: area }), s('path', { class: 'stroke', d: line }));
  }

  /** The crosshair. */
  marks() {
    const length = this.lines[0].length;
    if (this.chosen === null || length === 0) {
      this.tip.hidden = true;
      return null;
    }
    const back = Math.min(this.chosen, length - 1);
    const index = length - 1 - back;
    const x = this.x(index, length);
    const values = this.lines.map((list) => list[index] ?? null);
    const rows = values.map((value, at) => h('span', {}, h('i', { class: `swatch ${this.series[at].colour}` }),
      `${this.series[at].label} `, h('b', {}, value === null ? '–' : this.format(value))));
    morph(this.tip, h('span', { class: 'muted' }, within(this.data.end - back * this.data.step, this.data.span)), rows);
    this.tip.hidden = false;
    styled(this.tip, { '--x': `${x}px`, '--turn': x > this.width / 2 ? '-100%' : '0%', '--gap': x > this.width / 2 ? '-10px' : '10px' });
    const dots = values.map((value, at) => value !== null && s('circle', { class: `mark ${this.series[at].colour}`, cx: x, cy: this.y(value), r: 3.5 }));
    return s('g', {}, s('line', { class: 'cross', x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }), dots);
  }

  /** How many steps before the last value the pointer is. */
  indexAt(x) {
    const right = this.width - RIGHT;
    return Math.max(0, Math.round(((right - x) / (right - this.left)) * (this.data.span / this.data.step)));
  }

  choose(back) {
    this.chosen = back;
    this.draw();
  }

  onKey(event) {
    const length = this.lines?.[0].length ?? 0;
    const now = this.chosen ?? -1;
    const moves = { ArrowLeft: now + 1, ArrowRight: now - 1, Home: length - 1, End: 0 };
    if (event.key === 'Escape') this.choose(null);
    if (!(event.key in moves) || length === 0) return;
    event.preventDefault();
    this.choose(Math.min(Math.max(moves[event.key], 0), length - 1));
    announce([...this.tip.children].map((child) => child.textContent).join(', '));
  }

  tick(value) {
    if (value === 0) return '0';
    return this.whole && value !== Math.round(value) ? '' : this.format(value).replace(/\.0(?=\D|$)/, '');
  }

  inWords(most) {
    const now = this.lines.map((list, at) => `${this.series[at].label} now ${list.at(-1) === null || list.length === 0 ? 'unknown' : this.format(list.at(-1))}`);
    return `${this.title}: ${now.join(', ')}; at most ${this.format(most)} in ${spanned(this.data.span)}. Arrow keys read values.`;
  }
}

/** A round number that is no smaller: 1, 2 or 5 times a power of ten; for a few whole things, one whose half is whole. */
export function ceiling(value, whole) {
  const least = whole ? 2 : 1;
  if (value <= least) return least;
  if (whole && value <= 10) return 2 * Math.ceil(value / 2);
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((digit) => digit * power).find((round) => round >= value);
}

/** A small line without axes, for lists. */
export function spark(values, label) {
  const top = Math.max(1, ...values);
  const [width, height] = [96, 24];
  const points = values.map((value, index) => `${(width - (values.length - 1 - index) * (width / 59)).toFixed(1)} ${(height - 2 - (value / top) * (height - 4)).toFixed(1)}`);
  return s('svg', { class: 'spark', viewBox: `0 0 ${width} ${height}`, width, height, role: 'img', 'aria-label': label },
    points.length > 1 && s('path', { d: `M${points.join('L')}` }));
}
