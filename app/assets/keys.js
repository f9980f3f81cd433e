// Figures by keyboard: Tab reaches a figure, arrows walk over what is drawn in it, Enter clicks, Escape leaves.
// Vega keeps the datum and the hover card of every mark on its SVG element; a ring of our own shows where one is,
// the hover card opens, and a live region says it. Text enters the page as textContent, never as markup.

const FIGURE = '[data-testid="stVegaLiteChart"]';
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const HINT = "Arrow keys walk, Enter opens, Escape leaves.";

const marksOf = (figure) => {
  // Of all layers that have hover cards, the one with most marks: cells rather than margins, points rather than lines.
  const layers = new Map();
  for (const group of figure.querySelectorAll("g.role-mark")) {
    if (!group.firstElementChild?.__data__?.tooltip) continue;
    const name = group.getAttribute("class");
    layers.set(name, [...(layers.get(name) || []), ...group.children]);
  }
  return [...layers.values()].sort((a, b) => b.length - a.length)[0] || [];
};

// Centres and sizes of the marks, from the figure's corner; measured anew only where the picture changed.
function places(figure) {
  const picture = figure.querySelector("svg");
  const seen = figure.msPlaces;
  const frame = figure.getBoundingClientRect();
  if (seen?.picture === picture && seen.width === frame.width && seen.first?.isConnected) return seen;
  const marks = marksOf(figure).map((mark) => {
    const { left, top, width, height } = mark.getBoundingClientRect();
    return { mark, x: left - frame.left + width / 2, y: top - frame.top + height / 2, width, height };
  });
  figure.msPlaces = { picture, width: frame.width, marks, first: marks[0]?.mark };
  return figure.msPlaces;
}

function next(marks, at, [dx, dy]) {
  let best = at, least = Infinity;
  const { x, y } = marks[at];
  marks.forEach((to, index) => {
    const along = (to.x - x) * dx + (to.y - y) * dy;
    const aside = Math.abs((to.x - x) * dy) + Math.abs((to.y - y) * dx);
    if (along < 0.5) return;
    const far = along + 6 * aside;
    if (far < least) [best, least] = [index, far];
  });
  return best;
}

const send = (mark, names) => {
  const { left, top, width, height } = mark.getBoundingClientRect();
  const about = { bubbles: true, view: window, clientX: left + width / 2, clientY: top + height / 2 };
  for (const name of names) {
    const Kind = name.startsWith("pointer") ? PointerEvent : MouseEvent;
    mark.dispatchEvent(new Kind(name, about));
  }
};

const words = (tooltip) =>
  typeof tooltip === "object" ? Object.entries(tooltip).map(([name, value]) => `${name} ${value}`).join(", ") : `${tooltip}`;

function frame(figure, here) {
  let ring = figure.querySelector(":scope > .ms-ring");
  if (!ring) {
    ring = document.createElement("div");
    ring.className = "ms-ring";
    figure.append(ring);
  }
  const width = Math.max(here.width, 6) + 4, height = Math.max(here.height, 6) + 4;
  Object.assign(ring.style, {
    left: `${here.x - width / 2}px`, top: `${here.y - height / 2}px`, width: `${width}px`, height: `${height}px`,
  });
  return ring;
}

function show(figure, at) {
  const here = places(figure).marks[at];
  if (!here) return;
  figure.msAt = at;
  frame(figure, here).scrollIntoView({ block: "nearest", inline: "nearest" });
  send(here.mark, ["pointermove", "mousemove"]);
  speak(words(here.mark.__data__.tooltip));
}

function hide(figure) {
  figure.querySelector(":scope > .ms-ring")?.remove();
  const here = figure.msPlaces?.marks[figure.msAt];
  if (here?.mark.isConnected) send(here.mark, ["pointerout", "mouseout"]);
}

function speak(text) {
  let live = document.getElementById("ms-live");
  if (!live) {
    live = document.createElement("div");
    live.id = "ms-live";
    live.className = "ms-unseen";
    live.setAttribute("role", "status");
    document.body.append(live);
  }
  live.textContent = text;
}

