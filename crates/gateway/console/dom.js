// Elements from data, and a tree that is brought up to date in place: focus, selection and scrolling survive what arrives every second.
// Text only ever becomes text nodes; nothing in this page writes markup.

const SVG = 'http://www.w3.org/2000/svg';
const HANDLERS = ['onclick', 'oninput', 'onchange', 'onsubmit', 'onkeydown', 'onscroll'];
const FIELDS = ['INPUT', 'SELECT', 'TEXTAREA'];

/** An element. `props`: `class`, attributes, `on…` handlers, `key` to be found again by `morph`. */
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same, of SVG. */
export function s(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'key') element.key = value;
    else if (name.startsWith('on')) element[name] = value;
    else if (name !== 'value') element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...nodes(children));
  // A choice is only there after its options.
  if (props?.value !== undefined) element.value = props.value;
  return element;
}

function nodes(children) {
  return children.flat(9).filter((child) => child !== null && child !== undefined && child !== false && child !== '');
}

/** Stands for an element that looks after itself: wherever it is named in a new tree, it stays where it is in the old one. */
export const keep = (element) => Object.assign(document.createComment(''), { stands: element });

/** Makes the children of `parent` look like these. */
export function morph(parent, ...children) {
  const wanted = nodes(children).map((child) => (child instanceof Node ? child : document.createTextNode(child)));
  sync(parent, wanted);
}

function sync(parent, wanted) {
  const keyed = new Map();
  for (const child of parent.childNodes) if (child.key !== undefined) keyed.set(child.key, child);
  let at = parent.firstChild;
  for (const given of wanted) {
    const next = given.stands ?? given;
    const found = counterpart(parent, at, next, keyed);
    if (found === null) {
      parent.insertBefore(next, at);
      if (next === given) settle(next);
      continue;
    }
    if (found === at) at = at.nextSibling;
    else parent.insertBefore(found, at);
    if (found !== next) update(found, next);
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

/** Puts elements where something stands for them, in a tree that is new as a whole. */
function settle(tree) {
  const walker = document.createTreeWalker(tree, NodeFilter.SHOW_COMMENT);
  const found = [];
  while (walker.nextNode()) found.push(walker.currentNode);
  for (const comment of found) if (comment.stands) comment.replaceWith(comment.stands);
}

function counterpart(parent, at, next, keyed) {
  if (next.parentNode === parent) return next;
  const found = next.key === undefined ? (at?.key === undefined ? at : null) : keyed.get(next.key);
  return found && found.nodeName === next.nodeName ? found : null;
}

function update(have, next) {
  if (have.nodeType === Node.TEXT_NODE) {
    if (have.nodeValue !== next.nodeValue) have.nodeValue = next.nodeValue;
    return;
  }
  for (const { name } of [...have.attributes]) if (!next.hasAttribute(name) && name !== 'style' && name !== 'open') have.removeAttribute(name);
  for (const { name, value } of next.attributes) if (name !== 'style' && have.getAttribute(name) !== value) have.setAttribute(name, value);
  for (const name of HANDLERS) if (have[name] !== next[name]) have[name] = next[name];
  for (const [name, value] of Object.entries(next.vars ?? {})) have.style.setProperty(name, value);
  sync(have, [...next.childNodes]);
  // Nobody's typing is overwritten.
  if (FIELDS.includes(have.tagName) && have !== document.activeElement && have.value !== next.value) have.value = next.value;
}

/** Sets CSS properties through the object model, which the policy of this page allows; attributes it does not. */
export function styled(element, properties) {
  element.vars = properties;
  for (const [name, value] of Object.entries(properties)) element.style.setProperty(name, value);
  return element;
}

/** Says something to those who listen to the page rather than look at it. */
export function announce(text) {
  document.getElementById('announce').textContent = text;
}

/** A button that copies what `text(button)` gives. */
export function copyButton(text, label = 'Copy') {
  const onclick = async ({ currentTarget: button }) => {
    const done = await copy(text(button));
    button.textContent = done ? 'Copied' : 'Not copied';
    announce(button.textContent);
    setTimeout(() => { button.textContent = 'Copy'; }, 1500);
  };
  return h('button', { type: 'button', class: 'quiet', 'aria-label': label, onclick }, 'Copy');
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without TLS there is no clipboard API except on this machine; the old way still works there.
    const area = h('textarea', { class: 'hidden', 'aria-hidden': 'true' });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand('copy');
    area.remove();
    return done;
  }
}
