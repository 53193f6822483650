// What can be said of a page's accessibility without opinions: names, ids, headings, contrast, room. Runs inside the page.

/** Everything that is wrong, in words. */
export function audit() {
  const wrong = [];
  const visible = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && element.getClientRects().length > 0;
  const say = (element) => `<${element.tagName.toLowerCase()} class="${element.getAttribute('class') ?? ''}" id="${element.id}">`;

  const name = (element) => element.getAttribute('aria-label')
    || [...(element.labels ?? [])].map((label) => label.textContent).join('')
    || document.getElementById(element.getAttribute('aria-labelledby') ?? '')?.textContent
    || (['INPUT', 'TEXTAREA', 'SELECT'].includes(element.tagName) ? '' : element.textContent.trim());
  for (const element of document.querySelectorAll('button, a, input, select, textarea, [role="img"], [role="log"], [tabindex="0"]')) {
    const named = element.tagName === 'PRE' || name(element);
    if (visible(element) && !named) wrong.push(`${say(element)} has no name`);
  }
  const ids = [...document.querySelectorAll('[id]')].map((element) => element.id);
  for (const id of new Set(ids)) if (ids.filter((other) => other === id).length > 1) wrong.push(`the id ${id} is there twice`);
  const titles = [...document.querySelectorAll('h1')];
  if (titles.length !== 1) wrong.push(`${titles.length} first headings`);
  if (!document.documentElement.lang) wrong.push('the page names no language');
  for (const image of document.querySelectorAll('img:not([alt])')) wrong.push(`${say(image)} has no alt`);
  for (const header of document.querySelectorAll('th:not([scope])')) wrong.push(`the column ${header.textContent} has no scope`);
  if (document.documentElement.scrollWidth > innerWidth) wrong.push(`the page is ${document.documentElement.scrollWidth} wide`);
  const main = document.querySelector('main');
  if (main.scrollWidth > main.clientWidth + 1) wrong.push(`the view is ${main.scrollWidth} wide in ${main.clientWidth}`);

  for (const plot of document.querySelectorAll('svg.plot')) {
    const labels = [...plot.querySelectorAll('text')].filter(visible).map((label) => [label.textContent, label.getBoundingClientRect()]);
    const { left, right } = plot.getBoundingClientRect();
    for (const [text, box] of labels) if (box.left < left - 1 || box.right > right + 1) wrong.push(`the label "${text}" leaves its chart`);
    labels.forEach(([text, one], index) => labels.slice(index + 1).forEach(([other, two]) => {
      if (one.left < two.right && two.left < one.right && one.top + 2 < two.bottom && two.top + 2 < one.bottom) wrong.push(`the labels "${text}" and "${other}" of a chart overlap`);
    }));
  }

  // Contrast of text with what is behind it, as WCAG 2 computes it.
  const colour = (text) => {
    const numbers = text.match(/-?[\d.]+(?:e-?\d+)?/g).map(Number);
    const scale = text.startsWith('color(') ? 255 : 1;
    return [numbers[0] * scale, numbers[1] * scale, numbers[2] * scale, numbers[3] ?? 1];
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
  const luminance = ([r, g, b]) => [r, g, b].map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(colour(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.nodeValue.trim() || !visible(element) || element.closest('.hidden, .skip, :disabled, noscript, script, option')) continue;
    const style = getComputedStyle(element);
    const back = behind(element);
    const front = over(colour(element instanceof SVGElement ? style.fill : style.color), back);
    const [light, dark] = [luminance(front), luminance(back)].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    const isLarge = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    if (ratio < (isLarge ? 3 : 4.5)) wrong.push(`"${texts.currentNode.nodeValue.trim().slice(0, 30)}" in ${say(element)} has a contrast of ${ratio.toFixed(2)}`);
  }
  return [...new Set(wrong)];
}

/** Whether what has the focus looks different from before. */
export function focusIsVisible() {
  const looks = (element) => {
    const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(element);
    return (outlineStyle !== 'none' && outlineWidth !== '0px') || boxShadow !== 'none';
  };
  const focused = document.activeElement;
  // The field of a message shows it on its frame.
  return focused === document.body || looks(focused) || looks(focused.closest('.composer') ?? focused);
}
