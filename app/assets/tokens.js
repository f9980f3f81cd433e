// Prompts as text, each token with a stripe in its first expert's colour at one layer; a slider walks through
// the layers without a round trip. Every string from a prompt enters the page as textContent, never as markup.

const decode = (text, Kind) => new Kind(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);

const element = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

function slots(prompt, layer, token) {
  const { ids, weights, width } = prompt;
  const start = (layer * prompt.tokens.length + token) * width;
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
    const value = prompt.entropy[layer * prompt.tokens.length + token];
    box.append(element("div", "ms-tip-foot", `router entropy ${value.toFixed(2)} nats`));
  }
  return box;
}

function paint(root, state) {
  const number = state.layers[state.layer];
  root.querySelector(".ms-layer-name").textContent = `Layer ${number}`;
  root.querySelector("input").value = state.layer;
  const uses = new Map();
  for (const prompt of state.prompts) {
    prompt.spans.forEach((span, token) => {
      const first = slots(prompt, state.layer, token)[0]?.expert;
      span.style.setProperty("--stripe", first === undefined ? "transparent" : state.colors[first % state.colors.length]);
      span.dataset.first = first ?? "";
      if (first !== undefined) uses.set(first, (uses.get(first) || 0) + 1);
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

function highlight(state, expert) {
  for (const prompt of state.prompts) {
    for (const span of prompt.spans) {
      span.classList.toggle("ms-dim", expert !== null && span.dataset.first !== String(expert));
    }
  }
}

function hover(root, state, event) {
  root.querySelector(".ms-card-tip")?.remove();
  const span = event.target.closest?.(".ms-token");
  if (!span || event.type === "mouseleave") return;
  const prompt = state.prompts[+span.dataset.prompt];
  const box = card(state, prompt, state.layer, +span.dataset.token);
  root.append(box);
  const at = span.getClientRects()[0];
  const frame = root.getBoundingClientRect();
  const left = Math.min(Math.max(at.left - frame.left, 0), frame.width - box.offsetWidth - 4);
  box.style.left = `${Math.max(left, 0)}px`;
  box.style.top = `${at.bottom - frame.top + 6}px`;
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
    prompt.spans = prompt.tokens.map((token, index) => {
      const span = element("span", "ms-token" + (prompt.flags[index] ? " ms-flagged" : ""), token);
      span.dataset.prompt = number;
      span.dataset.token = index;
      text.append(span);
      return span;
    });
    root.append(text);
  });
  let timer;
  slider.oninput = () => {
    state.layer = +slider.value;
    paint(root, state);
    clearTimeout(timer);
    timer = setTimeout(() => send("layer", data.layers[state.layer]), 350);
  };
  root.onmouseover = (event) => hover(root, state, event);
  root.onmouseleave = (event) => hover(root, state, event);
  root.onclick = (event) => {
    const span = event.target.closest?.(".ms-token");
    if (span?.dataset.first) state.pick(data.layers[state.layer], +span.dataset.first);
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
