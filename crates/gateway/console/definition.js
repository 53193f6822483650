// How a service was written, and the Kubernetes objects that it would become.

import { text } from './api.js';
import { copyButton, h, morph } from './dom.js';

const PARTS = [['yaml', 'Service', 'As its user wrote it'], ['manifests', 'Manifests', 'The Kubernetes objects that it would become']];
/** `key: value`, with what stands before it; and comments. */
const LINE = /^(\s*(?:- )*)([\w./"'-]+)(:)(\s.*|)$/;
const COMMENT = /^\s*#/;

/** An element that loads and shows both. */
export function view(name) {
  const frame = h('div', { class: 'definition', key: 'definition' });
  let chosen = 'yaml';
  let shown = '';
  const draw = (content) => {
    const [, , title] = PARTS.find(([part]) => part === chosen);
    const buttons = PARTS.map(([part, label]) => h('button', { type: 'button', 'aria-pressed': String(part === chosen), onclick: () => load(part) }, label));
    morph(frame, h('section', { class: 'panel', 'aria-label': title },
      h('header', {}, h('div', { class: 'segments', role: 'group', 'aria-label': 'Which' }, buttons),
        h('span', { class: 'muted small grow' }, title), shown && copyButton(() => shown, `Copy: ${title}`)),
      content));
  };
  async function load(part) {
    chosen = part;
    shown = '';
    draw(h('p', { class: 'empty', key: 'wait' }, 'Loading'));
    try {
      const loaded = await text(`api/service/${name.split('/').map(encodeURIComponent).join('/')}/${part}`);
      if (chosen !== part) return;
      shown = loaded;
      draw(h('pre', { class: 'yaml', tabindex: 0, key: part }, h('code', {}, coloured(loaded))));
    } catch (error) {
      if (chosen !== part) return;
      const nobody = error.status === 404 ? 'Nobody told the gateway how this service is defined: its endpoints are listed.' : error.message;
      draw(h('p', { class: 'empty', key: 'none' }, nobody));
    }
  }
  load(chosen);
  return frame;
}

/** Keys and comments of YAML apart from the rest. */
function coloured(yaml) {
  return yaml.split(/(?<=\n)/).flatMap((line) => {
    if (COMMENT.test(line)) return h('span', { class: 'comment' }, line);
    if (line.trim() === '---') return h('span', { class: 'comment' }, line);
    const found = LINE.exec(line.replace(/\n$/, ''));
    if (!found) return line;
    const [, before, key, colon, value] = found;
    return [before, h('span', { class: 'yaml-key' }, key), `${colon}${value}\n`];
  });
}
