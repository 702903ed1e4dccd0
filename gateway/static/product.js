// One product: the answer in a sentence, the fan, the stock, the reasons, the numbers.
import { $, h, put, s, severity } from './dom.js';
import * as format from './format.js';
import { coverChart } from './cover.js';
import { Fan } from './fan.js';
import { shopTime } from './store.js';

const QUALITY = { gap: 'Gap in the data', late: 'Late data', cold_start: 'New product: wide bands' };
const KEY = [['k-sold', 'sold'], ['k-run', 'this hour so far'], ['k-ghost', 'this hour, likely'], ['k-median', 'median'], ['k-50', '50 % likely'], ['k-90', '90 % likely']];
let built = null, fan = null, drawn = null;

function say(head, text) {
  built = head;
  fan?.destroy();
  fan = null;
  $('product').replaceChildren(back(), h('p', { class: 'empty' }, h('b', {}, head), text));
}
const back = () => h('a', { class: 'back', href: '/', 'data-link': true }, '‹ Exceptions');

function build(detail) {
  built = detail;
  drawn = null;
  fan?.destroy();
  const range = h('select', { id: 'range' }, ...[[24, '24 h'], [48, '2 days'], [72, '3 days']].map(([steps, text]) => h('option', { value: steps, selected: steps === 72 }, text)));
  $('product').replaceChildren(back(),
    h('header', {}, h('h2', { id: 'p-title' }), h('span', { class: 'tags', id: 'p-tags' }), h('span', { class: 'grow' }), h('label', {}, h('span', { class: 'vh' }, 'History shown'), range)),
    h('p', { class: 'meta', id: 'p-meta' }), h('p', { class: 'answer', id: 'p-answer' }),
    h('div', { class: 'key', 'aria-hidden': 'true' }, ...KEY.map(([name, text]) => h('span', {}, h('i', { class: name }), text))),
    h('div', { class: 'fan', id: 'fan' }), h('p', { class: 'readout', id: 'readout' }),
    h('div', { class: 'two' }, h('section', {}, h('h3', {}, 'Demand until resupply, against stock'), h('div', { id: 'cover' })),
      h('section', {}, h('h3', {}, 'Why'), h('div', { class: 'drivers', id: 'drivers' }))),
    h('details', { id: 'numbers' }, h('summary', {}, 'Show the numbers as a table'), h('p', { class: 'muted', id: 'p-model' }),
      h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Numbers' }, h('table', {}, h('thead', {}, h('tr', {}, ...['From', 'Median', '50 %', '90 %'].map(text => h('th', { scope: 'col' }, text)))), h('tbody', { id: 'rows' })))));
  fan = new Fan($('fan'), $('readout'));
  range.addEventListener('change', () => { fan.steps = +range.value; fan.draw(); });
  $('numbers').addEventListener('toggle', () => drawTable(drawn.detail));
}

export function drawProduct(state, now) {
  const { detail, selected, missing } = state;
  if (!selected) { if (built !== 'Choose a product') say('Choose a product', 'Pick an exception or a mover, or press / to search.'); return; }
  if (missing) {
    const head = missing === 'evicted' ? 'This product was forgotten' : missing === 'unknown' ? 'No forecast for this product' : 'It could not be read';
    const text = missing === 'evicted' ? 'It has not been sold for long. Its forecast comes back with its next order.' : missing === 'unknown' ? `${selected} is unknown, or was forgotten after a long silence.` : 'The gateway does not answer; it is asked again.';
    if (built !== head || !$('product').textContent.endsWith(text)) say(head, text);
    return;
  }
  if (detail?.row.id !== selected) {
    if (built !== 'loading') { built = 'loading'; fan?.destroy(); fan = null; $('product').replaceChildren(back(), ...Array.from({ length: 5 }, () => h('div', { class: 'skeleton', 'aria-hidden': 'true' }))); }
    return;
  }
  if (built?.row?.id !== detail.row.id) build(detail);
  const alert = [...state.alerts.values()].filter(one => one.product_id === selected).sort((a, b) => b.starts_at - a.starts_at)[0];
  const stale = shopTime(state, now) > detail.forecast.valid_until;
  if (drawn && drawn.detail === detail && drawn.alert === alert && drawn.stale === stale) return;   // nothing of it has changed: the charts stay
  drawn = { detail, alert, stale };
  const { row, forecast: f } = detail, n = format.units;
  put($('p-title'), row.title);
  $('p-tags').replaceChildren(...[
    alert && h('span', { class: 'tag ' + alert.severity }, severity(alert.severity, format.kind(alert.kind)), `${format.kind(alert.kind)} ${format.times(alert.observed, alert.expected)}`),
    f.quality !== 'ok' && h('span', { class: 'tag', 'data-quality': f.quality }, QUALITY[f.quality]),
    stale && h('span', { class: 'tag', 'data-stale': '' }, 'Not renewed'),
  ].filter(Boolean));
  const sold = f.running ? `${n(f.running.observed)} sold this hour, ${n(f.running.expected_by_now.mean)} expected by now` : null;
  put($('p-meta'), [row.id !== row.title && row.id, row.category, `as of ${format.seconds(f.as_of)}`, sold].filter(Boolean).join(' · '));
  drawAnswer(detail);
  fan.show(detail, alert);
  $('cover').replaceChildren(...($('cover').clientWidth > 80 && f.cumulative.length ? [coverChart(detail, $('cover').clientWidth)] : []));
  drawDrivers(alert, f);
  put($('p-model'), `Model ${f.model.name} ${f.model.version}; ${f.kind === 'nowcast' ? 'with this hour’s orders' : 'from the last full hour'}.`);
  drawTable(detail);
}
function drawAnswer({ row, forecast: f, cover, stock_at }) {
  const box = $('p-answer'), n = format.units, b = text => h('b', {}, text);
  box.classList.toggle('short', cover?.short > 0);
  if (!cover) { box.replaceChildren(b('Stock is not known. '), `${n(row.ahead)} expected over the next ${format.span(f.horizon * f.step_ms)}.`); return; }
  const counted = stock_at ? ` (counted ${format.day(stock_at)})` : '', lead = cover.lead_steps == null ? null : format.span(cover.lead_steps * f.step_ms);
  const out = cover.out_at ? ['Runs out ', b(format.day(cover.out_at)), cover.out_early && cover.out_early < cover.out_at ? `, 1 in 10 before ${format.day(cover.out_early)}.` : '.'] : ['Beyond what is forecast it may run out.'];
  if (cover.median == null) box.replaceChildren(`Stock is ${n(cover.stock)}${counted}; no lead time is known. `, ...out);
  else if (cover.short > 0) {
    const by = cover.short_median > 0 ? `Short by ${n(cover.short_median)} to ${n(cover.short)}` : `Short by up to ${n(cover.short)}`;
    box.replaceChildren(b(by), ` over the ${lead} lead time. Stock is ${n(cover.stock)}${counted}; demand is likely ${n(cover.median)}, 9 in 10 below ${n(cover.high)}. `, ...out);
  } else box.replaceChildren(b('Stock lasts. '), `${n(cover.stock)} in stock${counted} against ${n(cover.median)} likely (9 in 10 below ${n(cover.high)}) over the ${lead} lead time.`);
}
function drawDrivers(alert, f) {
  const drivers = alert?.drivers ?? f.trend.drivers, most = Math.max(.01, ...drivers.map(one => Math.abs(one.effect)));
  if (!drivers.length) { $('drivers').replaceChildren(h('p', { class: 'none' }, 'No alert: demand is as it was expected.')); return; }
  $('drivers').replaceChildren(...drivers.flatMap(({ name, effect }) => {
    const width = 34 * Math.abs(effect) / most;
    return [h('span', {}, format.driver(name)), s('svg', { viewBox: '0 0 72 10', 'aria-hidden': 'true' }, s('line', { class: 'bar-mid', x1: 36, x2: 36, y1: 0, y2: 10 }),
      s('rect', { class: effect > 0 ? 'bar-plus' : 'bar-minus', x: effect > 0 ? 36 : 36 - width, y: 1.5, width, height: 7 })), h('span', {}, `${format.signed(effect)} units`)];
  }));
}
function drawTable({ forecast: f }) {
  if (!$('numbers').open) return;
  const at = (k, ...levels) => levels.map(level => format.units(f.quantiles[f.levels.indexOf(level)]?.[k] ?? f.mean[k])).join('–');
  $('rows').replaceChildren(...f.mean.map((_, k) => h('tr', {}, h('th', { scope: 'row' }, format.day(f.first_step + k * f.step_ms)), h('td', {}, at(k, .5)), h('td', {}, at(k, .25, .75)), h('td', {}, at(k, .05, .95)))));
}
