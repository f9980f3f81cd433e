// Tells Python when the page's theme is not the one that the figures were drawn for.
const brightness = (color) => {
  const [r, g, b] = (color.match(/[\d.]+/g) || [255, 255, 255]).map(Number);
  return 0.299 * r + 0.587 * g + 0.114 * b;
};

export default function ({ data, setTriggerValue }) {
  const app = document.querySelector(".stApp");
  let told = data.theme;
  const look = () => {
    const seen = brightness(getComputedStyle(app).backgroundColor) < 128 ? "dark" : "light";
    if (seen !== told) {
      told = seen;
      setTriggerValue("theme", seen);
    }
  };
  const timer = setInterval(look, 600);
  return () => clearInterval(timer);
}
