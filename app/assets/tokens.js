// Prompts as text, each token with a stripe in its first expert's colour at one layer; a slider walks through
// the layers without a round trip. Where a vocabulary splits characters, the text is the characters and the stripe
// beneath them has a piece a token. Every string from a prompt enters the page as textContent, never as markup.

const decode = (text, Kind) => new Kind(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);

const element = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

function slots(prompt, layer, token) {
  const { ids, weights, width } = prompt;
  const start = (layer * prompt.token_ids.length + token) * width;
  const found = [];
  for (let slot = start; slot < start + width && ids[slot] >= 0; slot++) {
    found.push({ expert: ids[slot], weight: weights ? weights[slot] : null });
  }
  return found;
}

function card(state, prompt, layer, token) {
  const box = element("div", "ms-card-tip");
  const head = element("div", "ms-tip-head");
  head.append(element("b", "", prompt.shown[token] || "∅"));
  const kind = [`token ${prompt.positions[token]}`, `id ${prompt.token_ids[token]}`];
  if (prompt.flags[token]) kind.push(prompt.flags[token]);
  head.append(element("span", "", kind.join(" · ")));
  box.append(head);
  if (prompt.bytes[token]) box.append(element("div", "ms-tip-foot", `bytes ${prompt.bytes[token]}`));
  for (const { expert, weight } of slots(prompt, layer, token)) {
    const row = element("div", "ms-tip-row");
    const dot = element("i");
    dot.style.background = state.colors[expert % state.colors.length];
    const track = element("span", "ms-track");
    const bar = element("span", "ms-bar");
    bar.style.width = `${Math.max(1, 100 * Math.min(1, weight ?? 0))}%`;
    bar.style.background = dot.style.background;
    track.append(bar);
    row.append(dot, element("span", "ms-id", `expert ${expert}`), track);
    row.append(element("span", "ms-number", weight === null ? "" : weight.toFixed(3)));
    box.append(row);
  }
  if (prompt.entropy) {
    const value = prompt.entropy[layer * prompt.token_ids.length + token];
    box.append(element("div", "ms-tip-foot", `router entropy ${value.toFixed(2)} nats`));
  }
  return box;
}

function paint(root, state) {
  const number = state.layers[state.layer];
  root.querySelector(".ms-layer-name").textContent = `Layer ${number}`;
  root.querySelector("input").value = state.layer;
  Object.assign(root.dataset, { layer: number, stream: state.stream }); // linked.js marks the chosen expert by these
  const uses = new Map();
  for (const prompt of state.prompts) {
    prompt.runs.forEach(([, from, end, sizes], number) => {
      const firsts = [], all = [];
      for (let token = from; token < end; token++) {
        const here = slots(prompt, state.layer, token);
        const first = here[0]?.expert;
        firsts.push(first);
        all.push(...here.map(({ expert }) => expert));
        if (first !== undefined) uses.set(first, (uses.get(first) || 0) + 1);
      }
      stripe(prompt.spans[number], firsts.map((first) => shade(state, first)), sizes, prompt.dir);
      prompt.spans[number].dataset.first = firsts[0] ?? "";
      prompt.spans[number].dataset.firsts = firsts.map((first) => first ?? "").join(" ");
      prompt.spans[number].dataset.experts = all.join(" ");
    });
  }
  const legend = root.querySelector(".ms-legend");
  legend.replaceChildren();
  const most = [...uses].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  for (const [expert, count] of most.slice(0, 14)) {
    const chip = element("button", "ms-chip");
    const dot = element("i");
    dot.style.background = state.colors[expert % state.colors.length];
    chip.append(dot, element("span", "", `${expert}`), element("small", "", `${count}`));
    chip.title = `${count} tokens go first to expert ${expert}`;
    chip.onmouseenter = () => highlight(state, expert);
    chip.onmouseleave = () => highlight(state, null);
    chip.onclick = () => state.pick(number, expert);
    legend.append(chip);
  }
  if (most.length > 14) legend.append(element("small", "", `and ${most.length - 14} more experts`));
}

