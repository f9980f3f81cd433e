// The switchboard: layers upwards, experts across, what a steering does drawn over what the trace measured.
// A click sends one cell, a drag a box of cells; arrow keys walk, Enter clicks. Python answers with new states.

const LEFT = 46, BOTTOM = 34, TOP = 4, NARROWEST = 4;
const STATES = ["neutral", "off", "on", "zero", "low", "up", "down"];

const decode = (text, Kind) => new Kind(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);

const element = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

const parts = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

// The colour between two stops: `stops` are values that rise, `shades` their colours.
function colour(board, value) {
  if (Number.isNaN(value)) return board.missing;
  const { stops, shades } = board;
  let low = stops.findLastIndex((stop) => stop <= value);
  low = Math.min(Math.max(low, 0), stops.length - 2);
  const share = Math.min(Math.max((value - stops[low]) / (stops[low + 1] - stops[low]), 0), 1);
  const [a, b] = [shades[low], shades[low + 1]];
  return `rgb(${a.map((v, i) => Math.round(v + (b[i] - v) * share)).join(",")})`;
}

// The sign of one state in a square: a cross, a filled disc, a ring, arrows.
function sign(ctx, board, state, x, y, w, h) {
  if (!state) return;
  const pad = w > 10 && h > 10 ? 1 : 0;
  ctx.fillStyle = state === 2 ? board.steered : board.background;
  ctx.fillRect(x + pad, y + pad, w - 2 * pad, h - 2 * pad);
  ctx.strokeStyle = ctx.fillStyle = board.steered;
  ctx.lineWidth = Math.min(w, h) > 12 ? 1.75 : 1.2;
  ctx.strokeRect(x + pad + 0.75, y + pad + 0.75, w - 2 * pad - 1.5, h - 2 * pad - 1.5);
  const r = Math.min(w, h) / 4, cx = x + w / 2, cy = y + h / 2;
  ctx.beginPath();
  if (state === 1) {
    ctx.moveTo(cx - r, cy - r); ctx.lineTo(cx + r, cy + r);
    ctx.moveTo(cx + r, cy - r); ctx.lineTo(cx - r, cy + r);
  } else if (state === 2) {
    ctx.strokeStyle = board.background;
    ctx.moveTo(cx - r, cy); ctx.lineTo(cx - r / 4, cy + r * 0.8); ctx.lineTo(cx + r, cy - r * 0.8);
  } else if (state === 3) {
    ctx.arc(cx, cy, r, 0, 7);
  } else if (state === 4) {
    ctx.moveTo(cx - r, cy); ctx.lineTo(cx + r, cy);
  } else {
    const up = state === 5 ? 1 : -1;
    ctx.moveTo(cx - r, cy + r * 0.6 * up); ctx.lineTo(cx, cy - r * 0.7 * up); ctx.lineTo(cx + r, cy + r * 0.6 * up);
  }
  ctx.stroke();
}

function sized(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const ctx = canvas.getContext("2d");
  ctx.setTransform(scale, 0, 0, scale, 0, 0);
  return ctx;
}

function measure(board, width) {
  const rows = board.rows.length;
  board.step = Math.min(Math.max(540 / rows, 9), 30);
  board.widest = Math.max(...board.rows.map((row) => row.experts));
  const marks = board.rows.some((row) => row.rules.length) ? 14 : 0;
  board.cell = Math.max((width - LEFT - marks) / board.widest, NARROWEST);
  board.width = Math.max(LEFT + board.cell * board.widest + marks, 120);
  board.height = TOP + board.step * rows + BOTTOM;
}

const place = (board, row, expert) => [
  LEFT + expert * board.cell, TOP + (board.rows.length - 1 - row) * board.step, board.cell, board.step,
];

function labels(ctx, board) {
  ctx.font = `11px ${board.font}`;
  ctx.fillStyle = board.muted;
  ctx.textBaseline = "middle";
  ctx.textAlign = "right";
  const everyRow = [1, 2, 5, 10, 20].find((n) => n * board.step >= 11) || 20;
  board.rows.forEach((row, r) => {
    const [, y, , h] = place(board, r, 0);
    if (r % everyRow === 0) ctx.fillText(row.label, LEFT - 7, y + h / 2);
  });
  ctx.textAlign = "center";
  const every = [1, 2, 4, 8, 16, 32, 64, 128].find((n) => n * board.cell >= 20) || 128;
  const below = TOP + board.rows.length * board.step;
  for (let e = 0; e < board.widest; e += every) ctx.fillText(e, LEFT + (e + 0.5) * board.cell, below + 10);
  ctx.textAlign = "left";
  ctx.fillText("expert", LEFT, below + 25);
  ctx.save();
  ctx.translate(9, below);
  ctx.rotate(-Math.PI / 2);
  ctx.fillText(below > 140 ? "layer: input → output" : "in → out", 0, 0);
  ctx.restore();
}