function press(figure, event) {
  const { marks } = places(figure);
  if (!marks.length || event.ctrlKey || event.metaKey || event.altKey) return;
  const at = Math.min(figure.msAt ?? 0, marks.length - 1);
  if (STEPS[event.key]) {
    show(figure, figure.querySelector(":scope > .ms-ring") ? next(marks, at, STEPS[event.key]) : at);
  } else if (event.key === "Enter" || event.key === " ") {
    send(marks[at].mark, ["pointerdown", "mousedown", "pointerup", "mouseup", "click"]);
  } else if (event.key === "Escape" && figure.querySelector(":scope > .ms-ring")) {
    hide(figure);
  } else return;
  event.preventDefault();
  event.stopPropagation();
}

// The ring stays with its mark where the page was drawn anew around it.
function follow(figure) {
  if (!figure.querySelector(":scope > .ms-ring")) return;
  const seen = figure.msPlaces, now = places(figure);
  if (now !== seen && now.marks[figure.msAt]) frame(figure, now.marks[figure.msAt]);
}

// A row under the focus is chosen by Enter as by a click on its box: the table itself knows Shift + Space.
function chooseRow(event) {
  const table = event.target.closest?.('[data-testid="stDataFrame"]');
  if (event.key !== "Enter" || !table?.matches(".st-key-rows *, [class*='st-key-rows-'] *")) return;
  event.preventDefault();
  event.stopPropagation();
  const about = { key: " ", code: "Space", keyCode: 32, shiftKey: true, bubbles: true, cancelable: true };
  event.target.dispatchEvent(new KeyboardEvent("keydown", about));
}

// Escape closes the expert that is open, wherever the focus is but in a box or an open menu.
function closeExpert(event) {
  if (event.key !== "Escape" || event.defaultPrevented || event.target.closest?.('input, textarea, [data-baseweb="popover"]')) return;
  document.querySelector(".st-key-close-drawer button")?.click();
}

// A figure that came into the page gets its place in the order of Tab.
function enable(figure) {
  if (figure.tabIndex !== 0) figure.tabIndex = 0;
  // Screen readers hear the figure's sentence and the mark under the ring, not thousands of nameless shapes; and as an
  // application it gets the arrow keys from them.
  figure.querySelector("svg")?.setAttribute("aria-hidden", "true");
  figure.setAttribute("role", "application");
  figure.setAttribute("aria-roledescription", "figure");
  follow(figure);
  if (figure.msReady) return;
  figure.msReady = true;
  figure.addEventListener("keydown", (event) => event.target === figure && press(figure, event));
  figure.addEventListener("focus", () => figure.matches(":focus-visible") && show(figure, figure.msAt ?? 0));
  figure.addEventListener("blur", () => hide(figure));
  figure.setAttribute("aria-description", HINT);
}

// Components keep what they draw in shadow trees of their own.
function figures() {
  const kinds = `${FIGURE}, [data-testid="stBidiComponentIsolated"], [data-testid="stDataFrame"] canvas`;
  return [...document.querySelectorAll(`.stMain :is(${kinds})`)].flatMap((one) =>
    one.shadowRoot || one.matches('[data-testid="stBidiComponentIsolated"]')
      ? [...(one.shadowRoot?.querySelectorAll("[data-ms-figure], canvas[tabindex]") ?? [])] : [one],
  );
}

// The first thing that Tab reaches: past navigation and controls to the first figure, map or text.
function skipLink() {
  if (document.getElementById("ms-skip")) return;
  const link = document.createElement("a");
  Object.assign(link, { id: "ms-skip", href: "#", textContent: "Skip to the figure" });
  link.onclick = (event) => {
    event.preventDefault();
    const first = figures().find((one) => one.offsetParent);
    (first ?? document.querySelector(".stMain"))?.focus({ focusVisible: true });
    first?.scrollIntoView({ block: "nearest" });
  };
  document.body.prepend(link);
}

export default function () {
  const look = () => document.querySelectorAll(FIGURE).forEach(enable);
  skipLink();
  speak("");
  look();
  document.addEventListener("keydown", chooseRow, true);
  document.addEventListener("keydown", closeExpert);
  const timer = setInterval(look, 500);
  return () => {
    clearInterval(timer);
    document.removeEventListener("keydown", chooseRow, true);
    document.removeEventListener("keydown", closeExpert);
  };
}
