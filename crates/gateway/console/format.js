// How numbers, times and states are written. Pure.

const LOCALE = 'en';
const whole = new Intl.NumberFormat(LOCALE, { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat(LOCALE, { notation: 'compact', maximumFractionDigits: 1 });
const clockForm = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false });
const minuteForm = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hour12: false });
const dateForm = new Intl.DateTimeFormat(undefined, { month: 'short', day: 'numeric' });
const dayForm = new Intl.DateTimeFormat(undefined, { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', hour12: false });

/** A count: 950, 12.3K. */
export const count = (value) => (value < 10_000 ? whole.format(value) : compact.format(value));

/** A count with all of its digits. */
export const exact = (value) => whole.format(value);

/** A rate: as many digits as it deserves. */
export function rate(value) {
  if (value === 0) return '0';
  if (value < 10) return value.toFixed(value < 1 ? 2 : 1);
  return count(Math.round(value));
}

/** Milliseconds as people say them. */
export function ms(value) {
  if (value === null || value === undefined) return '–';
  if (value < 1000) return `${Math.round(value)} ms`;
  return seconds(value / 1000);
}

/** Seconds as people say them. */
export function seconds(value) {
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${value.toFixed(value < 10 ? 1 : 0)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  if (value < 86_400) return `${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} min`;
  return `${Math.floor(value / 86_400)} d ${Math.floor((value % 86_400) / 3600)} h`;
}

/** How long ago, as seen at `now`. */
export function ago(at, now) {
  const passed = Math.max(0, Math.round((now - at) / 1000));
  return passed < 2 ? 'now' : `${seconds(passed).replace(/^(\d+)\.\d s$/, '$1 s')} ago`;
}

/** A share of one, in percent. */
export const percent = (share) => `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)}%`;

/** The time of day. */
export const clock = (at) => clockForm.format(at);

/** Day and time. */
export const moment = (at) => dayForm.format(at);

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

/** A time within so many milliseconds, as exact as those who point at it want it. */
export function within(at, span) {
  if (span < HOUR_MS) return clock(at);
  return span < DAY_MS ? minuteForm.format(at) : moment(at);
}

/** The same below an axis, where there is little room: the day stands at its beginning, or the hour nowhere. */
export function onAxis(at, span, isFirst) {
  if (span < DAY_MS) return within(at, span);
  if (span > 2 * DAY_MS) return dateForm.format(at);
  return isFirst ? moment(at) : minuteForm.format(at);
}

/** A span of time that somebody chose: `5 min`, `6 hours`, `7 days`. */
export function spanned(span) {
  if (span < HOUR_MS) return `${Math.round(span / 60_000)} min`;
  return span < DAY_MS ? plural(span / HOUR_MS, 'hour') : plural(span / DAY_MS, 'day');
}

/** `1 replica`, `2 replicas`. */
export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? '' : 's'}`;

/** Words of `status.phase`, of releases, of replicas, of endpoints and of keys. */
const TONES = {
  good: ['ready', 'promoted', 'valid'],
  busy: ['starting', 'preparing', 'rollingout', 'warming', 'shifting', 'verifying', 'waking'],
  warn: ['pending', 'draining', 'waiting', 'degraded', 'rollingback', 'early', 'notready', 'leftalone'],
  bad: ['failed', 'rolledback', 'expired', 'revoked', 'removed'],
};

/** How a state is coloured: good, busy, warn, bad, or not at all. */
export function tone(state) {
  const word = state.toLowerCase().replace(/[^a-z]/g, '');
  return Object.keys(TONES).find((name) => TONES[name].includes(word)) ?? '';
}

/** `RolledBack` as `Rolled back`. */
export function words(state) {
  const spaced = state.replace(/([a-z])([A-Z])/g, (_, a, b) => `${a} ${b.toLowerCase()}`);
  return spaced.charAt(0).toUpperCase() + spaced.slice(1);
}
