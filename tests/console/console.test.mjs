// The console in Chromium: it streams, stops, shows what happens, is usable by keyboard and ear, and leaves nothing of its origin.
//
// WHARF_URL names a running gateway; README.md says the rest.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { audit, focusIsVisible } from './audit.mjs';
import { GATEWAY, KEY, KEYED, NARROW, answer, answered, api, asleep, end, eventually, inPage, picture, ready, say, sayMuch, start, without } from './browser.mjs';
import * as prometheus from './prometheus.mjs';

/** What must turn up in no answer of the console. */
const SECRET = 'the-harbour-masters-secret';

before(start);
after(end);

test('an answer streams token by token, with its times under it', () => inPage(async (page) => {
  await ready(page);
  // Seen from inside: a busy machine is slow to look from outside.
  await page.evaluate(() => {
    window.lengths = new Set();
    new MutationObserver(() => window.lengths.add(document.querySelector('.said.model:last-child .text')?.textContent.length ?? 0))
      .observe(document.body, { subtree: true, childList: true, characterData: true });
  });
  await sayMuch(page, '600');
  await answered(page);
  const lengths = await page.evaluate(() => [...window.lengths]);
  assert.ok(lengths.length >= 4, `seen with ${lengths} characters`);
  assert.match(await page.textContent('[data-figure="ttft"]'), /^[\d.]+ m?s to first token$/);
  assert.match(await page.textContent('[data-figure="rate"]'), /^[\d.,K]+ tokens\/s$/);
  assert.match(await page.textContent('[data-figure="tokens"]'), /^[\d,]+ tokens?$/);
}));

