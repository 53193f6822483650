// The console in Chromium: it streams, stops, shows what happens, is usable by keyboard and ear, and leaves nothing of its origin.
//
// WHARF_URL names a running gateway; README.md says the rest.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { audit, focusIsVisible } from './audit.mjs';
import { GATEWAY, KEY, KEYED, NARROW, answer, answered, api, end, eventually, inPage, picture, ready, say, start } from './browser.mjs';

/** What must turn up in no answer of the console. */
const SECRET = 'the-harbour-masters-secret';

before(start);
after(end);

test('an answer streams token by token, with its times under it', () => inPage(async (page) => {
  await ready(page);
  await say(page, 'Write a long story about a harbour.');
  const lengths = new Set();
  await eventually('the end of the answer', async () => {
    lengths.add((await answer(page)).length);
    return page.locator('.said.model .acts').count();
  }, (count) => count > 0);
  assert.ok(lengths.size >= 4, `seen with ${[...lengths]} characters`);
  assert.match(await page.textContent('[data-figure="ttft"]'), /^[\d.]+ m?s to first token$/);
  assert.match(await page.textContent('[data-figure="rate"]'), /^[\d.,K]+ tokens\/s$/);
  assert.match(await page.textContent('[data-figure="tokens"]'), /^[\d,]+ tokens?$/);
}));

test('Escape stops an answer, here and at the gateway', () => inPage(async (page) => {
  const { name } = await ready(page);
  const abandoned = async () => (await api('overview')).services.find((service) => service.name === name).demand.abandoned;
  const before_ = await abandoned();
  await say(page, 'Count to one thousand, one number a line.');
  await page.waitForSelector('.said.model .text');
  await page.keyboard.press('Escape');
  await answered(page);
  assert.match(await page.textContent('.said.model .figures'), /stopped/);
  const kept = await answer(page);
  assert.ok(kept.length > 0, 'what was written stays');
  await eventually('the gateway to see it', abandoned, (now) => now > before_);
  assert.equal(await answer(page), kept, 'nothing is added afterwards');
  assert.equal(await page.textContent('.send'), 'Send');
}));

test('the button stops as well, and regenerating replaces the answer', () => inPage(async (page) => {
  await ready(page);
  await say(page, 'Tell me everything about lighthouses.');
  await page.waitForSelector('.said.model .text');
  await page.click('.send');
  await answered(page);
  const asked = page.waitForRequest('**/v1/chat/completions');
  await page.click('text=Regenerate');
  const { messages } = (await asked).postDataJSON();
  assert.deepEqual(messages.map(({ role }) => role), ['user'], 'the old answer is not sent back');
  await page.waitForSelector('.said.model .text');
  assert.equal(await page.locator('.said').count(), 2);
  await page.keyboard.press('Escape');
  await answered(page);
}));

test('parameters and the system prompt are sent, and what is left empty is not', () => inPage(async (page) => {
  await ready(page);
  await page.fill('#system', 'You are a pilot.');
  await page.fill('#temperature', '0.3');
  await page.fill('#max_tokens', '5');
  const asked = page.waitForRequest('**/v1/chat/completions');
  await say(page, 'Hello');
  const body = (await asked).postDataJSON();
  assert.deepEqual([body.temperature, body.max_tokens, 'top_p' in body, body.stream], [0.3, 5, false, true]);
  assert.deepEqual(body.messages[0], { role: 'system', content: 'You are a pilot.' });
  await answered(page);
  assert.match(await page.textContent('[data-figure="tokens"]'), /^[1-5] tokens?$/);
}));

test('who waits for a model that sleeps is told so, and gets an answer', async (t) => {
  const asleep = (await api('overview')).services.find(({ endpoints, facts }) => facts?.wanted === 0 && !endpoints.some((endpoint) => endpoint.ready));
  if (!asleep) return t.skip('no service sleeps at this gateway');
  return inPage(async (page) => {
    await ready(page);
    await page.selectOption('#model', asleep.models[0]);
    await say(page, 'Good morning');
    await page.waitForSelector('.waiting:has-text("The model is waking up")');
    await answered(page);
    assert.ok((await answer(page)).length > 0);
  });
});

