// The page: reads a snapshot, follows the stream, paints at most twice a second, and listens to keys.
import { $, h, put, set } from './dom.js';
import * as format from './format.js';
import { drawExceptions, path, setUpExceptions } from './exceptions.js';
import { drawMovers } from './movers.js';
import { drawProduct } from './product.js';
import { SignedOut, openStream } from './stream.js';
import { acknowledged, condition, earlier, newState, shortOnes, takeDetail, takeFrame, takeSnapshot, visible } from './store.js';

// Frames come every half second. A little less between two paints: were it more, paints would fall behind and frames wait.
const PAINT_MS = 460, SAY_MS = 10_000, WIDE = matchMedia('(min-width: 761px)');
const state = newState();
let stream = null, wanted = 0, painted = -Infinity, painting = 0, drawnBoard = null;

// ---- painting: live data waits for its turn, what a person did is shown at once

function paint() {
  painting ||= setTimeout(() => requestAnimationFrame(() => { painting = 0; painted = performance.now(); draw(); }), Math.max(0, painted + PAINT_MS - performance.now()));
}
function draw() {
  const now = Date.now();
  drawTiles();
  drawExceptions(state, now);
  if (drawnBoard !== state.board || !state.board) { drawnBoard = state.board; drawMovers(state); }
  drawProduct(state, now);
  drawState(now);
  drawCategories();
  if (state.position) document.body.dataset.painted = state.position;
}
const redraw = () => { drawnBoard = null; draw(); };

function drawTiles() {
  if (!state.about) return;
  const all = [...state.alerts.values()], critical = all.filter(alert => alert.severity === 'critical').length, short = shortOnes(state);
  put($('t-firing'), String(all.length));
  put($('t-firing-sub'), `${critical} critical · ${all.length - critical} warning`);
  put($('t-short'), String(short.length));
  put($('t-risk'), format.money(short.reduce((total, alert) => total + (alert.row.risk ?? 0), 0)));
  const fresh = state.board?.freshness, s = ms => `${(ms / 1000).toFixed(ms < 1000 ? 2 : 1)} s`;
  put($('t-fresh'), fresh ? s(fresh.p50) : '–');
  put($('t-fresh-sub'), fresh ? `p50 · p99 ${s(fresh.p99)}, last minute` : 'no orders in the last minute');
}
function drawState(now) {
  const { name, why, ms } = condition(state, now), last = state.received ? format.clock(state.received) : null;
  set($('state'), 'data-state', name);
  set(document.body, 'data-conn', name);
  put($('state').lastElementChild, { down: 'Disconnected', paused: `Paused ${last}`, loading: 'Connecting', stale: 'Stale', live: 'Live' }[name]);
  const banner = $('banner');
  const text = name === 'down' ? `Disconnected. ${last ? `You see the numbers of ${last}. ` : ''}Trying again in ${Math.max(0, Math.ceil((state.down.at - now) / 1000))} s.`
    : name !== 'stale' ? '' : why === 'silent' ? `Nothing was heard for ${Math.round(ms / 1000)} s. You see the numbers of ${last}.`
      : why === 'kafka' ? `The gateway has not heard from Kafka for ${Math.round(ms / 1000)} s: these numbers may be old.` : `Forecasts are not being renewed: the newest was good until ${format.day(state.about.valid_until)}.`;
  banner.hidden = !text;
  set(banner, 'data-kind', name);
  put(banner, text);
}
function drawCategories() {
  const select = $('category');
  if (select.options.length - 1 === state.categories.length) return;
  select.replaceChildren(h('option', { value: '' }, 'All categories'), ...state.categories.map(name => h('option', { value: name }, name)));
  select.value = state.category;
}

// ---- reading

async function api(url, options) {
  const response = await fetch('/api/v1' + url, { ...options, headers: { accept: 'application/json', ...options?.headers }, cache: 'no-store' });
  if (response.status === 401) throw new SignedOut();
  if (!response.ok) throw Object.assign(new Error(`status ${response.status}`), { status: response.status });
  return response.status === 204 ? null : response.json();
}
const query = () => state.category ? '?category=' + encodeURIComponent(state.category) : '';

