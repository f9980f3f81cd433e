// The scan running: a map that changes as the tokens of two prompts pass. Drawn on a canvas from bytes; every
// string from a prompt enters the page as textContent, never as markup.

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

const element = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

// Draws the film into `root`; returns a function that stops it.
function start(root, film) {
  const cells = bytes(film.cells), colors = bytes(film.colors);
  const { frames, layers, experts } = film;
  const many = frames.length, rows = layers.length;
  root.replaceChildren();
  const bar = element("div", "ms-film-bar");
  const play = element("button", "ms-film-play", "Play");
  const slider = element("input");
  Object.assign(slider, { type: "range", min: 0, max: many - 1, value: many - 1 });
  slider.setAttribute("aria-label", "token position");
  const count = element("span", "ms-film-count");
  bar.append(play, slider, count);
  const tokens = element("div", "ms-film-tokens");
  const stage = element("div", "ms-film-stage");
  const axis = element("div", "ms-film-axis");
  const canvas = element("canvas");
  Object.assign(canvas, { width: experts, height: rows });
  const step = Math.min(Math.max(420 / rows, 4), 26);
  canvas.style.height = axis.style.height = `${Math.round(step * rows)}px`;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", film.title);
  const every = rows <= 18 ? 1 : rows <= 60 ? 5 : 10;
  layers.forEach((layer, row) => {
    if (layer % every) return;
    const mark = element("span", "", String(layer));
    mark.style.bottom = `${((row + 0.5) / rows) * 100}%`;
    axis.append(mark);
  });
  stage.append(axis, canvas);
  const foot = element("div", "ms-film-foot");
  foot.append(element("span", "", film.low), element("i", "ms-film-scale"), element("span", "", film.high));
  foot.append(element("span", "ms-film-note", `experts 0–${experts - 1} across, layers upwards`));
  const stops = [];
  for (let i = 1; i < 255; i += 23) stops.push(`rgb(${colors.slice(3 * i, 3 * i + 3).join(",")})`);
  foot.querySelector("i").style.background = `linear-gradient(90deg, ${stops.join(",")})`;
  root.append(bar, tokens, stage, foot);

  const ctx = canvas.getContext("2d");
  const image = ctx.createImageData(experts, rows);
  function paint() {
    const at = Number(slider.value), frame = frames[at];
    for (let row = 0; row < rows; row++) {
      for (let expert = 0; expert < experts; expert++) {
        const value = cells[(at * rows + row) * experts + expert];
        const to = 4 * ((rows - 1 - row) * experts + expert);
        for (let c = 0; c < 3; c++) image.data[to + c] = colors[3 * value + c];
        image.data[to + 3] = 255;
      }
    }
    ctx.putImageData(image, 0, 0);
    count.textContent = `${at + 1} / ${many}`;
    tokens.replaceChildren();
    for (const [name, passed, token] of [["A", frame[0], frame[2]], ["B", frame[1], frame[3]]]) {
      const line = element("span");
      line.append(element("b", "", name), element("span", "ms-film-n", `token ${passed}`), element("bdi", "", token));
      tokens.append(line);
    }
  }
  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  };
  play.onclick = () => {
    if (timer) return stop();
    if (Number(slider.value) >= many - 1) slider.value = 0;
    play.textContent = "Pause";
    paint();
    timer = setInterval(() => {
      slider.value = Number(slider.value) + 1;
      paint();
      if (Number(slider.value) >= many - 1) stop();
    }, film.pause);
  };
  slider.oninput = () => { stop(); paint(); };
  paint();
  return stop;
}

export default function ({ data, parentElement }) {
  let root = parentElement.querySelector(".ms-film");
  if (root && root.dataset.version === data.version) return;
  if (!root) {
    root = element("div", "ms-film");
    parentElement.append(root);
  }
  root.dataset.version = data.version;
  root.stop?.();
  root.stop = start(root, data);
}
