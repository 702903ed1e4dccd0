// The list of alerts that fire. Rows never move under a pointer or the focus: new ones wait behind a button.
import { $, h, put, set, severity, spark } from './dom.js';
import * as format from './format.js';
import { FILTERS, acknowledged, condition, matching, shopTime, visible } from './store.js';

const rows = new Map();   // alert_id → its row
let pointed = false;

const title = alert => alert.row?.title ?? alert.product_id;
export const path = id => '/p/' + encodeURIComponent(id);
const sign = alert => alert.observed >= alert.expected ? '▲' : '▼';

function build(alert) {
  const link = h('a', { class: 't', 'data-link': true }), cover = h('span'), age = h('span'), word = h('span');
  const value = h('span', { class: 'x' }), line = h('span', { class: 'line' });
  const row = h('li', { class: 'row', 'data-alert': alert.alert_id },
    severity(alert.severity, format.kind(alert.kind)), link, value, line, h('span', { class: 's' }, cover, age),
    h('button', { class: 'ack', type: 'button', 'data-ack': alert.alert_id }, word, h('span', { class: 'vh' }, ` ${title(alert)}`)));
  return { row, link, value, line, cover, age, word, drawn: {} };
}
function drawRow(parts, alert, state, now) {
  const { drawn } = parts, row = alert.row;
  put(parts.link, title(alert));
  set(parts.link, 'href', path(alert.product_id));
  put(parts.value, `${sign(alert)}\u2009${format.times(alert.observed, alert.expected)}`);
  if (drawn.severity !== alert.severity) {
    if (drawn.severity) parts.row.firstElementChild.replaceWith(severity(alert.severity, format.kind(alert.kind)));
    drawn.severity = alert.severity;
  }
  const values = row?.spark.join() ?? '';
  if (drawn.spark !== values) { drawn.spark = values; parts.line.replaceChildren(...(row ? [spark(row.spark)] : [])); }
  drawCover(parts, row);
  put(parts.age, [row?.category, format.age(now - alert.starts_at), acknowledged(alert) && (alert.acknowledged_by ?? 'acknowledged'), alert.replay && 'history'].filter(Boolean).join(' · '));
  put(parts.word, acknowledged(alert) ? 'Undo' : 'Ack');
  parts.row.classList.toggle('acknowledged', acknowledged(alert));
  const selected = alert.product_id === state.selected;
  parts.row.classList.toggle('selected', selected);
  if (selected) set(parts.link, 'aria-current', 'true'); else parts.link.removeAttribute('aria-current');
}
function drawCover(parts, row) {
  const lead = row?.lead_steps == null ? null : row.lead_steps * row.step_ms;
  let text = 'stock not known', rest = ' · ', bad = false;
  if (row?.stock != null) {
    const cover = row.cover_steps == null ? null : row.cover_steps * row.step_ms;
    text = cover == null ? 'cover beyond forecast' : `${format.span(cover)} cover`;
    rest = lead == null ? ' · ' : ` of ${format.span(lead)} lead · `;
    bad = row.short > 0;
  }
  if (parts.drawn.cover === text + rest + bad) return;
  parts.drawn.cover = text + rest + bad;
  parts.cover.replaceChildren(h(row?.stock == null ? 'span' : 'b', { class: bad && 'bad' }, text), rest);
}

const frozen = list => pointed || (list.contains(document.activeElement) && document.activeElement.matches(':focus-visible'));

export function drawExceptions(state, now) {
  const list = $('alerts');
  if (!state.about) {
    if (!list.children.length) list.append(...Array.from({ length: 6 }, () => h('li', { class: 'skeleton', 'aria-hidden': 'true' })));
    return;
  }
  const wanted = visible(state), shop = shopTime(state, now);
  for (const alert of wanted) {
    if (!rows.has(alert.alert_id)) rows.set(alert.alert_id, build(alert));
    drawRow(rows.get(alert.alert_id), alert, state, shop);
  }
  const nodes = wanted.map(alert => rows.get(alert.alert_id).row), shown = [...list.children].filter(node => node.dataset.alert);
  let waiting = 0;
  if (shown.length && frozen(list)) {
    waiting = nodes.filter(node => !shown.includes(node)).length;
    for (const node of shown) node.classList.toggle('ended', !state.alerts.has(node.dataset.alert));
  } else if (nodes.length !== list.children.length || nodes.some((node, i) => list.children[i] !== node)) {
    const focus = list.contains(document.activeElement) ? document.activeElement : null;
    const place = focus && shown.indexOf(focus.closest('.row'));
    for (const node of nodes) if (shown.length && !shown.includes(node)) node.classList.add('fresh');
    list.replaceChildren(...nodes);
    if (focus) (focus.isConnected ? focus : list.children[Math.min(place, list.children.length - 1)]?.querySelector('.t') ?? $('exceptions')).focus({ preventScroll: true });
  }
  for (const [id, { row }] of rows) if (!state.alerts.has(id) && !row.isConnected) rows.delete(id);
  $('more').hidden = !waiting;
  put($('more'), `${waiting} new`);
  put($('count'), `${wanted.length} of ${state.alerts.size}`);
  drawEmpty(state, wanted, now);
  for (const chip of $('chips').children) {
    set(chip, 'aria-pressed', String(chip.dataset.filter === state.filter));
    put(chip.lastElementChild, ` ${matching(state, chip.dataset.filter).length}`);
  }
}
function drawEmpty(state, wanted, now) {
  const empty = $('empty');
  const live = condition(state, now).name === 'live';
  empty.hidden = wanted.length > 0;
  $('alerts').hidden = !wanted.length && !$('alerts').children.length;
  if (wanted.length) return;
  const [head, text] = state.alerts.size ? ['No exception matches', 'Clear a filter to see the others.']
    : live ? ['Nothing needs you', 'No alert fires.'] : ['No exceptions when last seen', 'Not live: this may have changed.'];
  if (empty.textContent !== head + text) empty.replaceChildren(h('b', {}, head), text);
}

export function setUpExceptions(state, { redraw, acknowledge }) {
  $('chips').append(...Object.entries(FILTERS).map(([name, [label]]) => h('button', { class: 'chip', type: 'button', 'data-filter': name }, label, h('span'))));
  $('chips').addEventListener('click', event => {
    const chip = event.target.closest('[data-filter]');
    if (chip) { state.filter = chip.dataset.filter; pointed = false; redraw(); }
  });
  const list = $('alerts');
  list.addEventListener('pointerenter', event => { pointed = event.pointerType !== 'touch'; });
  list.addEventListener('pointerleave', () => { pointed = false; redraw(); });
  list.addEventListener('focusout', () => requestAnimationFrame(redraw));
  list.addEventListener('click', event => {
    const button = event.target.closest('[data-ack]');
    if (button) acknowledge(button.dataset.ack);
  });
  $('more').addEventListener('click', () => { pointed = false; $('exceptions').focus({ preventScroll: true }); redraw(); });
}
