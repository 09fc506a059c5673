// Tools of the gallery's page: colours, elements, texts, the clipboard. The page is gallery.js.

const ICONS = {
  auto: "M12 3a9 9 0 1 0 0 18V3z M12 3a9 9 0 0 1 0 18",
  light: "M12 8a4 4 0 1 0 0 8a4 4 0 1 0 0-8z M12 2v2 M12 20v2 M2 12h2 M20 12h2 M5 5l1.4 1.4 M17.6 17.6L19 19 M5 19l1.4-1.4 M17.6 6.4L19 5",
  dark: "M20 14.5A8.5 8.5 0 1 1 9.5 4a7 7 0 0 0 10.5 10.5z",
};
const NAMES = { version: "model", type: "type", task_type: "type" };

// ---- light and dark: before anything is painted

const root = document.documentElement;
const darkOutside = matchMedia("(prefers-color-scheme: dark)");
const calm = matchMedia("(prefers-reduced-motion: reduce)");
let theme = "auto";
try {
  theme = localStorage.getItem("kie-mj-theme") || "auto";
} catch {
  // A browser may keep storage from pages on disk.
}
function paintTheme() {
  root.toggleAttribute("data-dark", theme === "dark" || (theme === "auto" && darkOutside.matches));
}
paintTheme();
darkOutside.addEventListener("change", paintTheme);

function drawTheme() {
  const icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  icon.setAttribute("viewBox", "0 0 24 24");
  path.setAttribute("d", ICONS[theme]);
  path.setAttribute("fill", theme === "auto" ? "currentColor" : "none");
  if (theme === "auto") path.setAttribute("fill-opacity", ".35");
  path.setAttribute("stroke", "currentColor");
  path.setAttribute("stroke-width", "1.6");
  path.setAttribute("stroke-linecap", "round");
  icon.append(path);
  const label = `Colours: ${{ auto: "as the system", light: "light", dark: "dark" }[theme]}`;
  $("theme").replaceChildren(icon);
  $("theme").setAttribute("aria-label", label);
  $("theme").title = label;
}

function turnTheme() {
  theme = { auto: darkOutside.matches ? "light" : "dark", light: "dark", dark: "light" }[theme];
  if ((theme === "dark") === darkOutside.matches) theme = "auto";
  try {
    localStorage.setItem("kie-mj-theme", theme);
  } catch {
    // Then it holds for this visit.
  }
  paintTheme();
  drawTheme();
}

// ---- elements, texts, the clipboard

const $ = (id) => document.getElementById(id);
const count = (number, noun) =>
  `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child != null && child !== ""));
  return element;
}

function size(bytes) {
  for (const unit of ["bytes", "kB", "MB", "GB"]) {
    if (bytes < 1000 || unit === "GB") return `${bytes.toFixed(unit === "bytes" ? 0 : 1)} ${unit}`;
    bytes /= 1000;
  }
}

function when(text) {
  const moment = new Date(text);
  return isNaN(moment) ? "" : moment.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

const PLAIN = { ß: "ss", æ: "ae", œ: "oe", ø: "o", ł: "l", đ: "d", ı: "i" };
function fold(text) {
  return text
    .toLowerCase()
    .normalize("NFKD")
    .replace(/\p{M}/gu, "")
    .replace(/[ßæœøłđı]/g, (letter) => PLAIN[letter]);
}

function nameOfFile(file) {
  try {
    return decodeURIComponent(file.src);
  } catch {
    return file.src;
  }
}

const nameOfParam = (name) => NAMES[name] || name.replaceAll("_", " ");

function textOf(name, value) {
  if (name === "type") return String(value).replace(/\B[A-Z]/g, (letter) => " " + letter.toLowerCase());
  if (Array.isArray(value)) return count(value.length, "item");
  if (value !== null && typeof value === "object") return JSON.stringify(value);
  if (/^https?:/.test(value)) return value.replace(/[?#].*$/, "").split("/").filter(Boolean).pop();
  if (typeof value === "boolean") return value ? "on" : "off";
  return String(value);
}

function toast(text) {
  const box = $("toast");
  (document.querySelector("dialog[open]") || document.body).append(box);
  box.textContent = text;
  box.classList.add("on");
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => box.classList.remove("on"), 1600);
}

async function copy(text, told) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    if (!copyOldWay(text)) return toast("The browser does not let this page copy");
  }
  toast(told);
}

function copyOldWay(text) {
  const before = document.activeElement;
  const area = make("textarea", { readonly: true, "aria-hidden": "true" });
  area.value = text;
  area.style.cssText = "position:fixed;opacity:0";
  (document.querySelector("dialog[open]") || document.body).append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  before?.focus({ preventScroll: true });
  return done;
}
