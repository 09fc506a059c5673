// The gallery's page. Whatever comes from a prompt becomes text or an attribute here, never markup.

const PAGE = 24; // groups to draw at once
const MOST_JOBS = 24; // jobs of one group to draw before it is asked for more
const EAGER = 12; // pictures that are fetched at once
const LONG = 340; // characters of a prompt that are shown at first
const DATA = ".kie-mj/gallery/";
const NOTES = {
  planned: "Not sent yet: nothing was paid for these.",
  pending: "Accepted and paid, not on disk yet.",
  failed: "These could not be made. They were not charged.",
  expired: "These results were deleted by the service before they were saved.",
  unresolved:
    "Each may have been accepted and paid: its create was sent and no answer came. None is repeated by itself.",
  abandoned: "You gave these up.",
};

// ---- jobs and groups

let head; // what the page knows of the whole batch
const jobs = [];
const groups = new Map(); // by prompt; a job without one is alone
let visible = []; // groups with something to show, in order
let drawn = 0; // how many of them are in the page
let flat = null; // every file to show, in order, once full view has asked for it
let chunks = 1; // data files read so far
let broken = false;

const view = { query: "", words: [], state: "", kind: "", params: new Map() };
const filtered = () => Boolean(view.query || view.state || view.kind || view.params.size);

function read(some) {
  const changed = new Set();
  for (const job of some) {
    const key = job.prompt ? `p${job.prompt}` : `k${job.key}`;
    let group = groups.get(key);
    if (!group) {
      groups.set(key, (group = { prompt: job.prompt, shown: [], node: null, limit: MOST_JOBS }));
    }
    job.group = group;
    jobs.push(job);
    if (take(job)) changed.add(group);
  }
  flat = null;
  return changed;
}

/** Lists a job, if search and filters let it through. */
function take(job) {
  if (!passes(job)) return false;
  if (!job.group.shown.length) visible.push(job.group);
  job.group.shown.push(job);
  return true;
}

function passes(job) {
  if (view.state && job.state !== view.state) return false;
  if (view.kind && !job.files.some((file) => Boolean(file.video) === (view.kind === "video"))) return false;
  for (const [name, value] of view.params) {
    if (String(job.params[name] ?? "") !== value) return false;
  }
  if (!view.words.length) return true;
  const group = job.group;
  group.fold ??= fold(group.prompt);
  if (view.words.every((word) => group.fold.includes(word))) return true;
  const id = view.query.trim();
  return id.length > 7 && (job.task === id || job.key.startsWith(id));
}

function filesOf(job) {
  return view.kind ? job.files.filter((file) => Boolean(file.video) === (view.kind === "video")) : job.files;
}

function refilter() {
  for (const group of groups.values()) {
    group.shown = [];
    group.node = null;
    group.limit = MOST_JOBS;
  }
  visible = [];
  flat = null;
  for (const job of jobs) take(job);
  drawn = 0;
  $("groups").replaceChildren();
  drawMore();
  tellCount();
  drawFilters();
}

// ---- drawing

const watched = new IntersectionObserver(
  (seen) => {
    for (const { isIntersecting, target } of seen) {
      if (!isIntersecting) continue;
      watched.unobserve(target);
      target.src = target.dataset.src;
    }
  },
  { rootMargin: "600px" },
);

function drawMore(number = PAGE) {
  const next = visible.slice(drawn, drawn + number);
  drawn += next.length;
  $("groups").append(...next.map(drawGroup));
  $("groups").querySelector(".empty")?.remove();
  if (!visible.length && (filtered() || !head.jobs)) $("groups").append(drawNothing());
  if (drawn < visible.length) requestAnimationFrame(() => nearEnd() && drawMore());
  tellEnd();
}

function drawNothing() {
  if (!head.jobs) return make("p", { class: "empty" }, make("b", {}, "No jobs yet"), "Nothing was planned in this directory.");
  if (chunks < head.chunks && !broken) return make("p", { class: "empty" }, make("b", {}, "Looking…"));
  const clear = make("button", { class: "link", type: "button", onclick: reset }, "Show everything");
  return make("p", { class: "empty" }, make("b", {}, "Nothing fits"), "Try fewer words or another filter. ", clear);
}

