// Where the marks of a figure are and what they show, whatever drew it: Vega as SVG, Vega on a canvas, or Plotly.
// A mark: `datum`, `tooltip` (what its hover card says, if known), `target` (the element that takes its pointer events)
// and `place()`: centre and size from the figure's corner.

const VEGA = '[data-testid="stVegaLiteChart"]';
const PLOTLY = '[data-testid="stPlotlyChart"]';

const placed = ({ left, top, width, height }, frame) => ({
  x: left - frame.left + width / 2, y: top - frame.top + height / 2, width, height,
});

// Vega keeps each mark on its SVG element.
function svgLayers(figure) {
  const layers = new Map();
  for (const group of figure.querySelectorAll("g.role-mark")) {
    if (!group.firstElementChild?.__data__?.datum) continue;
    const name = group.getAttribute("class");
    const marks = [...group.children].map((shape) => ({
      datum: shape.__data__.datum, tooltip: shape.__data__.tooltip, target: shape,
      place: () => placed(shape.getBoundingClientRect(), figure.getBoundingClientRect()),
    }));
    layers.set(name, [...(layers.get(name) || []), ...marks]);
  }
  return [...layers.values()];
}

// A canvas has no elements: its marks are in the Vega view, which Streamlit holds in a React reference above the figure.
// Where that should ever be kept elsewhere, the figure is found to have no marks.
function viewOf(figure) {
  const name = Object.keys(figure).find((key) => key.startsWith("__reactFiber$"));
  let fiber = figure[name];
  for (let up = 0; fiber && up < 10; up++, fiber = fiber.return) {
    let hook = fiber.memoizedState;
    while (hook && typeof hook === "object" && "next" in hook) {
      if (hook.memoizedState?.current?.scenegraph) return hook.memoizedState.current;
      hook = hook.next;
    }
  }
  return null;
}

function canvasLayers(figure, canvas) {
  const view = viewOf(figure);
  if (!view) return [];
  const layers = new Map();
  const corner = canvas.getBoundingClientRect(), frame = figure.getBoundingClientRect();
  const padding = view.padding(), origin = view.origin();
  const left = corner.left - frame.left + (padding.left ?? padding) + origin[0];
  const top = corner.top - frame.top + (padding.top ?? padding) + origin[1];
  const walk = (mark, dx, dy) => {
    for (const item of mark.items ?? []) {
      if (mark.marktype === "group") item.items?.forEach((inner) => walk(inner, dx + (item.x || 0), dy + (item.y || 0)));
      else if (mark.role === "mark" && item.datum) {
        if (!layers.has(mark.name)) layers.set(mark.name, []);
        const place = () => {
          const { x1, y1, x2, y2 } = item.bounds;
          return { x: dx + (x1 + x2) / 2, y: dy + (y1 + y2) / 2, width: x2 - x1, height: y2 - y1 };
        };
        layers.get(mark.name).push({ datum: item.datum, tooltip: item.tooltip, target: canvas, place });
      }
    }
  };
  walk(view.scenegraph().root, left, top);
  return [...layers.values()];
}

// Points of Plotly's axes, and the boxes of its flows.
function plotlyLayers(figure) {
  const graph = figure.querySelector(".js-plotly-plot");
  const { xaxis, yaxis } = graph?._fullLayout ?? {};
  if (xaxis && yaxis) {
    const target = graph.querySelector(".nsewdrag");
    return graph._fullData.filter((trace) => trace.customdata && trace.visible === true).map((trace) =>
      trace.customdata.map(([stream, layer, expert], index) => ({
        datum: { stream, layer, expert }, target,
        place: () => {
          const corner = placed(graph.getBoundingClientRect(), figure.getBoundingClientRect());
          return {
            x: corner.x - corner.width / 2 + xaxis._offset + xaxis.l2p(trace.x[index]),
            y: corner.y - corner.height / 2 + yaxis._offset + yaxis.l2p(trace.y[index]), width: 10, height: 10,
          };
        },
      })),
    );
  }
  return [[...(graph?.querySelectorAll(".sankey-node, .parcats .category") ?? [])].map((box) => {
    const shape = box.querySelector("rect") ?? box;
    const label = box.querySelector("text")?.textContent ?? "";
    const named = /^(\d+)\.(\d+)$/.exec(label.trim());
    return {
      datum: named ? { layer: +named[1], expert: +named[2] } : {}, tooltip: label, target: shape,
      place: () => placed(shape.getBoundingClientRect(), figure.getBoundingClientRect()),
    };
  })];
}

function layersOf(figure) {
  if (figure.matches(PLOTLY)) return plotlyLayers(figure);
  const canvas = figure.querySelector("canvas.marks, canvas");
  return canvas ? canvasLayers(figure, canvas) : svgLayers(figure);
}

// The picture itself: another element where the figure was drawn anew.
const pictureOf = (figure) => figure.querySelector("svg.main-svg, svg, canvas");
