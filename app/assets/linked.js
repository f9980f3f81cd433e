// One choice, marked everywhere: the expert that the address names (?cell=stream.layer.expert) in every figure, table and
// text of the page, and on the switchboard; and the token that was clicked in a text or a grid of tokens in both. Nothing is sent or drawn anew for it.
// Follows marks.js.

const CELLS = [
  ["layer", "expert"], ["layer_across", "across"], ["layer_upwards", "upwards"], ["layer", "from_expert"], ["layer", "to_expert"],
];
const MOST_RINGS = 400;

function chosenCell() {
  const parts = (new URL(location).searchParams.get("cell") ?? "").split(".");
  const [layer, expert] = parts.slice(-2).map(Number);
  return parts.length < 3 || Number.isNaN(layer + expert) ? null : { stream: parts.slice(0, -2).join("."), layer, expert };
}

const isCell = (datum, cell, [layer, expert]) =>
  datum[layer] === cell.layer && datum[expert] === cell.expert && (datum.stream ?? cell.stream) === cell.stream;

const hull = (boxes) => {
  const left = Math.min(...boxes.map((b) => b.x - b.width / 2)), right = Math.max(...boxes.map((b) => b.x + b.width / 2));
  const top = Math.min(...boxes.map((b) => b.y - b.height / 2)), bottom = Math.max(...boxes.map((b) => b.y + b.height / 2));
  return { x: (left + right) / 2, y: (top + bottom) / 2, width: right - left, height: bottom - top };
};

// An expert's own marks are ringed one by one, its row or column of a map of pairs as a whole.
function ringsOf(figure, cell, position) {
  const marks = layersOf(figure).filter((layer) => layer[0]?.tooltip || figure.matches(PLOTLY)).flat();
  const rings = [];
  if (cell) {
    CELLS.forEach((names, pair) => {
      const found = marks.filter(({ datum }) => isCell(datum, cell, names)).map((mark) => mark.place());
      rings.push(...(pair && found.length ? [hull(found)] : found));
    });
  }
  if (position !== undefined) {
    const column = marks.filter(({ datum }) => datum.position === position).map((mark) => mark.place());
    if (column.length) rings.push(hull(column));
  }
  return rings.slice(0, MOST_RINGS);
}

function ring(figure, boxes) {
  const told = boxes.map((b) => [b.x, b.y, b.width, b.height].map(Math.round)).join(";");
  const there = [...figure.querySelectorAll(":scope > .ms-linked")];
  if (figure.msRings === told && there.length === boxes.length) return;
  figure.msRings = told;
  there.forEach((one) => one.remove());
  for (const { x, y, width, height } of boxes) {
    const made = document.createElement("div");
    made.className = "ms-linked";
    const wide = Math.max(width, 6) + 4, high = Math.max(height, 6) + 4;
    Object.assign(made.style, { left: `${x - wide / 2}px`, top: `${y - high / 2}px`, width: `${wide}px`, height: `${high}px` });
    figure.append(made);
  }
}

// The token that was chosen: `text` numbers the texts of the page, as the grids beneath them are numbered.
let chosenToken = null;

const textRoots = () => [...document.querySelectorAll('.stMain [data-testid="stBidiComponentIsolated"]')]
  .map((one) => one.shadowRoot?.querySelector(".ms-tokens")).filter(Boolean);

const gridNumber = (figure) => {
  const within = figure.closest('[class*="st-key-token-grid-"], .st-key-prompt-grid');
  const number = /st-key-token-grid-(\d+)/.exec(within?.className ?? "");
  return within ? (number ? number[1] - 1 : 0) : null;
};

// A click on a grid of tokens chooses the token of the cell.
function chooseToken(event) {
  const inText = event.composedPath().find((one) => one.dataset?.position !== undefined && one.matches?.(".ms-token, .ms-compared *"));
  if (inText) chosenToken = { page: location.pathname, text: +(inText.dataset.prompt ?? 0), position: +inText.dataset.position };
  const figure = event.target.closest?.(VEGA);
  const text = figure && gridNumber(figure);
  if (text === null || text === undefined) return;
  const { left, top } = figure.getBoundingClientRect();
  const [x, y] = [event.clientX - left, event.clientY - top];
  const inside = (b) => Math.abs(x - b.x) <= b.width / 2 && Math.abs(y - b.y) <= b.height / 2;
  const found = layersOf(figure).flat().find((mark) => mark.tooltip && mark.datum.position !== undefined && inside(mark.place()));
  if (found) chosenToken = { page: location.pathname, text, position: found.datum.position };
}