test('a stream that breaks off says why, and can be tried again', () => inPage(async (page) => {
  await ready(page);
  await page.route('**/v1/chat/completions', (route) => route.fulfill({
    contentType: 'text/event-stream',
    body: 'data: {"choices":[{"delta":{"content":"Half "}}]}\n\ndata: {"error":{"message":"the model server broke off its answer","code":null}}\n\ndata: [DONE]\n\n',
  }), { times: 1 });
  await say(page, 'Hello');
  await answered(page);
  assert.equal(await page.textContent('.said [role="alert"]'), 'the model server broke off its answer');
  assert.equal((await answer(page)).trim(), 'Half', 'what came stays');
  await page.click('text=Try again');
  await answered(page);
  assert.equal(await page.locator('.said [role="alert"]').count(), 0);
}));

test('what was said is sent along, except for what got no answer', () => inPage(async (page) => {
  await ready(page);
  await page.fill('#max_tokens', '3');
  await say(page, 'First');
  await answered(page);
  const error = { message: 'the queue is full', type: 'rate_limit_error', param: null, code: 'queue_full' };
  await page.route('**/v1/chat/completions', (route) => route.fulfill({ status: 429, json: { error } }), { times: 1 });
  await say(page, 'Second');
  await page.waitForSelector('.said [role="alert"]:text-is("the queue is full")');
  const asked = page.waitForRequest('**/v1/chat/completions');
  await say(page, 'Third');
  const said = (await asked).postDataJSON().messages.map(({ role, content }) => (role === 'user' ? content : role));
  assert.deepEqual(said, ['First', 'assistant', 'Third']);
  await answered(page);
  await page.click('text=New chat');
  await page.waitForSelector('.welcome');
}, { tolerate: /status of 429/ }));

test('text of a model stays text', () => inPage(async (page) => {
  await page.waitForSelector('#prompt');
  const made = await page.evaluate(async () => {
    const { markdown } = await import(new URL('markdown.js', location.href.split('#')[0]));
    const place = document.createElement('div');
    place.append(...markdown(['# Title', 'Some **bold**, *thin* and `x < y`: <img src=x onerror=alert(1)>', '', '- one', '  1. inner', '- two', '',
      '> said', '', '```html', '<script>alert(2)</script>', '```', '[link](javascript:alert(3))', '', '**never ends', '```', 'open'].join('\n')));
    return { tags: [...new Set([...place.querySelectorAll('*')].map((element) => element.tagName))].sort(), text: place.textContent, items: place.querySelectorAll('ul > li').length };
  });
  assert.deepEqual(made.tags, ['BLOCKQUOTE', 'BUTTON', 'CODE', 'DIV', 'EM', 'H3', 'LI', 'OL', 'P', 'PRE', 'SPAN', 'STRONG', 'UL']);
  for (const kept of ['<img src=x onerror=alert(1)>', '<script>alert(2)</script>', '[link](javascript:alert(3))', '**never ends', 'open']) assert.ok(made.text.includes(kept), kept);
  assert.equal(made.items, 2);
}));

test('services show their replicas, and charts move', () => inPage(async (page) => {
  const { services: [{ name }] } = await api('overview');
  await page.click(`.card:has(strong:text-is("${name}"))`);
  await page.waitForSelector('.chart .stroke');
  assert.equal(await page.locator('.chart').count(), 5);
  await eventually('the table to have all replicas', async () => {
    const { endpoints, facts } = (await api('overview')).services.find((service) => service.name === name);
    const addresses = new Set([...endpoints, ...(facts?.replicas ?? [])].map(({ address }) => address));
    return [addresses.size, await page.locator('[aria-label="Replicas"] tbody tr').count()];
  }, ([wanted, shown]) => wanted === shown);
  const line = () => page.getAttribute('.chart .stroke >> nth=0', 'd');
  const first = await line();
  await eventually('the chart to move', line, (now) => now !== first);
  // A value under the pointer, and the same by keyboard.
  const plot = page.locator('.plot').first();
  await plot.hover();
  assert.match(await page.textContent('.tip:not([hidden])'), /\d\d:\d\d:\d\d.*Requests\/s/);
  await page.mouse.move(0, 0);
  await plot.focus();
  await page.keyboard.press('ArrowLeft');
  assert.match(await page.textContent('#announce'), /Requests\/s/);
  assert.match(await plot.getAttribute('aria-label'), /^Requests\/s: .*now .*at most/);
}, { view: 'services' }));

