// Keeps an open page up to date: asks for the same address again and takes over the parts that are marked as live. What a
// person is at (focus, scroll, what is open or selected) stays. Nothing is asked while the page is hidden.
'use strict';
(() => {
  const EVERY = 5000; // milliseconds, as all of these
  const LATE = 30000;
  const WITHIN = 8000;
  const said = document.getElementById('said');
  const parts = [...document.querySelectorAll('[data-live]')];
  // As the server wrote them: an opened <details> is no news.
  const written = new Map(parts.map((part) => [part.id, part.innerHTML]));
  let answered = Date.now();
  let timer;

  function say(text) {
    // A screen reader reads it whenever it is set.
    if (said.textContent !== text) said.textContent = text;
  }

  // Finds the same element once its part has been replaced: by its id, by where it leads, by its name, by its place.
  function finder(part, element) {
    const { localName: tag, id } = element;
    if (id) return () => document.getElementById(id);
    for (const name of ['href', 'aria-label']) {
      const value = element.getAttribute(name);
      if (value) return () => part.querySelector(`${tag}[${name}="${CSS.escape(value)}"]`);
    }
    const place = [...part.querySelectorAll(tag)].indexOf(element);
    return () => part.querySelectorAll(tag)[place];
  }

  function isBeingSelected(part) {
    const selection = document.getSelection();
    return selection && !selection.isCollapsed && selection.containsNode(part, true);
  }

  function replace(part, fresh) {
    const focused = part.contains(document.activeElement) && finder(part, document.activeElement);
    const opened = [...part.querySelectorAll('details[open]')].map((one) => finder(part, one));
    const scrolled = [...part.querySelectorAll('.wide')].map((one) => [finder(part, one), one.scrollLeft]);
    const [x, y] = [scrollX, scrollY];
    part.replaceChildren(...fresh.childNodes);
    opened.forEach((find) => find()?.setAttribute('open', ''));
    scrolled.forEach(([find, left]) => find()?.scrollTo(left, 0));
    if (focused) focused()?.focus({ preventScroll: true });
    scrollTo(x, y);
  }

  function take(page) {
    for (const part of parts) {
      const fresh = page.getElementById(part.id);
      if (!fresh || fresh.innerHTML === written.get(part.id) || isBeingSelected(part)) continue;
      written.set(part.id, fresh.innerHTML);
      replace(part, fresh);
    }
    document.title = page.title;
  }

  const shown = () => `What is shown is of ${new Date(answered).toISOString().slice(11, 19)} UTC.`;

  async function refresh() {
    clearTimeout(timer);
    if (document.hidden) return;
    try {
      const answer = await fetch(location.href, { cache: 'no-store', signal: AbortSignal.timeout(WITHIN) });
      const page = await answer.text();
      if (answer.ok) {
        take(new DOMParser().parseFromString(page, 'text/html'));
        answered = Date.now();
        say('');
      } else {
        say(`The agent does not show this any more. ${shown()}`);
      }
    } catch {
      if (Date.now() - answered >= LATE) say(`Not updated for 30s: the agent does not answer. ${shown()}`);
    }
    timer = setTimeout(refresh, EVERY);
  }

  document.addEventListener('visibilitychange', refresh);
  timer = setTimeout(refresh, EVERY);
})();
