// Elements by hand: everything that comes from outside becomes text or an attribute, never markup.
const NS = 'http://www.w3.org/2000/svg';

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value == null || value === false) continue;
    element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat().filter(child => child != null && child !== false));
  return element;
}
export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => fill(document.createElementNS(NS, tag), attributes, children);
export const $ = id => document.getElementById(id);
// Only what differs is written: an unchanged text costs no layout and keeps a selection.
export const put = (element, text) => { if (element.textContent !== text) element.textContent = text; };
export const set = (element, name, value) => { if (element.getAttribute(name) !== value) element.setAttribute(name, value); };

// A line of past demand; what is not known is a break, never a zero.
export function line(values, point) {
  return values.map((v, i) => v == null ? '' : (i && values[i - 1] != null ? 'L' : 'M') + point(i, v)).join('');
}

export function spark(values, width = 58, height = 20) {
  const top = Math.max(1, ...values.map(v => v ?? 0)), last = values.length - 1;
  const x = i => 1 + i * (width - 4) / Math.max(last, 1), y = v => height - 2 - v / top * (height - 4);
  const path = line(values, (i, v) => `${x(i).toFixed(1)},${y(v).toFixed(1)}`);
  return s('svg', { class: 'spark', viewBox: `0 0 ${width} ${height}`, 'aria-hidden': 'true' },
    s('path', { d: path || 'M0,0' }), values[last] != null && s('circle', { cx: x(last), cy: y(values[last]), r: 2 }));
}

// Severity is a shape: a filled diamond is critical, an outlined triangle a warning.
export const severity = (level, what) => s('svg', { class: 'severity', viewBox: '0 0 16 16', role: 'img', 'aria-label': `${level}, ${what}` },
  level === 'critical' ? s('path', { class: 'critical', d: 'M8 0 16 8 8 16 0 8Z' }) : s('path', { class: 'warning', d: 'M8 2 14.5 14H1.5Z' }));