// Rows of a table that are about the expert. The grid paints on a canvas; what it shows stands in a table for screen readers
// inside, which holds the rows in sight.
function rowRings(table, cell) {
  const grid = table.querySelector("canvas table"), scroller = table.querySelector(".dvn-scroller");
  const stack = table.querySelector(".dvn-stack"), canvas = table.querySelector("canvas");
  if (!grid || !scroller || !stack) return [];
  const heads = [...grid.querySelectorAll("th")];
  const [layer, expert, stream] = ["layer", "expert", "stream"].map((name) =>
    heads.find((head) => head.textContent.trim() === name)?.getAttribute("aria-colindex"));
  if (!layer || !expert) return [];
  const text = (row, column) => row.querySelector(`td[aria-colindex="${column}"]`)?.textContent;
  const high = stack.offsetHeight / grid.getAttribute("aria-rowcount");
  const frame = table.getBoundingClientRect(), here = canvas.getBoundingClientRect();
  return [...grid.querySelectorAll("tbody tr")]
    .filter((row) => text(row, layer) === `${cell.layer}` && text(row, expert) === `${cell.expert}` &&
      (!stream || text(row, stream) === cell.stream))
    .map((row) => (row.getAttribute("aria-rowindex") - 0.5) * high - scroller.scrollTop)
    .filter((middle) => middle > high && middle < here.height) // neither under the head nor below the frame
    .map((middle) => ({
      x: here.left - frame.left + scroller.clientWidth / 2, y: here.top - frame.top + middle,
      width: scroller.clientWidth - 6, height: high - 6,
    }));
}

// The expert's cell on the switchboard, which knows where its cells are.
function boardRings({ board }, cell) {
  const row = board?.rows?.findIndex((one) => one.layer === cell.layer && one.stream === cell.stream) ?? -1;
  if (row < 0 || cell.expert >= board.rows[row].experts) return [];
  const { left, top, cell: width, step: height } = board.canvas.dataset;
  return [{ x: +left + (cell.expert + 0.5) * width, y: +top + (board.rows.length - 0.5 - row) * height, width: +width, height: +height }];
}

function link() {
  const cell = chosenCell();
  if (chosenToken && chosenToken.page !== location.pathname) chosenToken = null;
  for (const figure of document.querySelectorAll(`.stMain :is(${VEGA}, ${PLOTLY})`)) {
    const token = chosenToken && gridNumber(figure) === chosenToken.text ? chosenToken.position : undefined;
    ring(figure, (cell || token !== undefined) && figure.offsetParent ? ringsOf(figure, cell, token) : []);
  }
  for (const table of document.querySelectorAll('.stMain [data-testid="stDataFrame"]')) {
    ring(table, cell && table.offsetParent ? rowRings(table, cell) : []);
  }
  for (const one of document.querySelectorAll('.stMain [data-testid="stBidiComponentIsolated"]')) {
    const root = one.shadowRoot?.querySelector(".ms-board");
    if (root) ring(root.querySelector(".ms-board-scroll"), cell ? boardRings(root, cell) : []);
  }
  for (const root of textRoots()) {
    const here = cell && +root.dataset.layer === cell.layer && root.dataset.stream === cell.stream ? `${cell.expert}` : null;
    for (const span of root.querySelectorAll(".ms-token")) {
      span.classList.toggle("ms-linked", here !== null && span.dataset.experts.split(" ").includes(here));
      span.classList.toggle("ms-chosen", isToken(span));
    }
  }
  for (const span of document.querySelectorAll(".ms-compared [data-position]")) span.classList.toggle("ms-linked-token", isToken(span));
}

const isToken = ({ dataset }) => {
  const last = +dataset.position + +(dataset.tokens ?? 1) - 1;
  return !!chosenToken && +(dataset.prompt ?? 0) === chosenToken.text && chosenToken.position >= +dataset.position && chosenToken.position <= last;
};
