// Server-sent events over fetch: EventSource hides status codes and cannot be told to come back later with a position of ours.
const SILENCE_MS = 12_000, LAG_MS = 6_000, MAX_WAIT_MS = 15_000;

export class SignedOut extends Error {}

// `since()` is asked at every attempt; `on` has frame(data, id), reset(), down({ attempt, at }), signedOut().
export function openStream(url, since, on) {
  let stopped = false, abort = null, timer = 0, watchdog = 0, attempt = 0, fastest = Infinity;

  function alive() {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => abort?.abort('silent'), SILENCE_MS);
  }
  async function connect() {
    abort = new AbortController();
    const { signal } = abort;
    alive();
    try {
      const response = await fetch(url, { headers: { accept: 'text/event-stream', 'last-event-id': since() }, signal, cache: 'no-store' });
      if (response.status === 401) throw new SignedOut();
      if (!response.ok) throw new Error(`status ${response.status}`);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ''; ;) {
        const { value, done } = await reader.read();
        if (done) throw new Error('closed');
        alive();
        const blocks = (text + value).split('\n\n');
        text = blocks.pop();
        for (const block of blocks) if (!stopped) message(block);
      }
    } catch (error) {
      clearTimeout(watchdog);
      if (stopped) return;
      if (error instanceof SignedOut) { stopped = true; on.signedOut(); return; }
      const wait = Math.min(MAX_WAIT_MS, 500 * 2 ** attempt++) * (.6 + Math.random() * .8);
      on.down({ attempt, at: Date.now() + wait });
      timer = setTimeout(connect, wait);
    }
  }
  function message(block) {
    const fields = Object.fromEntries(block.split('\n').map(line => [line.slice(0, line.indexOf(': ')), line.slice(line.indexOf(': ') + 2)]));
    if (fields.event === 'reset') { stop(); on.reset(); return; }
    if (fields.event !== 'frame') return;
    attempt = 0;
    const data = JSON.parse(fields.data), delay = Date.now() - data.sent;
    fastest = Math.min(fastest, delay);   // what the two clocks differ by, and the way
    on.frame(data, fields.id);
    if (delay - fastest > LAG_MS) abort.abort('lagging');   // a tab that slept wakes to a buffer full of old frames: skip them
  }
  function stop() {
    stopped = true;
    clearTimeout(timer); clearTimeout(watchdog);
    abort?.abort('stopped');
  }
  connect();
  return { stop };
}