function drawGroup(group) {
  const shown = group.shown.slice(0, group.limit);
  const shared = {};
  for (const [name, value] of Object.entries(shown[0].params)) {
    const same = JSON.stringify(value);
    if (shown.every((job) => JSON.stringify(job.params[name]) === same)) shared[name] = value;
  }
  const about = make("div", { class: "about" }, ...drawPrompt(group, shown[0]), drawChips(shared, {}));
  if (group.prompt) {
    const act = { class: "copy", type: "button", onclick: () => copy(group.prompt, "Prompt copied") };
    about.append(make("button", act, "Copy prompt"));
  }
  const list = make("div", { class: "jobs" }, ...shown.map((job) => drawJob(job, shared)));
  if (group.shown.length > shown.length) {
    const more = () => {
      group.limit *= 4;
      redraw(group);
    };
    const left = count(group.shown.length - shown.length, "more job");
    list.append(make("div", {}, make("button", { class: "quiet", type: "button", onclick: more }, `Show ${left}`)));
  }
  group.node = make("section", { class: "group" }, about, list);
  group.node.group = group;
  return group.node;
}

function redraw(group) {
  const old = group.node;
  old?.replaceWith(drawGroup(group));
}

function drawPrompt(group, job) {
  if (!group.prompt) {
    return [make("h2", { class: "prompt untitled" }, job.title)];
  }
  const long = group.prompt.length > LONG || group.prompt.split("\n").length > 7;
  const text = make("h2", { class: long && !group.open ? "prompt short" : "prompt", dir: "auto" }, group.prompt);
  if (!long) return [text];
  const toggle = make("button", { class: "link", type: "button" }, group.open ? "Show less" : "Show all");
  toggle.addEventListener("click", () => {
    group.open = !group.open;
    text.classList.toggle("short", !group.open);
    toggle.textContent = group.open ? "Show less" : "Show all";
  });
  return [text, toggle];
}

function drawChips(params, without) {
  const chips = Object.entries(params)
    .filter(([name]) => !(name in without) && (name !== "type" || head.filters.some((one) => one.name === "type")))
    .map(([name, value]) => {
      const text = textOf(name, value);
      const children = name === "type" ? [text] : [nameOfParam(name) + " ", make("b", {}, text)];
      return make("li", { title: typeof value === "string" ? value : false, dir: "auto" }, ...children);
    });
  return chips.length ? make("ul", { class: "chips", "aria-label": "Parameters" }, ...chips) : "";
}

function drawJob(job, shared) {
  const files = filesOf(job);
  const node = make("div", { class: "job" }, drawChips(job.params, shared));
  if (files.length) {
    const ratio = ratioOf(files[0]);
    const tiles = make("div", { class: "tiles", "data-number": Math.min(files.length, 4), "data-wide": ratio > 1.25 });
    tiles.style.setProperty("--ratio", ratio);
    tiles.append(...files.map((file, place) => drawTile(job, file, place, files)));
    node.append(tiles);
  }
  if (job.state !== "saved") node.append(drawTrouble(job));
  return node;
}

let eager = EAGER;

function drawTile(job, file, place, files) {
  const about = job.prompt.slice(0, 100) || job.title;
  const noun = file.video ? "Video" : "Picture";
  const label = `${noun} ${place + 1} of ${files.length}: ${about}`;
  const tile = make("button", { class: "tile", type: "button", "aria-label": label });
  tile.style.setProperty("--ratio", ratioOf(file));
  tile.item = { job, file };
  if (file.gone) showGone(tile, file);
  else if (file.video) tile.append(...drawClip(tile, file));
  else tile.append(drawPicture(tile, file));
  return tile;
}

function ratioOf(file) {
  const ratio = file.w && file.h ? file.w / file.h : file.ratio || (file.video ? 16 / 9 : 1);
  return Math.min(3, Math.max(1 / 3, ratio)).toFixed(4);
}

function drawPicture(tile, file) {
  const first = eager-- > 0;
  const image = make("img", {
    alt: "", decoding: "async", loading: first ? "eager" : "lazy", fetchpriority: first ? "high" : false,
    width: file.w, height: file.h,
  });
  image.addEventListener("error", () => {
    if (file.thumb && image.getAttribute("src") === file.thumb) image.src = file.src;
    else showGone(tile, file);
  });
  image.src = file.thumb || file.src;
  return image;
}

function drawClip(tile, file) {
  const clip = make("video", { preload: "metadata", playsinline: true, loop: true, tabindex: "-1", "aria-hidden": "true" });
  clip.muted = true;
  clip.dataset.src = `${file.src}#t=0.01`; // a first frame to look at
  clip.addEventListener("error", () => showGone(tile, file));
  watched.observe(clip);
  tile.addEventListener("pointerenter", (event) => {
    if (event.pointerType === "mouse" && !calm.matches) clip.play().catch(() => {});
  });
  tile.addEventListener("pointerleave", () => clip.pause());
  return [clip, make("span", { class: "play" })];
}