test('what the runner decided is shown with its reasons', async (t) => {
  const { services } = await api('overview');
  const service = services.find(({ facts }) => facts?.scaling);
  if (!service) return t.skip('nobody says anything of replicas at this gateway');
  return inPage(async (page) => {
    const { scaling, events } = service.facts;
    await page.waitForSelector('[aria-label="Scaling"]');
    assert.ok((await page.textContent('[aria-label="Scaling"]')).includes(scaling.reason));
    if (events.length) assert.ok((await page.textContent('[aria-label="Events"]')).includes(events.at(-1).message));
  }, { view: `services/${encodeURIComponent(service.name)}` });
});

test('how a service is defined can be read and copied', async () => {
  const { services: [{ name }] } = await api('overview');
  const response = await fetch(`${GATEWAY}/console/api/service/${name}/yaml`);
  await inPage(async (page, context) => {
    await context.grantPermissions(['clipboard-read', 'clipboard-write']);
    await page.click('text=Definition');
    if (response.status === 404) {
      await page.waitForSelector('text=its endpoints are listed');
      return;
    }
    const yaml = await response.text();
    await page.waitForSelector('.yaml');
    assert.equal(await page.textContent('.yaml'), yaml, 'colours change nothing');
    await page.click('[aria-label^="Copy"]');
    await page.waitForSelector('text=Copied');
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), yaml);
    await page.click('text=Manifests');
    await page.waitForSelector('.yaml, .empty:not(:text("Loading"))');
  }, { view: `services/${encodeURIComponent(name)}`, tolerate: /status of 40[04]/ });
});

test('requests are listed without what was asked, and usage is summed', () => inPage(async (page) => {
  await ready(page);
  await page.fill('#max_tokens', '4');
  await say(page, SECRET);
  await answered(page);
  const [newest] = await eventually('the request to be listed', () => api('requests'), (all) => all.length > 0);
  await page.keyboard.press('Escape');
  await page.evaluate(() => { location.hash = '#/requests'; });
  await page.waitForSelector(`tr:has(td[title="${newest.id}"])`);
  await page.fill('#search', newest.id);
  await eventually('the search to leave one', () => page.locator('tbody tr').count(), (rows) => rows === 1);
  for (const what of ['overview', 'requests', 'keys']) {
    const text = JSON.stringify(await api(what));
    assert.ok(!text.includes(SECRET), `${what} tells the prompt`);
  }
  await page.evaluate(() => { location.hash = '#/keys'; });
  await page.waitForSelector('tfoot');
  const used = (await api('keys')).reduce((sum, key) => sum + key.requests, 0);
  const shown = async () => Number((await page.getAttribute('tfoot td.number >> nth=0', 'title')).replaceAll(',', ''));
  assert.ok(used > 0);
  await eventually('the sum to be shown', shown, (sum) => sum >= used);
}));

test('everything is reached by keyboard', () => inPage(async (page) => {
  await page.waitForSelector('#prompt');
  for (const [letter, title] of [['s', 'Services'], ['k', 'Keys and usage'], ['r', 'Requests'], ['c', 'Chat']]) {
    await page.keyboard.press('g');
    await page.keyboard.press(letter);
    await page.waitForSelector(`h1:text-is("${title}")`);
  }
  await page.keyboard.press('?');
  await page.waitForSelector('#help-dialog[open]');
  await page.keyboard.press('Escape');
  await page.waitForSelector('#help-dialog:not([open])', { state: 'attached' });
  const theme = () => page.evaluate(() => getComputedStyle(document.documentElement).colorScheme);
  await page.keyboard.press('t');
  assert.equal(await theme(), 'dark', 'the system is light');
  await page.reload();
  await page.waitForSelector('#prompt');
  assert.equal(await theme(), 'dark', 'and it is remembered');
  await page.keyboard.press('t');
  await page.keyboard.press('/');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'prompt');
  await page.keyboard.type('g s');
  assert.equal(await page.inputValue('#prompt'), 'g s', 'shortcuts leave writing alone');
}));