// A snapshot, the selected product, and the stream from there on. Of several calls the last one wins.
async function begin(attempt = 0) {
  const mine = ++wanted;
  stream?.stop();
  try {
    const snapshot = await api('/overview' + query());
    if (mine !== wanted) return;
    takeSnapshot(state, snapshot, Date.now());
    state.conn = 'live';
    if (state.selected == null && WIDE.matches) state.selected = visible(state)[0]?.product_id ?? null;
    draw();
    await select(state.selected, mine);
  } catch (error) {
    if (mine === wanted) failed(error, attempt, begin);
  }
}
async function select(id, mine = ++wanted, attempt = 0) {
  state.selected = id;
  if (state.missing || (state.detail && state.detail.row.id !== id)) { state.detail = null; state.missing = null; }
  draw();
  if (state.position == null) return begin();
  let from = state.position;
  try {
    if (id != null) {
      const detail = await api('/products/' + encodeURIComponent(id));
      if (mine !== wanted) return;
      from = earlier(state.position, detail.position);
      if (from == null) return begin();   // another process answered
      takeDetail(state, detail);
    }
  } catch (error) {
    if (mine !== wanted) return;
    if (error.status !== 404) { failed(error, attempt, next => select(id, ++wanted, next)); return; }
    state.missing = 'unknown';
  }
  state.conn = 'live';
  draw();
  connect(from);
}
function connect(from) {
  stream?.stop();
  if (state.paused || document.hidden) return;
  state.position = from;
  const parameters = new URLSearchParams({ ...(state.selected != null && { product: state.selected }), ...(state.category && { category: state.category }) });
  stream = openStream('/api/v1/stream?' + parameters, () => state.position, {
    frame(data, id) {
      if (state.conn === 'down') say('Live again');
      state.conn = 'live';
      takeFrame(state, data, id, Date.now());
      paint();
    },
    reset: () => begin(),
    down(how) {
      if (how.attempt === 1) say('Disconnected');
      state.conn = 'down'; state.down = how;
      drawState(Date.now());
    },
    signedOut: signIn,
  });
}
function failed(error, attempt, again) {
  if (error instanceof SignedOut) { signIn(); return; }
  const wait = Math.min(15_000, 500 * 2 ** attempt) * (.6 + Math.random() * .8), mine = wanted;
  if (error.status !== 503) { state.conn = 'down'; state.down = { attempt: attempt + 1, at: Date.now() + wait }; }   // 503: it is still reading
  drawState(Date.now());
  setTimeout(() => { if (mine === wanted) again(attempt + 1); }, wait);
}

// ---- what people do

function signIn() {
  wanted++;
  stream?.stop();
  document.body.dataset.view = 'signin';
  $('signin').hidden = false;
  $('token').focus();
}
$('signin').addEventListener('submit', async event => {
  event.preventDefault();
  try {
    await api('/session', { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ token: $('token').value }) });
  } catch (error) {
    put($('wrong'), error instanceof SignedOut ? 'That is not the token.' : 'The gateway does not answer.');
    return;
  }
  $('token').value = '';
  put($('wrong'), '');
  $('signin').hidden = true;
  showView();
  begin();
});

async function acknowledge(id) {
  const alert = state.alerts.get(id);
  if (!alert) return;
  try {
    const said = await api(`/alerts/${encodeURIComponent(id)}/acknowledgement`, { method: acknowledged(alert) ? 'DELETE' : 'PUT' });
    Object.assign(alert, { acknowledged_at: said.acknowledged_at, acknowledged_by: said.acknowledged_by });
    say(said.acknowledged_at ? 'Acknowledged' : 'No longer acknowledged');
    redraw();
  } catch (error) {
    if (error instanceof SignedOut) signIn(); else say('It could not be acknowledged. Try again.');
  }
}

const asked = () => location.pathname.startsWith('/p/') ? decodeURIComponent(location.pathname.slice(3)) : null;
const showView = () => { document.body.dataset.view = asked() == null ? 'list' : 'product'; };
function go(where) {
  if (where !== location.pathname) history.pushState(null, '', where);
  showView();
  select(asked());
}
document.addEventListener('click', event => {
  const link = event.target.closest('a[data-link]');
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  go(link.getAttribute('href'));
  if (!WIDE.matches) scrollTo(0, 0);
});
addEventListener('popstate', () => { showView(); select(asked()); });

$('category').addEventListener('change', event => { state.category = event.target.value; redraw(); begin(); });
document.querySelector('.movers').addEventListener('click', event => {
  const board = event.target.closest('[data-board]'), category = event.target.closest('[data-category]');
  if (board) { state.mode = board.dataset.board; redraw(); }
  if (category) { $('category').value = state.category = category.dataset.category; state.mode = 'products'; redraw(); begin(); }
});
$('pause').addEventListener('click', () => {
  state.paused = !state.paused;
  set($('pause'), 'aria-pressed', String(state.paused));
  put($('pause').lastElementChild, state.paused ? 'Resume' : 'Pause');
  if (state.paused) stream?.stop(); else if (state.position) connect(state.position);
  drawState(Date.now());
});