const shade = (state, expert) => (expert === undefined ? "transparent" : state.colors[expert % state.colors.length]);

// One piece a token, as wide as its share of the bytes, with a gap where tokens meet inside a character.
function stripe(span, shades, sizes, dir) {
  const total = sizes.reduce((sum, size) => sum + size, 0) || 1;
  let at = 0;
  const stops = shades.flatMap((color, index) => {
    const from = (100 * at) / total, to = (100 * (at += sizes[index])) / total;
    const gap = index < shades.length - 1 ? "1px" : "0px";
    return [`${color} ${from}% calc(${to}% - ${gap})`, `transparent calc(${to}% - ${gap}) ${to}%`];
  });
  const way = (dir === "auto" ? getComputedStyle(span).direction : dir) === "rtl" ? "left" : "right";
  span.style.setProperty("--stripes", `linear-gradient(to ${way}, ${stops.join(", ")})`);
  span.style.setProperty("--stripe", shades[0] ?? "transparent");
}

function highlight(state, expert) {
  for (const prompt of state.prompts) {
    for (const span of prompt.spans) {
      span.classList.toggle("ms-dim", expert !== null && !span.dataset.firsts.split(" ").includes(String(expert)));
    }
  }
}

// The token under the pointer: of several that make one character, the one whose piece of the stripe is there.
function tokenAt(state, event) {
  const span = event.target.closest?.(".ms-token");
  if (!span) return null;
  const prompt = state.prompts[+span.dataset.prompt];
  const [, from, end, sizes] = prompt.runs[+span.dataset.run];
  let token = from;
  const inside = ({ left, right, top, bottom }) =>
    event.clientX >= left && event.clientX <= right && event.clientY >= top && event.clientY <= bottom;
  const at = [...span.getClientRects()].find(inside);
  if (at && end - from > 1) {
    const along = (event.clientX - at.left) / (at.width || 1);
    let left = (getComputedStyle(span).direction === "rtl" ? 1 - along : along) * sizes.reduce((sum, size) => sum + size, 0);
    while (token < end - 1 && (left -= sizes[token - from]) > 0) token++;
  }
  return { prompt, span, token };
}

function hover(root, state, event) {
  const found = event.type === "mouseleave" ? null : tokenAt(state, event);
  tip(root, state, found);
}

function tip(root, state, found) {
  root.querySelector(".ms-card-tip")?.remove();
  if (!found) return;
  const { prompt, span, token } = found;
  const box = card(state, prompt, state.layer, token);
  root.append(box);
  const at = span.getClientRects()[0];
  const frame = root.getBoundingClientRect();
  const left = Math.min(Math.max(at.left - frame.left, 0), frame.width - box.offsetWidth - 4);
  box.style.left = `${Math.max(left, 0)}px`;
  box.style.top = `${at.bottom - frame.top + 6}px`;
}

function open(state, prompt, token) {
  const first = slots(prompt, state.layer, token)[0]?.expert;
  if (first !== undefined) state.pick(state.layers[state.layer], first);
}

const unpoint = (root) => root.querySelector(".ms-at")?.classList.remove("ms-at");

// The token that the arrow keys have reached: its run framed, its card open, its text told to screen readers.
function point(root, state, prompt, token) {
  prompt.at = token;
  const number = prompt.runs.findIndex(([, from, end]) => token >= from && token < end);
  const span = prompt.spans[number];
  unpoint(root);
  span.classList.add("ms-at");
  span.scrollIntoView({ block: "nearest" });
  tip(root, state, { prompt, span, token });
  const live = document.getElementById("ms-live");
  const experts = slots(prompt, state.layer, token).map(({ expert }) => expert).join(", ");
  if (live) live.textContent = `${prompt.shown[token]}, token ${prompt.positions[token]}, experts ${experts || "none"}`;
}