test('a page that nobody sees holds no connection', () => inPage(async (page) => {
  await page.waitForSelector('#link-dot.good');
  const ended = page.waitForEvent('requestfailed', (request) => request.url().endsWith('/api/stream'));
  const turn = (hidden) => page.evaluate((value) => {
    Object.defineProperty(document, 'hidden', { value, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
  }, hidden);
  await turn(true);
  await ended;
  const again = page.waitForRequest('**/console/api/stream');
  await turn(false);
  await again;
}));

test('a gateway that has gone is said, and one that is back is found', () => inPage(async (page) => {
  await page.waitForSelector('#link-dot.good');
  await page.route('**/console/api/stream', (route) => route.abort());
  await page.reload();
  await page.waitForSelector('#link-text:text-is("No connection")');
  await page.unroute('**/console/api/stream');
  await page.waitForSelector('#link-dot.good');
}, { tolerate: /ERR_FAILED/ }));

test('the audit of the next tests finds what is wrong', () => inPage(async (page) => {
  await page.waitForSelector('.welcome h2');
  await page.evaluate(() => {
    const faults = document.createElement('div');
    faults.id = 'prompt';
    const pale = document.createElement('p');
    pale.append('pale');
    pale.style.setProperty('color', '#ccc');
    const wide = document.createElement('p');
    wide.style.setProperty('width', '3000px');
    wide.append('wide');
    faults.append(pale, wide, document.createElement('input'), document.createElement('h1'));
    document.querySelector('main').append(faults);
  });
  const found = (await page.evaluate(audit)).join('; ');
  for (const fault of [/has no name/, /prompt is there twice/, /"pale" .* contrast of 1\.\d/, /2 first headings/, /the view is 3\d+ wide/]) assert.match(found, fault);
}));

for (const [theme, size, name] of [['light', undefined, 'light'], ['dark', undefined, 'dark'], ['light', NARROW, 'light-narrow'], ['dark', NARROW, 'dark-narrow']]) {
  test(`every view can be read: ${name}`, async () => {
    const { services } = await api('overview');
    const views = [['chat', '.welcome h2'], ['services', '.card'], [`services/${encodeURIComponent(services[0].name)}`, '.chart .stroke'], ['keys', 'tfoot'], ['requests', 'tbody tr']];
    for (const [view, sign] of views) {
      await inPage(async (page) => {
        await page.waitForSelector(sign);
        assert.deepEqual(await page.evaluate(audit), [], view);
        for (let presses = 0; presses < 14; presses += 1) {
          await page.keyboard.press('Tab');
          assert.ok(await page.evaluate(focusIsVisible), `${view}: the focus is not seen after ${presses + 1} tabs`);
        }
        await page.evaluate(() => document.activeElement.blur());
        await picture(page, `${view.split('/').length > 1 ? 'service' : view}-${name}`);
      }, { view, theme, size });
    }
    await inPage(async (page) => {
      await ready(page);
      await say(page, 'What does a harbour do?');
      await answered(page);
      assert.deepEqual(await page.evaluate(audit), [], 'an answer');
      await picture(page, `answer-${name}`);
    }, { theme, size });
  });
}

test('a gateway with keys shows nothing without one', { skip: !KEYED || !KEY ? 'set WHARF_KEYED_URL and WHARF_KEY' : false }, () => inPage(async (page) => {
  await page.waitForSelector('#key-dialog[open]');
  assert.equal(await page.locator('.card').count(), 0);
  assert.deepEqual(await page.evaluate(audit), []);
  await page.fill('#key-input', 'not-a-key');
  await page.keyboard.press('Enter');
  await page.waitForSelector('#key-problem:not(:empty)');
  await page.fill('#key-input', KEY);
  await page.keyboard.press('Enter');
  await page.waitForSelector('.card');
  assert.equal(await page.evaluate(() => [localStorage.length, document.cookie].join()), '0,', 'the key is kept in the tab only');
  await page.reload();
  await page.waitForSelector('.card');
  await page.click('#leave');
  await page.waitForSelector('#key-dialog[open]');
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
}, { origin: KEYED, view: 'services', tolerate: /status of 401/ }));