test('Escape stops an answer, here and at the gateway', () => inPage(async (page) => {
  const { name } = await ready(page);
  const abandoned = async () => (await api('overview')).services.find((service) => service.name === name).demand.abandoned;
  const before_ = await abandoned();
  await sayMuch(page, '2000');
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
  await sayMuch(page, '2000');
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
  const sleeper = await asleep();
  if (!sleeper) return without(t, 'no service sleeps at this gateway');
  return inPage(async (page) => {
    await ready(page);
    await page.selectOption('#model', sleeper.models[0]);
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
  if (!service) return without(t, 'nobody says anything of replicas at this gateway');
  return inPage(async (page) => {
    await page.waitForSelector('[aria-label="Scaling"]');
    // The reason has figures in it, which move.
    await eventually('the reason to be shown', async () => {
      const { scaling } = (await api('overview')).services.find(({ name }) => name === service.name).facts;
      return [scaling.reason, await page.textContent('[aria-label="Scaling"]')];
    }, ([reason, shown]) => shown.includes(reason));
    const { events } = service.facts;
    if (events.length) assert.ok((await page.textContent('[aria-label="Events"]')).includes(events.at(-1).message));
  }, { view: `services/${encodeURIComponent(service.name)}` });
});

test('a service that sleeps is woken by a request and falls asleep again: the page shows each step and why', async (t) => {
  const sleeper = await asleep();
  if (!sleeper) return without(t, 'no service sleeps at this gateway');
  const changed = sleeper.facts.scaling?.changes.length ?? 0;
  return inPage(async (page) => {
    const phase = (word) => page.waitForSelector(`h1 + .badge:text-is("${word}")`);
    await phase('Idle');
    await page.click('button:text-is("1 min")');
    await page.waitForSelector('text=None is running. The next request starts one.');
    await picture(page, 'asleep');
    await page.evaluate(() => {
      window.phases = [];
      const look = () => {
        const phase = document.querySelector('h1 + .badge').textContent;
        if (phase !== window.phases.at(-1)) window.phases.push(phase);
      };
      look();
      new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
    });
    // Somebody calls, who is not this page.
    const body = { model: sleeper.models[0], max_tokens: 24, messages: [{ role: 'user', content: 'Good morning!' }] };
    const called = fetch(`${GATEWAY}/v1/chat/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
    assert.equal((await called).status, 200);
    await phase('Ready');
    await page.waitForSelector('[aria-label="Replicas"] tbody tr:has(.badge:text-is("Ready"))');
    await phase('Idle');
    // Between the request and the decision it is waking, which may be too short to see.
    const phases = (await page.evaluate(() => window.phases)).filter((word) => word !== 'Waking');
    assert.deepEqual(phases, ['Idle', 'Starting', 'Ready', 'Idle']);
    const { facts } = await eventually('both decisions', async () => (await api('overview')).services.find(({ name }) => name === sleeper.name),
      (one) => one.facts.scaling.changes.length >= Math.min(changed + 2, 100));
    const [woken, slept] = facts.scaling.changes.slice(-2);
    assert.deepEqual([woken.from, woken.to, slept.from, slept.to], [0, 1, 1, 0]);
    const rows = page.locator('[aria-label="Scaling"] .changes li');
    for (const [row, { from, to, reason }] of [[rows.nth(0), slept], [rows.nth(1), woken]]) {
      assert.equal(await row.locator('.badge').textContent(), `${from} → ${to}`);
      assert.ok(reason.length > 0 && (await row.textContent()).includes(reason), reason);
    }
    const events = await page.textContent('[aria-label="Events"]');
    for (const reason of [woken.reason, slept.reason, 'answers on']) assert.ok(events.includes(reason), `${events} does not say ${reason}`);
    await page.waitForSelector('[aria-label="Last cold start"]');
    await page.waitForSelector('text=None is running. The next request starts one.');
    await picture(page, 'scaling');
    // High enough that charts and decisions are seen together.
  }, { view: `services/${encodeURIComponent(sleeper.name)}`, size: { width: 1280, height: 1250 } });
});

test('charts go back hours, a day and a week where a Prometheus is known, and say so when it does not answer', async (t) => {
  const { remembers, services: [{ name }] } = await api('overview');
  if (!remembers || !prometheus.PORT) return without(t, 'the gateway knows no Prometheus that these tests could be');
  const view = `services/${encodeURIComponent(name)}`;
  await inPage(async (page) => {
    await page.click('button:text-is("6 hours")');
    await page.waitForSelector('.notice:has-text("The charts have no values for 6 hours: ")');
    await page.click('button:text-is("5 min")');
    await page.waitForSelector('.notice:has-text("The charts have no values")', { state: 'detached' });
  }, { view, tolerate: /status of 502/ });
  const end_ = await prometheus.start();
  try {
    for (const [theme, size, where] of [['light', undefined, ''], ['dark', NARROW, '-narrow']]) {
      await inPage(async (page) => {
        const time = /^\d\d:\d\d$/;
        for (const [span, ...labels] of [['6 hours', time, time, time], ['1 day', /\d+\D+\d\d:\d\d$/, time, time], ['7 days', /^\D+\d+$/, /^\D+\d+$/, /^\D+\d+$/]]) {
          await page.click(`button:text-is("${span}")`);
          const times = () => page.locator('.plot').first().locator('text').allTextContents().then((texts) => texts.slice(-3));
          const shown = await eventually(`the times of ${span}`, times, (texts) => texts.length === 3 && texts.every((text, index) => labels[index].test(text)));
          assert.equal(new Set(shown).size, 3, `each time is another one: ${shown}`);
          assert.match(await page.locator('.plot').first().getAttribute('aria-label'), new RegExp(`in ${span}\\. Arrow keys`));
          await page.waitForSelector('.chart .stroke[d^="M"]');
          assert.deepEqual(await page.evaluate(audit), [], span);
          await picture(page, `service-${span.replace(' ', '-')}${where}`);
        }
      }, { view, theme, size });
    }
  } finally {
    await end_();
  }
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
    // On a busy machine the two may come too far apart to belong together.
    await eventually(`g ${letter}`, async () => {
      await page.keyboard.press('g');
      await page.keyboard.press(letter);
      return page.waitForSelector(`h1:text-is("${title}")`, { timeout: 3000 }).catch(() => null);
    }, (shown) => shown !== null);
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
    const plot = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    plot.setAttribute('class', 'plot');
    for (const [x, text] of [[0, '14:58:15'], [30, '15:00:45'], [280, '15:03:15']]) {
      const label = document.createElementNS('http://www.w3.org/2000/svg', 'text');
      label.setAttribute('x', x);
      label.setAttribute('y', 20);
      label.append(text);
      plot.append(label);
    }
    faults.append(pale, wide, plot, document.createElement('input'), document.createElement('h1'));
    document.querySelector('main').append(faults);
  });
  const found = (await page.evaluate(audit)).join('; ');
  for (const fault of [/has no name/, /prompt is there twice/, /"pale" .* contrast of 1\.\d/, /2 first headings/, /the view is 3\d+ wide/, /"14:58:15" and "15:00:45" of a chart overlap/, /"15:03:15" leaves its chart/]) assert.match(found, fault);
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

test('a gateway with keys shows nothing without one', (t) => (!KEYED || !KEY ? without(t, 'WHARF_KEYED_URL and WHARF_KEY are not set') : inPage(async (page) => {
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
}, { origin: KEYED, view: 'services', tolerate: /status of 401/ })));
