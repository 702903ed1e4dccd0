// Leaderboards: who rises and falls fastest against its own expectation, with a confidence.
import { $, h, put, set, spark } from './dom.js';
import * as format from './format.js';
import { path } from './exceptions.js';

export function drawMovers(state) {
  for (const button of document.querySelectorAll('[data-board]')) set(button, 'aria-pressed', String(button.dataset.board === state.mode));
  if (!state.board) return;
  const board = state.mode === 'categories' ? state.board.categories : state.board;
  for (const side of ['rising', 'falling']) drawSide($(side), board[side], state);
}
function drawSide(list, movers, state) {
  const products = state.mode === 'products';
  if (list.dataset.mode !== state.mode) { list.dataset.mode = state.mode; list.replaceChildren(); }
  if (!movers.length) { if (!list.querySelector('.none')) list.replaceChildren(h('li', { class: 'none' }, 'Nothing that could not be chance')); return; }
  list.querySelector('.none')?.remove();
  while (list.children.length > movers.length) list.lastElementChild.remove();
  movers.forEach((mover, i) => {
    const row = list.children[i] ?? list.appendChild(h('li', { class: 'row' }, h(products ? 'a' : 'button', { class: 't' }), h('span', { class: 'x' }), h('span')));
    const [name, change, line] = row.children;
    if (row.dataset.id !== mover.id) {
      row.dataset.id = mover.id;
      if (products) { set(name, 'href', path(mover.id)); set(name, 'data-link', ''); } else { set(name, 'type', 'button'); set(name, 'data-category', mover.id); }
    }
    put(name, mover.title);
    put(change, format.percent(mover.change));
    set(row, 'title', `${format.units(mover.observed)} sold this hour, ${format.units(mover.expected)} expected by now: ${(mover.confidence * 100).toFixed(mover.confidence > .99 ? 1 : 0)} % sure`);
    set(change, 'data-confidence', String(mover.confidence));
    const values = mover.spark.join();
    if (line.dataset.values !== values) { line.dataset.values = values; line.replaceChildren(spark(mover.spark, 52)); }
    row.classList.toggle('selected', products && mover.id === state.selected);
  });
}
