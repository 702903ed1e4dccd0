// Demand until resupply against the stock: the forecast's own sums, joined by straight lines.
import { s } from './dom.js';
import * as format from './format.js';

const HEIGHT = 170, LEFT = 40, RIGHT = 8, TOP = 16, BOTTOM = 20;

export function coverChart({ forecast: f, cover, row }, width) {
  const at = (sum, level) => sum.quantiles[f.levels.indexOf(level)] ?? sum.mean;
  const sums = [{ steps: 0, mean: 0, quantiles: f.levels.map(() => 0) }, ...f.cumulative.toSorted((a, b) => a.steps - b.steps)];
  const lead = row.lead_steps, far = (sums.find(sum => sum.steps > (lead ?? 0)) ?? sums.at(-1)).steps;   // to the first sum beyond the lead time
  const used = sums.filter(sum => sum.steps <= far), highest = at(used.at(-1), .95), stock = cover?.stock;
  const top = Math.max(1, highest, Math.min(stock ?? 0, highest * 1.6)) * 1.08;
  const x = steps => LEFT + steps / far * (width - LEFT - RIGHT), y = v => HEIGHT - BOTTOM - Math.min(v, top) / top * (HEIGHT - TOP - BOTTOM);
  const path = level => used.map(sum => `${x(sum.steps).toFixed(1)},${y(at(sum, level)).toFixed(1)}`);
  const area = (low, high) => `M${path(low).join('L')}L${path(high).reverse().join('L')}Z`;
  const span = steps => format.span(steps * f.step_ms), inside = stock <= top;
  return s('svg', { class: 'plot', width, height: HEIGHT, role: 'img', 'aria-label': stock == null ? 'Demand added up' : `Demand added up, against a stock of ${format.units(stock)}` },
    ...format.ticks(top, 4).flatMap(v => [s('line', { class: 'grid', x1: LEFT, x2: width - RIGHT, y1: y(v), y2: y(v) }), s('text', { x: LEFT - 5, y: y(v) + 4, 'text-anchor': 'end' }, format.units(v))]),
    s('path', { class: 'band90', d: area(.05, .95) }), s('path', { class: 'band50', d: area(.25, .75) }), s('path', { class: 'median', d: 'M' + path(.5).join('L') }),
    inside && s('line', { class: 'stock', x1: LEFT, x2: width - RIGHT, y1: y(stock), y2: y(stock) }),
    stock != null && s('text', { class: 'stock halo', x: width - RIGHT - 4, 'text-anchor': 'end', y: inside ? Math.max(TOP + 4, y(stock) - 6) : TOP - 4 }, `stock ${format.units(stock)}${inside ? '' : ' (above the scale)'}`),
    lead != null && lead <= far && s('line', { class: 'lead', x1: x(lead), x2: x(lead), y1: TOP, y2: HEIGHT - BOTTOM }),
    lead != null && lead <= far && s('text', { class: 'lead halo', x: x(lead) - 5, y: TOP + 10, 'text-anchor': 'end' }, `lead time ${span(lead)}`),
    ...used.slice(1).map(sum => s('text', { x: x(sum.steps), y: HEIGHT - 5, 'text-anchor': sum.steps === far ? 'end' : 'middle' }, `+${span(sum.steps)}`)));
}
