// The theme before anything is drawn: a choice that was made here, else the system's. Not a module, since modules run after the first paint.
(() => {
  let chosen = null;
  try { chosen = localStorage.getItem('wharf.theme'); } catch { /* Storage may be forbidden; the system's theme is fine. */ }
  if (chosen === 'light' || chosen === 'dark') document.documentElement.dataset.theme = chosen;
})();
