// A browser for each test: whatever the page complains of, and whatever it asks another origin for, fails the test.

import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import path from 'node:path';

import { chromium } from 'playwright-core';

/** Where the gateway is, as `http://host:port`. */
export const GATEWAY = process.env.WHARF_URL?.replace(/\/+$/, '');
/** The same of one that asks for keys, and a key of it; tests of keys are left out without. */
export const KEYED = process.env.WHARF_KEYED_URL?.replace(/\/+$/, '');
export const KEY = process.env.WHARF_KEY;
/** Whoever runs these tests has everything that they need: what is missing is a failure. */
const WHOLE = process.env.WHARF_WHOLE === '1';
/** Screenshots are written here, if it is said. */
const SHOTS = process.env.WHARF_SHOTS;

export const WIDE = { width: 1280, height: 800 };
export const NARROW = { width: 390, height: 844 };
/** Nothing takes as long unless it hangs. */
export const PATIENCE = 30_000;

let browser = null;

export async function start() {
  assert.ok(GATEWAY, 'set WHARF_URL to a running gateway, such as `cargo run -p wharf-gateway --example console`');
  // As root, as in containers, Chromium starts only without its own sandbox.
  const args = process.getuid?.() === 0 ? ['--no-sandbox'] : [];
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args });
}

export const end = () => browser?.close();

/** Runs `steps` in a page of its own. `tolerate`: complaints of the page that the test causes on purpose. */
export async function inPage(steps, { view = 'chat', theme = 'light', size = WIDE, origin = GATEWAY, tolerate = null } = {}) {
  const context = await browser.newContext({ colorScheme: theme, viewport: size, reducedMotion: 'reduce' });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  const complaints = [];
  const asked = new Set();
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type()) && !tolerate?.test(message.text())) complaints.push(message.text());
  });
  page.on('pageerror', (error) => complaints.push(error.stack ?? String(error)));
  page.on('request', (request) => asked.add(new URL(request.url()).origin));
  try {
    await page.goto(`${origin}/console/#/${view}`);
    await steps(page, context);
    assert.deepEqual(complaints, [], 'the page complained');
    assert.deepEqual([...asked].filter((other) => other !== new URL(origin).origin && other !== 'null'), [], 'a request left the origin');
  } finally {
    await context.close();
  }
}

/** Leaves a test out for want of something, unless nothing may be. */
export function without(t, what) {
  assert.ok(!WHOLE, `${what}, and no test may be left out`);
  t.skip(what);
}

/** What the console's API says, asked from outside of the page. */
export async function api(what) {
  const response = await fetch(`${GATEWAY}/console/api/${what}`);
  assert.equal(response.status, 200, what);
  return response.json();
}

/** Asks again until `wanted` is true of the answer. */
export async function eventually(what, ask, wanted) {
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    const answer = await ask();
    if (wanted(answer)) return answer;
    if (Date.now() > deadline) assert.fail(`${what} did not happen; last: ${JSON.stringify(answer)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Keeps a picture, where pictures are wanted. */
export async function picture(page, name) {
  if (!SHOTS) return;
  mkdirSync(SHOTS, { recursive: true });
  await page.screenshot({ path: path.join(SHOTS, `${name}.png`) });
}

/** A service that falls asleep when nobody calls, once one does; none if there is no such service. */
export async function asleep() {
  const sleepers = async () => (await api('overview')).services.filter(({ facts }) => facts?.bounds[0] === 0);
  if ((await sleepers()).length === 0) return null;
  const sleeps = ({ facts, endpoints }) => facts.phase === 'Idle' && endpoints.length === 0;
  return (await eventually('the sleep of a service', sleepers, (all) => all.some(sleeps))).find(sleeps);
}

/** Waits until the page knows a model, and picks one that has a replica. */
export async function ready(page) {
  await page.waitForSelector('#model option:not([value=""])', { state: 'attached' });
  const { services } = await api('overview');
  const awake = services.find(({ endpoints }) => endpoints.some((endpoint) => endpoint.ready)) ?? services[0];
  await page.selectOption('#model', process.env.WHARF_MODEL ?? awake.models[0]);
  return awake;
}

/** Sends a message. */
export async function say(page, text) {
  await page.fill('#prompt', text);
  await page.press('#prompt', 'Enter');
}

/** Asks for what a small model, too, has much to say of: so many tokens that a busy browser sees them come, or stops them. */
export async function sayMuch(page, tokens) {
  await page.fill('#temperature', '0');
  await page.fill('#max_tokens', tokens);
  await say(page, 'Write a long story about a harbour.');
}

/** Waits until the last answer has ended. */
export const answered = (page) => page.waitForSelector('.said.model:last-child .acts');

/** The text of the last answer. */
export const answer = (page) => page.evaluate(() => document.querySelector('.said.model:last-child .text')?.textContent ?? '');
