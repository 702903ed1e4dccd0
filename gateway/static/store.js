// What the page knows, and what a frame does to it. Pure but for the clock that it is given.
export const STALE_MS = 8_000;

export function newState() {
  return {
    alerts: new Map(), board: null, categories: [], detail: null, missing: null, selected: null, filter: 'all', category: '', mode: 'products',
    about: null, received: 0, position: null, conn: 'loading', down: null, paused: false, news: [],
  };
}
const number = position => +position.slice(position.lastIndexOf('-') + 1);
const epoch = position => position.slice(0, position.lastIndexOf('-'));
// The position from which a stream misses nothing of either; null where they are of two processes.
export const earlier = (a, b) => epoch(a) !== epoch(b) ? null : number(a) <= number(b) ? a : b;

export function takeSnapshot(state, snapshot, now) {
  const first = state.position == null, known = state.alerts;
  state.alerts = new Map(snapshot.alerts.map(alert => [alert.alert_id, alert]));
  if (!first) state.news.push(...snapshot.alerts.filter(alert => !known.has(alert.alert_id) && !alert.replay));
  state.board = snapshot.board;
  state.categories = snapshot.categories;
  takeAbout(state, snapshot, now);
  state.position = snapshot.position;
}
export function takeDetail(state, detail) {
  state.detail = detail;
  state.missing = null;
}
export function takeFrame(state, frame, id, now) {
  for (const row of frame.rows) {
    if (row.gone) { if (state.detail?.row.id === row.id) { state.detail = null; state.missing = 'evicted'; } continue; }
    for (const alert of state.alerts.values()) if (alert.product_id === row.id) alert.row = row;
  }
  for (const alert of frame.alerts) {
    if (alert.status !== 'firing') { state.alerts.delete(alert.alert_id); continue; }
    if (!state.alerts.has(alert.alert_id) && !alert.replay) state.news.push(alert);
    state.alerts.set(alert.alert_id, alert);
  }
  if (frame.product && frame.product.row.id === state.selected) takeDetail(state, frame.product);
  if (frame.board) state.board = frame.board;
  takeAbout(state, frame, now);
  state.position = id;
}
function takeAbout(state, { now, speed, valid_until, silent_ms }, received) {
  state.about = { now, speed, valid_until, silent_ms };
  state.received = received;
}
// The shop's time: it goes on between two frames, at its own speed.
export const shopTime = (state, now) => state.about ? state.about.now + (now - state.received) * state.about.speed : now;

// live, paused, loading, stale (with what and since when), down.
export function condition(state, now) {
  if (state.conn === 'down' || state.conn === 'loading') return { name: state.conn };
  if (state.paused) return { name: 'paused' };
  if (now - state.received > STALE_MS) return { name: 'stale', why: 'silent', ms: now - state.received };
  if (state.about.silent_ms) return { name: 'stale', why: 'kafka', ms: state.about.silent_ms };
  if (state.about.valid_until && shopTime(state, now) > state.about.valid_until) return { name: 'stale', why: 'old' };
  return { name: 'live' };
}

const short = alert => alert.row?.short > 0;
export const acknowledged = alert => alert.acknowledged_at != null;
export const FILTERS = {
  all: ['All', () => true],
  short: ['Stock risk', alert => short(alert) || alert.kind === 'stockout_risk'],
  surge: ['Surge', alert => alert.kind === 'spike'],
  drop: ['Drop', alert => alert.kind === 'drop'],
  suspicious: ['Suspicious', alert => alert.kind.startsWith('suspicious')],
  open: ['Not acknowledged', alert => !acknowledged(alert)],
};
const inCategory = (state, alert) => !state.category || alert.row?.category === state.category;
export const matching = (state, filter) => [...state.alerts.values()].filter(alert => FILTERS[filter][1](alert) && inCategory(state, alert));
// Not acknowledged first, critical, greatest value at risk, newest.
export const visible = state => matching(state, state.filter).sort((a, b) =>
  acknowledged(a) - acknowledged(b) || (a.severity !== 'critical') - (b.severity !== 'critical')
  || (b.row?.risk ?? 0) - (a.row?.risk ?? 0) || b.starts_at - a.starts_at || (a.alert_id < b.alert_id ? -1 : 1));
export const shortOnes = state => [...state.alerts.values()].filter(short);
