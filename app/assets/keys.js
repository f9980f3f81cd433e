// Figures by keyboard: Tab reaches a figure, arrows walk over what is drawn in it, Enter clicks, Escape leaves, Page Down
// goes to the next figure. A ring of our own shows where one is, the hover card opens, and a live region says it. Text
// enters the page as textContent, never as markup. Follows marks.js.

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const HINT = "Arrow keys walk, Enter opens, Page Down goes to the next figure, Escape leaves.";

// Of all layers that have hover cards, the one with most marks: cells rather than margins, points rather than lines.
function marksOf(figure) {
  const told = layersOf(figure).filter((layer) => layer.length && (layer[0].tooltip || figure.matches(PLOTLY)));
  return told.sort((a, b) => b.length - a.length)[0] || [];
}

// Centres and sizes of the marks, from the figure's corner; measured anew only where the picture changed.
function places(figure) {
  const picture = pictureOf(figure);
  const seen = figure.msPlaces;
  const frame = figure.getBoundingClientRect();
  if (seen?.picture === picture && seen.width === frame.width && seen.first?.target.isConnected) return seen;
  const marks = marksOf(figure).map((mark) => ({ mark, ...mark.place() }));
  figure.msPlaces = { picture, width: frame.width, marks, first: marks[0]?.mark };
  return figure.msPlaces;
}

// Where walking begins: at the chosen expert, or at the first mark.
function chosenOf(marks) {
  const cell = chosenCell();
  return cell ? Math.max(marks.findIndex(({ mark }) => isCell(mark.datum, cell, CELLS[0])), 0) : 0;
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

function send(figure, { mark, x, y }, names) {
  const { left, top } = figure.getBoundingClientRect();
  const about = { bubbles: true, cancelable: true, view: window, clientX: left + x, clientY: top + y };
  for (const name of names) {
    const Kind = name.startsWith("pointer") ? PointerEvent : MouseEvent;
    mark.target.dispatchEvent(new Kind(name, about));
  }
}

// What a hover card says; Plotly's is known only once it is open.
function words(figure, { tooltip }) {
  const card = figure.querySelector(".hoverlayer")?.textContent;
  if (card) return [...figure.querySelectorAll(".hoverlayer text")].map((one) => [...one.querySelectorAll("tspan")].map(
    (line) => line.textContent).join(", ") || one.textContent).join(", ");
  if (tooltip === null || typeof tooltip !== "object") return `${tooltip ?? ""}`;
  return Object.entries(tooltip).map(([name, value]) => `${name} ${value}`).join(", ");
}

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
  send(figure, here, ["pointermove", "mouseover", "mousemove"]);
  const told = () => figure.msAt === at && speak(words(figure, here.mark));
  figure.matches(PLOTLY) ? setTimeout(told, 120) : told();
}

function hide(figure) {
  figure.querySelector(":scope > .ms-ring")?.remove();
  const here = figure.msPlaces?.marks[figure.msAt];
  if (here?.mark.target.isConnected) send(figure, here, ["pointerout", "mouseout"]);
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

// The next figure of the page, or the one before.
function beside(figure, step) {
  const shown = figures().filter((one) => one.offsetParent);
  focusOn(shown[shown.indexOf(figure) + step]);
}

function focusOn(element) {
  element?.focus({ focusVisible: true });
  element?.scrollIntoView({ block: "nearest" });
}

function press(figure, event) {
  const { marks } = places(figure);
  if ((!marks.length && !event.key.startsWith("Page")) || event.ctrlKey || event.metaKey || event.altKey) return;
  const at = Math.min(figure.msAt ?? chosenOf(marks), marks.length - 1);
  if (STEPS[event.key]) {
    show(figure, figure.querySelector(":scope > .ms-ring") ? next(marks, at, STEPS[event.key]) : at);
  } else if (event.key === "Enter" || event.key === " ") {
    const press = ["pointermove", "mousemove", "pointerdown", "mousedown", "pointerup", "mouseup"];
    send(figure, marks[at], figure.matches(PLOTLY) ? press : [...press, "click"]); // Plotly makes its own click
  } else if (event.key === "Escape" && figure.querySelector(":scope > .ms-ring")) {
    hide(figure);
  } else if (event.key === "PageDown" || event.key === "PageUp") {
    beside(figure, event.key === "PageDown" ? 1 : -1);
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
  figure.addEventListener("focus", () => figure.matches(":focus-visible") && show(figure, figure.msAt ?? chosenOf(places(figure).marks)));
  figure.addEventListener("blur", () => hide(figure));
  figure.setAttribute("aria-description", HINT);
}

// Components keep what they draw in shadow trees of their own.
function figures() {
  const kinds = `${VEGA}, ${PLOTLY}, [data-testid="stBidiComponentIsolated"], [data-testid="stDataFrame"] canvas`;
  return [...document.querySelectorAll(`.stMain :is(${kinds})`)].flatMap((one) =>
    one.shadowRoot || one.matches('[data-testid="stBidiComponentIsolated"]')
      ? [...(one.shadowRoot?.querySelectorAll("[data-ms-figure], canvas[tabindex]") ?? [])] : [one],
  );
}

// The first things that Tab reaches: past navigation and bar to the first figure, map or text, or to the page's controls.
function skipLinks() {
  if (document.getElementById("ms-skip")) return;
  const figure = () => figures().find((one) => one.offsetParent) ?? document.querySelector(".stMain");
  const control = () => [...document.querySelectorAll(".stMain :is(button, input, textarea, [tabindex='0'])")].find(
    (one) => one.offsetParent && !one.disabled && !one.closest(".st-key-topbar, .st-key-unseen"),
  );
  const links = document.createElement("nav");
  links.id = "ms-skip";
  links.setAttribute("aria-label", "Skip");
  for (const [text, find] of [["Skip to the figure", figure], ["Skip to the controls", control]]) {
    const link = document.createElement("a");
    Object.assign(link, { href: "#", textContent: text });
    link.onclick = (event) => {
      event.preventDefault();
      focusOn(find());
    };
    links.append(link);
  }
  document.body.prepend(links);
}

export default function () {
  const look = () => {
    document.querySelectorAll(`${VEGA}, ${PLOTLY}`).forEach(enable);
    link();
    // Where the navigation ends: what lies over the page at the left begins there.
    const { left } = document.querySelector(".stMain").getBoundingClientRect();
    document.documentElement.style.setProperty("--ms-left", `${left}px`);
  };
  skipLinks();
  speak("");
  look();
  document.addEventListener("keydown", chooseRow, true);
  document.addEventListener("keydown", closeExpert);
  document.addEventListener("click", chooseToken, true);
  document.addEventListener("scroll", link, true); // a ring of a row goes with it
  const timer = setInterval(look, 300);
  return () => {
    clearInterval(timer);
    document.removeEventListener("keydown", chooseRow, true);
    document.removeEventListener("keydown", closeExpert);
    document.removeEventListener("click", chooseToken, true);
    document.removeEventListener("scroll", link, true);
  };
}