const THEMES = ['auto', 'light', 'dark'];
const setTheme = name => { document.documentElement.dataset.theme = localStorage.theme = name; };
$('theme').addEventListener('click', () => {
  setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]);
  say(`Colours: ${document.documentElement.dataset.theme === 'auto' ? 'system' : document.documentElement.dataset.theme}`);
});

// ---- search

let searching = 0;
function closeSearch() {
  $('found').hidden = true;
  set($('q'), 'aria-expanded', 'false');
  $('q').removeAttribute('aria-activedescendant');
}
async function search() {
  const mine = ++searching, text = $('q').value.trim();
  if (!text) { closeSearch(); return; }
  const { items } = await api('/products?limit=8&sort=-ahead&q=' + encodeURIComponent(text)).catch(() => ({ items: [] }));
  if (mine !== searching) return;
  $('found').replaceChildren(...(items.length ? items.map((row, i) => h('li', { role: 'option', id: `found-${i}`, 'aria-selected': String(!i), 'data-product': row.id }, h('span', {}, row.title), h('span', { class: 'muted' }, row.title === row.id ? row.category : row.id)))
    : [h('li', { role: 'option', 'aria-disabled': 'true', 'aria-selected': 'false' }, `Nothing is called “${text}”`)]));
  $('found').hidden = false;
  set($('q'), 'aria-expanded', 'true');
  if (items.length) set($('q'), 'aria-activedescendant', 'found-0');
}
function choose(option) {
  if (!option?.dataset.product) return;
  closeSearch();
  $('q').value = '';
  $('q').blur();
  go(path(option.dataset.product));
}
let typing = 0;
$('q').addEventListener('input', () => { clearTimeout(typing); typing = setTimeout(search, 150); });
$('q').addEventListener('blur', () => setTimeout(closeSearch, 150));
$('q').addEventListener('keydown', event => {
  const options = [...$('found').children], at = options.findIndex(option => option.getAttribute('aria-selected') === 'true');
  const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (by && options.length) {
    event.preventDefault();
    const next = options[(at + by + options.length) % options.length];
    for (const option of options) set(option, 'aria-selected', String(option === next));
    set($('q'), 'aria-activedescendant', next.id);
  } else if (event.key === 'Enter') {
    clearTimeout(typing);
    if ($('found').hidden) search().then(() => choose($('found').firstElementChild)); else choose(options[at]);
  } else if (event.key === 'Escape') { $('q').value = ''; closeSearch(); $('q').blur(); }
});
$('found').addEventListener('pointerdown', event => { event.preventDefault(); choose(event.target.closest('li')); });

// ---- keys

function step(by) {
  const list = visible(state), at = list.findIndex(alert => alert.product_id === state.selected);
  const next = list[at < 0 ? 0 : Math.max(0, Math.min(list.length - 1, at + by))];
  if (!next) return;
  go(path(next.product_id));
  document.querySelector(`.row[data-alert="${CSS.escape(next.alert_id)}"]`)?.scrollIntoView({ block: 'nearest' });
}
const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  a: () => { const alert = visible(state).find(one => one.product_id === state.selected); if (alert) acknowledge(alert.alert_id); },
  '/': () => $('q').focus(),
  t: () => $('theme').click(),
  ' ': () => $('pause').click(),
  Escape: () => go('/'),
};
addEventListener('keydown', event => {
  if (event.target.matches('input, select, textarea') || event.ctrlKey || event.metaKey || event.altKey || !$('signin').hidden) return;
  if (event.key === ' ' && event.target.closest('button, a, summary')) return;   // space presses what has the focus
  const action = KEYS[event.key];
  if (action) { event.preventDefault(); action(); }
});

// ---- time

const say = text => put($('say'), text);
// New exceptions are told to screen readers once in ten seconds at most, however many there are.
setInterval(() => {
  const news = state.news.filter(alert => state.alerts.has(alert.alert_id));
  state.news = [];
  if (news.length) say(news.length === 1 ? `New exception: ${news[0].row?.title ?? news[0].product_id}` : `${news.length} new exceptions`);
}, SAY_MS);
// Ages and the banner go with the clock; charts never do.
setInterval(() => { if (!document.hidden && document.body.dataset.view !== 'signin') { drawExceptions(state, Date.now()); drawState(Date.now()); } }, 1000);
// A hidden tab costs nobody anything; it catches up from where it was.
document.addEventListener('visibilitychange', () => {
  if (document.hidden) stream?.stop();
  else if (state.position && !state.paused && $('signin').hidden) connect(state.position);
});

setUpExceptions(state, { redraw, acknowledge });
setTheme(THEMES.includes(localStorage.theme) ? localStorage.theme : 'auto');
state.selected = asked();
showView();
draw();
begin();
