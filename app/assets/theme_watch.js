// Tells Python when the page is not what it was drawn for: its theme, and whether it is narrow.
const brightness = (color) => {
  const [r, g, b] = (color.match(/[\d.]+/g) || [255, 255, 255]).map(Number);
  return 0.299 * r + 0.587 * g + 0.114 * b;
};

export default function ({ data, setTriggerValue, setStateValue }) {
  const app = document.querySelector(".stApp");
  let told = data.theme;
  let narrow = data.narrow;
  const look = () => {
    const seen = brightness(getComputedStyle(app).backgroundColor) < 128 ? "dark" : "light";
    if (seen !== told) {
      told = seen;
      setTriggerValue("theme", seen);
    }
    const wide = app.querySelector(".stMain")?.clientWidth ?? app.clientWidth;
    if (wide < data.below !== narrow) {
      narrow = !narrow;
      setStateValue("narrow", narrow);
    }
  };
  const timer = setInterval(look, 600);
  return () => clearInterval(timer);
}