// All that stays as it is while a hand moves over the board: painted once, then copied.
function paint(board) {
  board.base = document.createElement("canvas");
  const ctx = sized(board.base, board.width, board.height);
  const gap = board.cell > 8 && board.step > 8 ? 1 : 0;
  board.rows.forEach((row, r) => {
    for (let e = 0; e < row.experts; e++) {
      const [x, y, w, h] = place(board, r, e);
      ctx.fillStyle = colour(board, board.values[row.start + e]);
      ctx.fillRect(x, y, w - gap, h - gap);
      sign(ctx, board, board.states[row.start + e], x, y, w - gap, h - gap);
    }
    if (row.rules.length) {
      const [x, y, , h] = place(board, r, row.experts);
      ctx.fillStyle = board.steered;
      ctx.fillRect(x + 5, y + 1, 4, h - 3);
    }
  });
  labels(ctx, board);
}

function draw(board) {
  const ctx = sized(board.canvas, board.width, board.height);
  ctx.drawImage(board.base, 0, 0, board.width, board.height);
  if (board.at) outline(ctx, board, place(board, board.at[0], board.at[1]));
  if (board.box) outline(ctx, board, board.box, true);
}

function outline(ctx, board, [x, y, w, h], dashed) {
  ctx.save();
  ctx.strokeStyle = dashed ? board.steered : board.text;
  ctx.lineWidth = 1.5;
  if (dashed) {
    ctx.setLineDash([4, 3]);
    ctx.globalAlpha = 0.12;
    ctx.fillStyle = board.steered;
    ctx.fillRect(x, y, w, h);
    ctx.globalAlpha = 1;
  }
  ctx.strokeRect(x, y, w - 1, h - 1);
  ctx.restore();
}

function hit(board, [x, y]) {
  const row = board.rows.length - 1 - Math.floor((y - TOP) / board.step);
  const expert = Math.floor((x - LEFT) / board.cell);
  const known = board.rows[row];
  return known && expert >= 0 && expert < known.experts ? [row, expert] : null;
}

function within(board, [x, y, w, h]) {
  const found = [];
  board.rows.forEach((row, r) => {
    for (let e = 0; e < row.experts; e++) {
      const [cx, cy, cw, ch] = place(board, r, e);
      const [mx, my] = [cx + cw / 2, cy + ch / 2];
      if (mx >= x && mx <= x + w && my >= y && my <= y + h) found.push([r, e]);
    }
  });
  return found;
}

function describe(board, row, expert) {
  const known = board.rows[row];
  const value = board.values[known.start + expert];
  const state = STATES[board.states[known.start + expert]];
  const number = Number.isNaN(value) ? "not recorded" : `${(value * board.factor).toFixed(board.digits)}${board.unit}`;
  const lines = [`${board.label}: ${number}`];
  if (state !== "neutral") lines.push(`steered: ${state}`);
  if (known.rules.length) lines.push(`whole layer: ${known.rules.join(", ")}`);
  return [`${known.stream === "decoder" ? "Layer" : known.stream} ${known.layer}, expert ${expert}`, ...lines];
}

function tell(root, board) {
  root.querySelector(".ms-board-tip")?.remove();
  if (!board.at || board.box) return;
  const [head, ...lines] = describe(board, ...board.at);
  const tip = element("div", "ms-board-tip");
  tip.append(element("b", "", head), ...lines.map((line) => element("div", "", line)));
  root.append(tip);
  const [x, y, w, h] = place(board, ...board.at);
  const scroll = root.querySelector(".ms-board-scroll");
  const left = Math.min(x + w / 2 - scroll.scrollLeft, root.clientWidth - tip.offsetWidth - 4);
  const top = scroll.offsetTop + y;
  tip.style.left = `${Math.max(left, 0)}px`;
  tip.style.top = top > tip.offsetHeight + 10 ? `${top - tip.offsetHeight - 6}px` : `${top + h + 6}px`;
  root.querySelector(".ms-board-said").textContent = [head, ...lines].join(", ");
}

function key(root, board) {
  const box = element("div", "ms-board-key");
  const ramp = element("span", "ms-ramp");
  const [first, last] = [board.stops[0], board.stops.at(-1)];
  const stops = board.colors.map((c, i) => `${c} ${(100 * (board.stops[i] - first)) / (last - first)}%`).join(",");
  ramp.style.background = `linear-gradient(90deg,${stops})`;
  const most = `${(board.top * board.factor).toFixed(board.digits)}${board.unit}`;
  const least = board.diverging ? `−${most}` : "0";
  const scale = element("span", "");
  scale.append(element("span", "", `${board.label}${board.by_percentile ? ", colours by percentile" : ""}: ${least}`), ramp, element("span", "", most));
  box.append(scale);
  for (const state of board.key) {
    const item = element("span");
    const square = element("canvas");
    sign(sized(square, 14, 14), board, state, 0, 0, 14, 14);
    item.append(square, element("span", "", STATES[state]));
    box.append(item);
  }
  return box;
}

