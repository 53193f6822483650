// The little Markdown that models write, as elements. Text becomes text nodes and nothing else: no markup, no links, no pictures.

import { copyButton, h } from './dom.js';

const FENCE = /^\s*(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^(#{1,6})\s+(.*)$/;
const BULLET = /^(\s*)(?:[-*+]|(\d{1,9})[.)])\s+(.*)$/;
const RULE = /^\s*(?:-{3,}|\*{3,}|_{3,})\s*$/;
const QUOTE = /^\s*>\s?(.*)$/;
/** A paragraph longer than this is nobody's prose: looking for marks in it would take long. */
const LONGEST = 20_000;
/** Code, bold, italic, struck: the first that begins wins; what does not end is text. */
const INLINE = /(`+)(.+?)\1(?!`)|\*\*(?=\S)(.+?)(?<=\S)\*\*|__(?=\S)(.+?)(?<=\S)__|\*(?=[^\s*])(.+?)(?<=[^\s*])\*(?!\*)|~~(?=\S)(.+?)(?<=\S)~~/s;

/** The blocks of a text. */
export function markdown(text) {
  return blocks(text.replaceAll('\r\n', '\n').split('\n'), 0);
}

function blocks(lines, depth) {
  const made = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const fence = FENCE.exec(line);
    if (fence) {
      const end = lines.findIndex((other, index) => index > at && other.trim().startsWith(fence[1]) && other.trim().replaceAll(fence[1][0], '') === '');
      const stop = end < 0 ? lines.length : end;
      made.push(code(lines.slice(at + 1, stop).join('\n'), fence[2]));
      at = stop + 1;
    } else if (line.trim() === '') {
      at += 1;
    } else if (RULE.test(line)) {
      made.push(h('hr'));
      at += 1;
    } else if (HEADING.test(line)) {
      const [, marks, title] = HEADING.exec(line);
      // The page has its own first two levels.
      made.push(h(`h${Math.min(marks.length + 2, 6)}`, {}, inline(title)));
      at += 1;
    } else if (QUOTE.test(line) && depth < 8) {
      const stop = until(lines, at, (other) => QUOTE.test(other));
      made.push(h('blockquote', {}, blocks(lines.slice(at, stop).map((quoted) => QUOTE.exec(quoted)[1]), depth + 1)));
      at = stop;
    } else if (BULLET.test(line) && depth < 8) {
      const stop = until(lines, at, (other) => BULLET.test(other) || /^\s+\S/.test(other));
      made.push(list(lines.slice(at, stop), depth));
      at = stop;
    } else {
      const stop = until(lines, at + 1, (other) => other.trim() !== '' && ![FENCE, HEADING, BULLET, RULE, QUOTE].some((form) => form.test(other)));
      made.push(h('p', {}, inline(lines.slice(at, stop).join('\n'))));
      at = stop;
    }
  }
  return made;
}

/** The first line from `at` on that is not `within`. */
function until(lines, at, within) {
  let stop = at;
  while (stop < lines.length && within(lines[stop])) stop += 1;
  return Math.max(stop, at);
}

function list(lines, depth) {
  const [, indent, number] = BULLET.exec(lines[0]);
  const items = [];
  for (const line of lines) {
    const bullet = BULLET.exec(line);
    if (bullet && bullet[1].length <= indent.length + 1) items.push([bullet[3]]);
    else items.at(-1).push(line.slice(Math.min(indent.length + 2, line.length - line.trimStart().length)));
  }
  const made = items.map(([first, ...rest]) => {
    const below = rest.length > 0 ? blocks(rest, depth + 1) : [];
    return h('li', {}, inline(first), below);
  });
  return number === undefined ? h('ul', {}, made) : h('ol', { start: number }, made);
}

function code(content, language) {
  const copy = copyButton((button) => button.closest('.code').querySelector('code').textContent, 'Copy the code');
  const bar = h('div', { class: 'code-bar' }, h('span', {}, language || 'text'), copy);
  return h('div', { class: 'code' }, bar, h('pre', { tabindex: 0 }, h('code', {}, content)));
}

function inline(text) {
  if (text.length > LONGEST) return [text];
  const made = [];
  let rest = text;
  while (rest !== '') {
    const found = INLINE.exec(rest);
    if (!found) {
      made.push(rest);
      break;
    }
    const [whole, , codeText, bold, bold2, italic, struck] = found;
    if (found.index > 0) made.push(rest.slice(0, found.index));
    if (codeText !== undefined) made.push(h('code', {}, codeText));
    else if (bold ?? bold2) made.push(h('strong', {}, inline(bold ?? bold2)));
    else if (italic !== undefined) made.push(h('em', {}, inline(italic)));
    else made.push(h('s', {}, inline(struck)));
    rest = rest.slice(found.index + whole.length);
  }
  return made;
}
