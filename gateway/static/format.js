// Numbers and times for people, in the browser's language and time zone. Pure.
export const HOUR = 3_600_000;
const two = { hour: '2-digit', minute: '2-digit' };

export const units = v => v >= 100 ? Math.round(v).toLocaleString() : v >= 10 ? v.toFixed(0) : Number.isInteger(v) ? String(v) : v.toFixed(1);
export const times = (observed, expected) => observed >= expected ? `×${(observed / Math.max(expected, .1)).toFixed(1)}` : `÷${(expected / Math.max(observed, .1)).toFixed(1)}`;
export const signed = v => (v > 0 ? '+' : '−') + units(Math.abs(v));
export const percent = v => (v > 0 ? '+' : '−') + Math.abs(v * 100).toFixed(0) + ' %';
export const clock = ms => new Date(ms).toLocaleTimeString([], two);
export const seconds = ms => new Date(ms).toLocaleTimeString();
export const day = ms => new Date(ms).toLocaleString([], { weekday: 'short', ...two });
export const date = ms => new Date(ms).toLocaleDateString([], { weekday: 'short', day: 'numeric' });
export const age = ms => ms < 60e3 ? 'now' : ms < HOUR ? `${Math.floor(ms / 6e4)} min` : ms < 48 * HOUR ? `${Math.floor(ms / HOUR)} h ${Math.floor(ms % HOUR / 6e4)} min` : `${Math.floor(ms / 24 / HOUR)} d`;
export const span = ms => ms >= 72 * HOUR ? `${(ms / 24 / HOUR).toFixed(ms % (24 * HOUR) ? 1 : 0)} d` : `${Math.round(ms / HOUR)} h`;
export const money = v => v >= 1e6 ? `${(v / 1e6).toFixed(1)}M` : v >= 1e4 ? `${(v / 1e3).toFixed(1)}k` : Math.round(v).toLocaleString();

// Every `every`-th hour of the local day in [from, to], right on days of 23 and 25 hours too.
export function localHours(from, to, every) {
  const at = new Date(from), found = [];
  at.setMinutes(0, 0, 0);
  for (let ms = +at; ms <= to; ms += HOUR) if (ms >= from && new Date(ms).getHours() % every === 0 && new Date(ms).getMinutes() === 0) found.push(ms);
  return found.filter((ms, i) => !i || new Date(ms).getHours() !== new Date(found[i - 1]).getHours() || ms - found[i - 1] > HOUR);   // 02:00 twice: once
}

export function ticks(top, wanted = 5) {
  const raw = top / wanted, power = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 5, 10].find(k => k * power >= raw) * power;
  return Array.from({ length: Math.floor(top / step) + 1 }, (_, i) => +(i * step).toPrecision(6));
}

const KINDS = { spike: 'Surge', drop: 'Drop' };
export const kind = name => KINDS[name] ?? name.replaceAll('_', ' ').replace(/^./, c => c.toUpperCase()).replace(/^Stockout risk$/, 'Stock risk');

const DRIVERS = {
  traffic: 'people who looked', cart_rate: 'carts per view', checkout_rate: 'orders per cart', conversion: 'orders per view', orders: 'orders',
  order_size: 'units per order', stock_out: 'out of stock', promotion: 'promotion', price: 'price', forecast: 'forecast is usually off',
};
export const driver = name => DRIVERS[name] ?? name.replaceAll('_', ' ');