function goneText(file) {
  const missing = head.store ? "in the object store" : "not in the directory any more";
  const what = file.gone ? missing : "cannot be shown";
  return make("span", { class: "gone-text" }, make("b", {}, what), nameOfFile(file));
}

function showGone(tile, file) {
  tile.classList.add("gone");
  tile.replaceChildren(goneText(file));
}

function drawTrouble(job) {
  const box = make("div", { class: "trouble", "data-state": job.state });
  box.append(make("p", { dir: "auto" }, make("span", { class: "state" }, job.state), job.reason ? ` · ${job.reason}` : ""));
  const ids = [job.task && `task ${job.task}`, `job ${job.key}`].filter(Boolean).join(" · ");
  box.append(make("p", { class: "small" }, ids));
  const steps = head.steps[job.state];
  if (steps) {
    const where = head.store ? "" : make("p", { class: "small" }, `In the folder that holds “${head.title}”:`);
    box.append(make("details", {}, make("summary", {}, "What to do"), where, ...drawSteps(steps, job.name)));
  }
  return box;
}

function drawSteps(steps, job) {
  return steps.map(([command, why]) => {
    // Split, for a name may hold what replace() gives a meaning.
    const whole = command.split("{job}").join(job);
    const act = { class: "link", type: "button", onclick: () => copy(whole, "Command copied") };
    return make("div", { class: "step" }, make("code", {}, whole), make("button", act, "Copy"), make("span", { class: "small" }, why));
  });
}

// ---- what is said about the whole

function tellHead() {
  const parts = [count(head.jobs, "job"), head.pictures && count(head.pictures, "image"), head.videos && count(head.videos, "video"), head.bytes && size(head.bytes)];
  let text = parts.filter(Boolean).join(" · ");
  text += ` · made ${when(head.at)}`;
  if (head.atWork) text += ", while a run was at work";
  $("summary").textContent = text;
}

function tellCount() {
  const shown = visible.reduce((sum, group) => sum + group.shown.length, 0);
  const reading = chunks < head.chunks && !broken;
  let text = "";
  if (filtered()) text = `${count(shown, "job")} of ${head.jobs.toLocaleString("en")}`;
  if (filtered() && reading) text += ` so far (${Math.round((100 * chunks) / head.chunks)} % read)`;
  if (broken) text = "Not all could be read: this page was made anew meanwhile, or moved alone. Load it again.";
  $("count").textContent = text;
}

function tellEnd() {
  const all = drawn >= visible.length;
  $("more").textContent = all ? "" : "…";
  if (all && chunks < head.chunks && !broken && visible.length) $("more").textContent = "Reading…";
}

function drawFilters() {
  const row = [];
  const pill = (text, number, on, press, state) =>
    row.push(
      make("button", { class: "pill", type: "button", "aria-pressed": String(on), "data-state": state || false, onclick: press },
        text, make("span", {}, number.toLocaleString("en"))),
    );
  const set = (changes) => () => change(changes);
  if (head.states.length > 1) {
    pill("all", head.jobs, !view.state, set({ state: "" }));
    for (const [state, number] of head.states) {
      pill(state, number, view.state === state, set({ state: view.state === state ? "" : state }), state);
    }
  }
  if (head.pictures && head.videos) {
    if (row.length) row.push(make("span", { class: "rule" }));
    for (const [kind, text, number] of [["image", "images", head.pictures], ["video", "videos", head.videos]]) {
      pill(text, number, view.kind === kind, set({ kind: view.kind === kind ? "" : kind }));
    }
  }
  const picks = head.filters.map(drawPick);
  if (filtered()) picks.push(make("button", { class: "link", type: "button", onclick: reset }, "Clear"));
  if (picks.length) row.push(make("div", { class: "picks" }, ...picks));
  const controls = () => [...$("filters").querySelectorAll("button, select")];
  const held = controls().indexOf(document.activeElement);
  $("filters").replaceChildren(...row);
  controls()[held]?.focus({ preventScroll: true });
  drawNote();
}

function drawPick({ name, values }) {
  const chosen = view.params.get(name);
  const label = nameOfParam(name);
  const select = make("select", { "aria-label": label, "data-set": chosen !== undefined, name });
  select.append(make("option", {}, `${label}: any`));
  values.forEach(([value, number]) => {
    const text = value === null ? "not given" : textOf(name, value);
    const option = make("option", {}, `${label}: ${text} (${number.toLocaleString("en")})`);
    option.selected = chosen === String(value ?? "");
    select.append(option);
  });
  select.addEventListener("change", () => {
    const params = new Map(view.params);
    if (select.selectedIndex === 0) params.delete(name);
    else params.set(name, String(values[select.selectedIndex - 1][0] ?? ""));
    change({ params });
  });
  return make("span", { class: "pick" }, select);
}

