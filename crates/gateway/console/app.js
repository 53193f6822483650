// The frame: which view is shown, shortcuts, the theme, and the dialog that asks for a key.

import { key, onKeyNeeded } from './api.js';
import * as chat from './chat.js';
import { h, morph } from './dom.js';
import * as keys from './keys.js';
import * as requests from './requests.js';
import * as service from './service.js';
import * as services from './services.js';
import { connect, hurry, listen, pause, store } from './store.js';

const VIEWS = { chat, services, keys, requests };
const SHORTCUTS = { c: 'chat', s: 'services', k: 'keys', r: 'requests' };
/** How long the second key of a shortcut may take. */
const CHORD_MS = 1200;

const root = document.getElementById('view');
const byId = (id) => document.getElementById(id);
let unmount = () => {};
let chordAt = 0;

/** `#/services/demo%2Fchat` is the view `services` and the service `demo/chat`. */
function route() {
  const [, name = '', ...rest] = location.hash.split('/');
  return { name: name in VIEWS ? name : 'chat', what: decoded(rest.join('/')) };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    // Somebody wrote the address by hand; no service has such a name.
    return text;
  }
}

function show() {
  const { name, what } = route();
  unmount();
  morph(root);
  root.scrollTop = 0;
  unmount = (name === 'services' && what ? service : VIEWS[name]).mount(root, what);
  for (const tab of document.querySelectorAll('.tab')) {
    if (tab.dataset.view === name) tab.setAttribute('aria-current', 'page');
    else tab.removeAttribute('aria-current');
  }
  if (store.problem?.isAboutKey) askForKey(store.problem);
  document.title = `${name[0].toUpperCase()}${name.slice(1)}${what ? ` · ${what}` : ''} · Wharf`;
}

function go(name) {
  location.hash = `#/${name}`;
  root.focus();
}

function drawLink() {
  const { connected, overview, problem } = store;
  byId('link-dot').className = `dot ${connected ? 'good' : problem ? 'bad' : 'busy'}`;
  const text = connected ? `${overview.gateway} · ${overview.version}` : problem?.isAboutKey ? 'A key is needed' : problem ? 'No connection' : 'Connecting';
  if (byId('link-text').textContent !== text) byId('link-text').textContent = text;
  byId('link-dot').title = text;
}

function toggleTheme() {
  const system = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
  const now = document.documentElement.dataset.theme ?? system;
  const next = now === 'dark' ? 'light' : 'dark';
  document.documentElement.dataset.theme = next;
  // The system's own theme is not stored, so that the page goes on following it.
  try {
    if (next === system) localStorage.removeItem('wharf.theme');
    else localStorage.setItem('wharf.theme', next);
  } catch { /* It lasts as long as the page, then. */ }
}

function onKeydown(event) {
  const typing = event.target.closest('input, textarea, select, [contenteditable]');
  const modified = event.ctrlKey || event.metaKey || event.altKey;
  if (document.querySelector('dialog[open]')) return;
  if (event.key === 'Escape') {
    if (chat.stop()) event.preventDefault();
    else if (typing) event.target.blur();
    return;
  }
  if (typing || modified) return;
  const chord = event.timeStamp - chordAt < CHORD_MS && SHORTCUTS[event.key.toLowerCase()];
  chordAt = event.key === 'g' || event.key === 'G' ? event.timeStamp : 0;
  if (chord) go(chord);
  else if (event.key === '/') toPrompt();
  else if (event.key === '?') byId('help-dialog').showModal();
  else if (event.key === 't' || event.key === 'T') toggleTheme();
  else return;
  event.preventDefault();
}

/** Where a message is written; in the request log, where it is searched. */
function toPrompt() {
  const search = root.querySelector('input[type="search"]');
  if (search) {
    search.focus();
    return;
  }
  if (route().name !== 'chat') {
    history.pushState(null, '', '#/chat');
    show();
  }
  chat.focusPrompt();
}

function askForKey(error) {
  const dialog = byId('key-dialog');
  if (dialog.open) return;
  // Without a key the refusal says nothing that the dialog does not.
  byId('key-problem').textContent = key.get() ? error.message : '';
  byId('key-input').value = '';
  dialog.showModal();
}

function enter(secret) {
  key.set(secret);
  byId('leave').hidden = !secret;
  connect();
  chat.loadModels();
  show();
}

onKeyNeeded(askForKey);
byId('key-form').onsubmit = () => enter(byId('key-input').value.trim());
// What was seen with the key, the conversation included, goes with it.
byId('leave').onclick = () => {
  key.set(null);
  location.reload();
};
byId('leave').hidden = !key.get();
byId('theme').onclick = toggleTheme;
byId('help').onclick = () => byId('help-dialog').showModal();
addEventListener('keydown', onKeydown);
addEventListener('hashchange', show);
addEventListener('online', hurry);
addEventListener('error', (event) => {
  // A fault of this page is said rather than left as a page that does nothing.
  if (!root.firstChild) morph(root, h('p', { class: 'empty' }, `This page failed: ${event.message}`));
});
document.addEventListener('visibilitychange', () => (document.hidden ? pause() : connect()));
listen(drawLink);
connect();
show();
