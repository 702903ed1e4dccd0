// The fan as SVG: colours come from CSS, so that themes, print and forced colours need no code, and every mark can be looked at in the DOM.
import { h, line, put, s } from './dom.js';
import * as format from './format.js';

const MARGIN = { left: 38, right: 8, top: 20, bottom: 22 };

export class Fan {
  constructor(box, readout) {
    Object.assign(this, { box, readout, steps: 72, at: null, points: [] });
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(box);
    for (const [name, value] of [['tabindex', '0'], ['role', 'group'], ['aria-label', 'Forecast chart. Left and right arrows read the hours.']]) box.setAttribute(name, value);
    box.addEventListener('pointermove', event => { this.at = this.nearest(event.clientX - box.getBoundingClientRect().left); this.cross(); });
    box.addEventListener('pointerleave', () => { this.at = null; this.cross(); });
    box.addEventListener('keydown', event => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by || !this.points.length) return;
      event.preventDefault();
      this.at = Math.max(0, Math.min(this.points.length - 1, (this.at ?? this.past.length) + by));
      this.cross();
    });
  }
  show(detail, alert) { this.detail = detail; this.alert = alert; this.draw(); }
  destroy() { this.observer.disconnect(); }
  nearest(px) {
    const share = (px - MARGIN.left) / (this.box.clientWidth - MARGIN.left - MARGIN.right);
    return Math.max(0, Math.min(this.points.length - 1, Math.floor(share * this.points.length)));
  }
  draw() {
    const width = this.box.clientWidth, height = this.box.clientHeight;
    if (!this.detail || width < 50) return;
    const f = this.detail.forecast, step = f.step_ms, of = level => f.quantiles[f.levels.indexOf(level)] ?? f.mean;
    const demand = f.recent.demand.slice(-this.steps), first = f.recent.first_step + (f.recent.demand.length - demand.length) * step;
    this.past = demand.map((sold, i) => ({ t: first + i * step, sold }));
    this.ahead = f.mean.map((_, k) => ({ t: f.first_step + k * step, median: of(.5)[k], low: of(.05)[k], high: of(.95)[k], lower: of(.25)[k], upper: of(.75)[k], running: k === 0 ? f.running : null }));
    this.points = [...this.past, ...this.ahead];
    const from = this.points[0].t, to = this.points.at(-1).t + step;
    const top = Math.max(1, ...demand.map(v => v ?? 0), f.running?.observed ?? 0, ...this.ahead.map(p => p.high)) * 1.08;
    this.x = t => MARGIN.left + (t - from) / (to - from) * (width - MARGIN.left - MARGIN.right);
    this.y = v => height - MARGIN.bottom - v / top * (height - MARGIN.top - MARGIN.bottom);
    this.half = step / 2;
    this.mark = s('g', { 'aria-hidden': 'true' });
    this.box.replaceChildren(s('svg', { class: 'plot', width, height, role: 'img', 'aria-label': `Sold in the last ${format.span(demand.length * step)}, and the forecast of the next ${format.span(f.horizon * step)}` },
      ...this.grid(top, from, to, width, height), ...this.gaps(height), ...this.forecast(), ...this.running(f), ...this.sold(), ...this.moments(f, from, width, height), this.mark));
    this.cross();
  }
  grid(top, from, to, width, height) {
    const hours = (to - from) / format.HOUR, every = hours > 24 * 14 ? 24 * 7 : hours > 100 || (hours > 60 && width < 500) ? 24 : hours > 60 ? 12 : 6;
    const label = t => new Date(t).getHours() ? format.clock(t) : format.date(t);
    return [
      ...format.ticks(top).flatMap(v => [s('line', { class: 'grid', x1: MARGIN.left, x2: width - MARGIN.right, y1: this.y(v), y2: this.y(v) }),
        s('text', { x: MARGIN.left - 6, y: this.y(v) + 4, 'text-anchor': 'end' }, format.units(v))]),
      ...format.localHours(from, to, Math.min(every, 24)).filter((_, i) => every <= 24 || i % 7 === 0).flatMap(t => [s('line', { class: 'grid', x1: this.x(t), x2: this.x(t), y1: MARGIN.top, y2: height - MARGIN.bottom }),
        s('text', { class: 'tick', x: this.x(t), y: height - 6, 'text-anchor': 'middle' }, label(t))]),
    ];
  }
  gaps(height) {   // steps that are not known: a grey span
    const found = [];
    this.past.forEach(({ t, sold }, i) => {
      if (sold != null) return;
      if (i && this.past[i - 1].sold == null) found.at(-1).to = t + 2 * this.half; else found.push({ from: t, to: t + 2 * this.half });
    });
    return found.map(gap => s('rect', { class: 'gap', x: this.x(gap.from), y: MARGIN.top, width: this.x(gap.to) - this.x(gap.from), height: height - MARGIN.top - MARGIN.bottom }));
  }
  point(t, v) { return `${this.x(t + this.half).toFixed(1)},${this.y(v).toFixed(1)}`; }
  forecast() {
    const path = name => this.ahead.map(p => this.point(p.t, p[name]));
    const area = (low, high) => `M${path(low).join('L')}L${path(high).reverse().join('L')}Z`;
    return [s('path', { class: 'band90', d: area('low', 'high') }), s('path', { class: 'band50', d: area('lower', 'upper') }), s('path', { class: 'median', d: 'M' + path('median').join('L') })];
  }
  running(f) {
    if (!f.running) return [];
    const width = Math.max(5, this.x(f.first_step + f.step_ms) - this.x(f.first_step)), x = this.x(f.first_step);
    const bar = (name, v) => s('rect', { class: name, x, width, y: this.y(v), height: this.y(0) - this.y(v) });
    return [bar('ghost', f.running.expected_step.mean), bar('run', f.running.observed)];
  }
  sold() {
    const alone = this.past.filter((p, i) => p.sold != null && this.past[i - 1]?.sold == null && this.past[i + 1]?.sold == null);
    return [s('path', { class: 'sold', d: line(this.past.map(p => p.sold), (i, v) => this.point(this.past[i].t, v)) }),
      ...alone.map(p => s('circle', { class: 'alone', cx: this.x(p.t + this.half), cy: this.y(p.sold), r: 2 }))];
  }
  moments(f, from, width, height) {
    const { alert } = this, now = this.x(f.as_of), bottom = height - MARGIN.bottom;
    const at = alert && Math.max(MARGIN.left, this.x(alert.starts_at)), near = alert && now - at < 70;
    return [
      alert && s('rect', { class: 'alert-span', x: at, y: MARGIN.top, width: Math.max(0, now - at), height: bottom - MARGIN.top }),
      s('line', { class: 'now', x1: now, x2: now, y1: MARGIN.top - 4, y2: bottom }),
      s('text', { x: Math.min(now + (near ? 9 : 4), width - 62), y: MARGIN.top - 7 }, `now ${format.clock(f.as_of)}`),
      alert && s('line', { class: 'alert', x1: at, x2: at, y1: MARGIN.top, y2: bottom }),
      alert && s('path', { class: 'alert-mark', d: `M${at - 6},${MARGIN.top - 11}h12l-6,11Z` }),
      alert && at > MARGIN.left + 80 && s('text', { class: 'alert-text', x: at - 9, y: MARGIN.top - 7, 'text-anchor': 'end' }, `${format.kind(alert.kind).toLowerCase()} ${format.clock(alert.starts_at)}`),
    ].filter(Boolean);
  }
  cross() {
    const p = this.at == null ? null : this.points[this.at];
    if (!p) { this.mark?.replaceChildren(); put(this.readout, 'Point at the chart, or focus it and press the arrow keys.'); return; }
    const x = this.x(p.t + this.half), value = p.running ? p.running.observed : p.median ?? p.sold;
    this.mark.replaceChildren(s('line', { class: 'cross', x1: x, x2: x, y1: MARGIN.top, y2: this.box.clientHeight - MARGIN.bottom }),
      ...(value == null ? [] : [s('circle', { class: 'dot', cx: x, cy: this.y(value), r: 4 })]));
    const b = text => h('b', {}, text), n = format.units, when = format.day(p.t);
    this.readout.replaceChildren(...(
      p.running ? [`${when}  sold so far `, b(n(p.running.observed)), `, the whole of it likely ${n(p.running.expected_step.mean)}`]
        : p.median != null ? [`${when}  median `, b(n(p.median)), `   50 % ${n(p.lower)}–${n(p.upper)}   90 % ${n(p.low)}–${n(p.high)}`]
          : p.sold == null ? [`${when}  not known: gap in the data`] : [`${when}  sold `, b(n(p.sold))]));
  }
}