function walk(root, state, prompt, event) {
  const rtl = getComputedStyle(event.currentTarget).direction === "rtl";
  const steps = { ArrowRight: rtl ? -1 : 1, ArrowLeft: rtl ? 1 : -1, Home: -Infinity, End: Infinity };
  const last = prompt.token_ids.length - 1;
  let to = prompt.at;
  if (event.key in steps) to = Math.min(Math.max(prompt.at + steps[event.key], 0), last);
  else if (event.key === "ArrowDown" || event.key === "ArrowUp") to = lineBeside(prompt, event.key === "ArrowDown");
  else if (event.key === "Enter") open(state, prompt, prompt.at);
  else if (event.key === "Escape") { unpoint(root); tip(root, state, null); }
  else return;
  event.preventDefault();
  if (event.key !== "Enter" && event.key !== "Escape") point(root, state, prompt, to);
}

// The first token of the nearest run in the line beneath (or above).
function lineBeside(prompt, down) {
  const number = prompt.runs.findIndex(([, from, end]) => prompt.at >= from && prompt.at < end);
  const here = prompt.spans[number].getClientRects()[0];
  let best = prompt.at, least = Infinity;
  prompt.spans.forEach((span, index) => {
    const { top, left } = span.getClientRects()[0] ?? here;
    const away = down ? top - here.top : here.top - top;
    if (away < 4) return;
    const far = 1000 * away + Math.abs(left - here.left);
    if (far < least) [best, least] = [prompt.runs[index][1], far];
  });
  return best;
}

function build(root, data, send) {
  const state = { ...data, layer: Math.max(0, data.layers.indexOf(data.layer)) };
  state.pick = (layer, expert) => send("cell", `${data.stream}.${layer}.${expert}`);
  const bar = element("div", "ms-walk");
  const slider = element("input");
  Object.assign(slider, { type: "range", min: 0, max: data.layers.length - 1, step: 1 });
  slider.setAttribute("aria-label", "layer");
  bar.append(element("span", "ms-layer-name"), slider, element("span", "ms-hint", "input → output"));
  const legend = element("div", "ms-legend");
  root.replaceChildren(bar, legend);
  data.prompts.forEach((prompt, number) => {
    prompt.ids = decode(prompt.ids, Int32Array);
    prompt.weights = prompt.weights && decode(prompt.weights, Float32Array);
    prompt.entropy = prompt.entropy && decode(prompt.entropy, Float32Array);
    if (prompt.title) root.append(element("div", "ms-prompt-title", prompt.title));
    const text = element("p", "ms-text");
    text.dir = prompt.dir;
    text.lang = prompt.lang;
    prompt.spans = prompt.runs.map(([shown, from, end], index) => {
      const span = element("span", "ms-token" + (prompt.flags[from] ? " ms-flagged" : ""), shown);
      Object.assign(span.dataset, { prompt: number, position: prompt.positions[from], tokens: end - from });
      span.dataset.run = index;
      text.append(span);
      return span;
    });
    prompt.at = 0;
    text.tabIndex = 0;
    text.dataset.msFigure = "";
    text.setAttribute("role", "application");
    text.setAttribute("aria-label", `${prompt.title}: text, token by token. Arrow keys walk, Enter opens the expert.`);
    text.onkeydown = (event) => walk(root, state, prompt, event);
    text.onfocus = () => text.matches(":focus-visible") && point(root, state, prompt, prompt.at);
    text.onblur = () => { unpoint(root); tip(root, state, null); };
    root.append(text);
  });
  let timer;
  slider.oninput = () => {
    state.layer = +slider.value;
    paint(root, state);
    clearTimeout(timer);
    timer = setTimeout(() => send("layer", data.layers[state.layer]), 350);
  };
  root.onmousemove = (event) => hover(root, state, event);
  root.onmouseleave = (event) => hover(root, state, event);
  root.onclick = (event) => {
    const found = tokenAt(state, event);
    if (found) open(state, found.prompt, found.token);
  };
  paint(root, state);
}

export default function ({ data, parentElement, setStateValue, setTriggerValue }) {
  let root = parentElement.querySelector(".ms-tokens");
  if (!root) {
    root = element("div", "ms-tokens");
    parentElement.append(root);
  }
  if (root.dataset.version === data.version) return;
  root.dataset.version = data.version;
  build(root, data, (name, value) => (name === "cell" ? setTriggerValue : setStateValue)(name, value));
}