function listen(root, board, send) {
  let from = null;
  const where = (event) => {
    const rect = board.canvas.getBoundingClientRect();
    return [event.clientX - rect.left, event.clientY - rect.top];
  };
  const refresh = () => { draw(board); tell(root, board); };
  const cells = (found) => found.map(([r, e]) => [board.rows[r].stream, board.rows[r].layer, e]);
  board.canvas.onpointerdown = (event) => {
    if (event.button !== 0) return;
    from = where(event);
    board.canvas.setPointerCapture(event.pointerId);
  };
  board.canvas.onpointermove = (event) => {
    const [x, y] = where(event);
    const far = from && Math.hypot(x - from[0], y - from[1]) > 5;
    board.box = far || (from && board.box) ? [Math.min(x, from[0]), Math.min(y, from[1]), Math.abs(x - from[0]), Math.abs(y - from[1])] : null;
    board.at = board.box ? null : hit(board, [x, y]);
    refresh();
  };
  board.canvas.onpointerup = (event) => {
    if (!from) return;
    const chosen = board.box ? within(board, board.box) : [hit(board, where(event))].filter(Boolean);
    from = board.box = null;
    refresh();
    if (chosen.length) send(cells(chosen));
  };
  board.canvas.onpointercancel = () => { from = board.box = null; refresh(); };
  board.canvas.onpointerleave = () => { if (!from) { board.at = null; refresh(); } };
  board.canvas.onkeydown = (event) => {
    const steps = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    if (step) {
      const [row, expert] = board.at || [0, -1];
      const next = Math.min(Math.max(row + step[0], 0), board.rows.length - 1);
      board.at = [next, Math.min(Math.max(expert + step[1], 0), board.rows[next].experts - 1)];
      refresh();
      event.preventDefault();
    } else if ((event.key === "Enter" || event.key === " ") && board.at) {
      send(cells([board.at]));
      event.preventDefault();
    }
  };
}

// While a page loads, styles and widgets above come late and push the board about. Until it has kept its place for a
// moment it stands there faded and takes no hand, so that nobody clicks beside a cell.
const REST_MS = 400, PATIENCE_MS = 4000;

function settle(root) {
  if (root.settling || root.dataset.settled) return;
  root.settling = true;
  const began = performance.now();
  let last = "", since = began;
  const look = (now) => {
    const { x, y, width } = root.getBoundingClientRect();
    const styled = getComputedStyle(root).getPropertyValue("--ms-steered");
    const here = [styled, x, y, width].join();
    if (here !== last || !styled) [last, since] = [here, now];
    if (!root.isConnected) root.settling = false;
    else if (now - since < REST_MS && now - began < PATIENCE_MS) requestAnimationFrame(look);
    else root.dataset.settled = "yes";
  };
  requestAnimationFrame(look);
}

export default function ({ data, parentElement, setTriggerValue }) {
  let root = parentElement.querySelector(".ms-board");
  if (!root) {
    root = element("div", "ms-board");
    const scroll = element("div", "ms-board-scroll");
    const canvas = element("canvas");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    scroll.append(canvas);
    const said = element("div", "ms-board-said");
    said.setAttribute("aria-live", "polite");
    root.append(element("div", "ms-board-key"), scroll, said);
    parentElement.append(root);
    root.board = { canvas };
    // A trigger that is sent before the last one was taken replaces it: every message has all edits that Python has not
    // told to have taken.
    root.mount = Math.random().toString(36).slice(2);
    root.edits = [];
    root.number = 0;
    listen(root, root.board, (cells) => {
      root.edits.push({ number: ++root.number, cells });
      root.send({ mount: root.mount, edits: root.edits });
    });
  }
  root.send = (edit) => setTriggerValue("edit", edit);
  const taken = data.taken && data.taken.mount === root.mount ? data.taken.number : 0;
  root.edits = root.edits.filter((edit) => edit.number > taken);
  const board = root.board;
  if (board.version !== data.version) {
    Object.assign(board, data, {
      values: decode(data.values, Float32Array), states: decode(data.states, Uint8Array),
      font: getComputedStyle(root).fontFamily, shades: data.colors.map(parts),
    });
    board.canvas.setAttribute("aria-label", data.name);
    root.querySelector(".ms-board-key").replaceWith(key(root, board));
  }
  const scroll = root.querySelector(".ms-board-scroll");
  const more = () => root.classList.toggle("ms-more", scroll.scrollLeft + scroll.clientWidth < board.width - 2);
  scroll.onscroll = more;
  const fit = () => {
    measure(board, root.clientWidth || 600);
    paint(board);
    draw(board);
    more();
    Object.assign(board.canvas.dataset, { left: LEFT, top: TOP, cell: board.cell, step: board.step });
    board.canvas.dataset.states = board.states.join("");
    tell(root, board);
  };
  fit();
  settle(root);
  const watch = new ResizeObserver(fit);
  watch.observe(root);
  return () => watch.disconnect();
}
