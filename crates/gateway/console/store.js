// What is known of the gateway now: one stream of overviews for all views, kept open for as long as the page is.

import { events, json, request } from './api.js';

const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 8000;
/** Points of the small lines in lists. */
const TRAIL = 60;
/** Services whose lines begin with what the gateway remembers; those of more begin now. */
const REMEMBERED = 20;

const listeners = new Set();
/** By service: the latest requests per second, the oldest first. */
const trails = new Map();

export const store = { overview: null, connected: false, problem: null };

let abort = null;
let retry = null;
/** Whether the small lines have what was before. */
let remembered = false;

/** Calls back after every change; returns how to stop that. */
export function listen(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** The service of this name, if it is there. */
export const service = (name) => store.overview?.services.find((one) => one.name === name);

/** Requests per second of the last minute. */
export const trail = (name) => trails.get(name) ?? [];

/** Opens the stream and keeps it open; called again, with another key or after `pause`. */
export function connect() {
  pause();
  remembered = false;
  abort = new AbortController();
  follow(abort.signal);
}

/** Closes the stream: a page that nobody sees holds no connection. Browsers have few of them for each origin. */
export function pause() {
  abort?.abort();
}

/** Does not wait any longer before the next try. */
export const hurry = () => retry?.();

async function follow(signal) {
  let rest = FIRST_PAUSE;
  while (!signal.aborted) {
    try {
      const response = await request('api/stream', { signal });
      for await (const data of events(response)) {
        rest = FIRST_PAUSE;
        take(JSON.parse(data));
      }
      lost(null);
    } catch (error) {
      if (signal.aborted) return;
      lost(error);
      // A key is being asked for; `connect` is called when there is one.
      if (error.isAboutKey) return;
    }
    await new Promise((resolve) => {
      retry = resolve;
      setTimeout(resolve, rest);
    });
    rest = Math.min(rest * 2, LONGEST_PAUSE);
  }
}

function take(overview) {
  const last = store.overview?.at_ms ?? 0;
  if (!remembered) overview.services.slice(0, REMEMBERED).forEach(({ name }) => remember(name));
  remembered = true;
  store.overview = overview;
  store.connected = true;
  store.problem = null;
  // Overviews come more often than each second when demand changes; trails keep to seconds.
  if (overview.at_ms - last > 700) {
    for (const { name, rates } of overview.services) {
      trails.set(name, [...trail(name), rates.requests_per_second].slice(-TRAIL));
    }
  }
  tell();
}

async function remember(name) {
  try {
    const { requests_per_second: before } = await json(`api/history?service=${encodeURIComponent(name)}`);
    trails.set(name, before.slice(-TRAIL));
    tell();
  } catch {
    // The stream says what is wrong; the line begins now.
  }
}

function lost(error) {
  store.connected = false;
  store.problem = error;
  tell();
}

function tell() {
  for (const listener of listeners) listener(store);
}