function drawNote() {
  const note = $("note");
  note.hidden = !NOTES[view.state];
  if (note.hidden) return;
  // A command for one job is with that job.
  const steps = head.steps[view.state].filter(([command]) => !command.includes("{job}"));
  note.replaceChildren(make("p", {}, NOTES[view.state]), ...drawSteps(steps, ""));
}

// ---- what is asked for, kept in the address

function change(changes) {
  Object.assign(view, changes);
  view.words = fold(view.query).split(/\s+/).filter(Boolean);
  writeAddress();
  refilter();
  const top = $("filters").getBoundingClientRect().top + scrollY - 60;
  if (scrollY > top) scrollTo(0, Math.max(0, top));
}

function reset() {
  $("search").value = "";
  change({ query: "", state: "", kind: "", params: new Map() });
}

function writeAddress() {
  const parts = new URLSearchParams();
  if (view.query.trim()) parts.set("q", view.query.trim());
  if (view.state) parts.set("state", view.state);
  if (view.kind) parts.set("kind", view.kind);
  for (const [name, value] of view.params) parts.set(`p.${name}`, value);
  const text = parts.toString();
  if (text === location.hash.slice(1)) return;
  writeAddress.last = text;
  try {
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  } catch {
    location.hash = text;
  }
}

function readAddress() {
  const parts = new URLSearchParams(location.hash.slice(1));
  view.query = parts.get("q") || "";
  view.words = fold(view.query).split(/\s+/).filter(Boolean);
  view.state = head.states.some(([state]) => state === parts.get("state")) ? parts.get("state") : "";
  view.kind = ["image", "video"].includes(parts.get("kind")) ? parts.get("kind") : "";
  view.params = new Map([...parts].filter(([name]) => name.startsWith("p.")).map(([name, value]) => [name.slice(2), value]));
  $("search").value = view.query;
}

// ---- the rest of the data, after the first screen

function onChunk(build, number, some) {
  if (build !== head.build || number !== chunks + 1) return;
  chunks = number;
  for (const group of read(some)) {
    if (group.node) redraw(group);
  }
  if (drawn < PAGE || nearEnd()) drawMore(drawn < PAGE ? PAGE - drawn : PAGE);
  tellCount();
  tellEnd();
  if (chunks === head.chunks && filtered() && !visible.length) drawMore();
}

const nearEnd = () => $("more").getBoundingClientRect().top < innerHeight + 1500;

async function readRest() {
  for (let number = 2; number <= head.chunks; number++) {
    const script = make("script", { src: `${DATA}${head.build}/${String(number).padStart(4, "0")}.js` });
    await new Promise((done) => {
      script.addEventListener("load", done);
      script.addEventListener("error", done);
      document.head.append(script);
    });
    script.remove();
    if (chunks !== number) {
      broken = true;
      tellCount();
      tellEnd();
      return;
    }
    await new Promise((done) => setTimeout(done)); // let the page breathe
  }
  document.body.dataset.read = "all";
}

function start() {
  head = JSON.parse($("data").textContent);
  $("data").remove();
  window.kieMjGallery = onChunk;
  readAddress();
  drawTheme();
  tellHead();
  read(head.first);
  head.first = null;
  drawFilters();
  drawMore(8);
  tellCount();
  requestAnimationFrame(() =>
    setTimeout(() => {
      drawMore(PAGE - 8);
      const end = new IntersectionObserver(([seen]) => seen.isIntersecting && drawMore(), { rootMargin: "1500px" });
      end.observe($("more"));
      readRest();
    }),
  );

  let typing;
  $("search").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => change({ query: $("search").value }), 120);
  });
  addEventListener("hashchange", () => {
    if (location.hash.slice(1) === writeAddress.last || location.hash === "#groups") return;
    readAddress();
    refilter();
  });
  $("groups").addEventListener("click", (event) => {
    const tile = event.target.closest(".tile");
    if (tile) open(tile.item);
  });
  $("theme").addEventListener("click", turnTheme);
  $("help").addEventListener("click", () => $("keys").showModal());
  $("keys-close").addEventListener("click", () => $("keys").close());
  $("full-close").addEventListener("click", () => $("full").close());
  $("full-copy").addEventListener("click", copyCurrent);
  $("previous").addEventListener("click", () => go(-1));
  $("next").addEventListener("click", () => go(1));
  $("full").addEventListener("close", closed);
  onTouches($("stage"));
  addEventListener("keydown", onKey, true);
}

addEventListener("DOMContentLoaded", start);
