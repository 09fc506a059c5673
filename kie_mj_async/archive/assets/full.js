// Full view of one file at a time, and the keys and touches of the page.

// ---- full view

const FAR = 3000; // groups: to draw more than this, only to come back to a picture, would take too long
let current = null; // the file in full view

function allFiles() {
  flat ??= visible.flatMap((group) => group.shown.flatMap((job) => filesOf(job).map((file) => ({ job, file }))));
  return flat;
}

const place = () => allFiles().findIndex((item) => item.file === current?.file);

function open(item) {
  current = item;
  if (!$("full").open) $("full").showModal();
  show();
}

function go(step) {
  const all = allFiles();
  const at = place();
  const to = step === "first" ? 0 : step === "last" ? all.length - 1 : at + step;
  if (!all[to] || to === at) return;
  current = all[to];
  show();
}

function show() {
  const { job, file } = current;
  const all = allFiles();
  const at = place();
  $("place").textContent = `${(at + 1).toLocaleString("en")} / ${all.length.toLocaleString("en")}`;
  $("previous").disabled = at <= 0;
  $("next").disabled = at >= all.length - 1;
  $("full-open").href = file.src;
  $("full-copy").hidden = !job.prompt;
  $("full-prompt").textContent = job.prompt || job.title;
  $("full-prompt").scrollTop = 0;
  const params = Object.entries(job.params).map(([name, value]) => (name === "type" ? textOf(name, value) : `${nameOfParam(name)} ${textOf(name, value)}`));
  const facts = [...params, file.w && `${file.w} × ${file.h}`, size(file.bytes), job.at && when(job.at)];
  $("full-facts").textContent = facts.filter(Boolean).join(" · ");
  $("stage").querySelector("video")?.pause();
  $("stage").replaceChildren(...drawFull(job, file));
  for (const near of [all[at + 1], all[at - 1]]) {
    if (near && !near.file.video && !near.file.gone) new Image().src = near.file.src;
  }
}

function drawFull(job, file) {
  if (file.gone) return [goneText(file)];
  const fail = () => {
    if (current?.file === file) $("stage").replaceChildren(goneText(file));
  };
  if (file.video) {
    const clip = make("video", { controls: true, loop: true, playsinline: true, preload: "auto", src: file.src });
    clip.addEventListener("error", fail);
    if (!calm.matches) clip.play().catch(() => {}); // the browser may want a click first
    return [clip];
  }
  const sharp = make("img", { class: "sharp", alt: job.prompt.slice(0, 300), src: file.src });
  sharp.addEventListener("error", fail);
  const under = file.thumb ? make("img", { alt: "", src: file.thumb }) : null;
  sharp.addEventListener("load", () => {
    sharp.classList.add("ready");
    if (under) setTimeout(() => under.remove(), 250);
  });
  return [under, sharp].filter(Boolean);
}

function closed() {
  $("stage").replaceChildren();
  const last = current;
  current = null;
  const tile = last && tileOf(last);
  if (!tile) return;
  tile.focus({ preventScroll: true });
  tile.scrollIntoView({ block: "nearest" });
}

function tileOf(item) {
  const group = item.job.group;
  const at = visible.indexOf(group);
  if (at < 0 || at - drawn > FAR) return null;
  if (at >= drawn) drawMore(at + 1 - drawn);
  return [...group.node.querySelectorAll(".tile")].find((tile) => tile.item.file === item.file);
}

// ---- keys and touches

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const typing = event.target.closest?.("input, select, textarea");
  if (typing) {
    if (event.key === "Escape" && typing.id === "search") typing.blur();
    return;
  }
  if ($("keys").open) return;
  const full = $("full").open;
  const acts = {
    "/": () => {
      current = null; // or closing would bring the focus back to its picture
      $("full").close();
      $("search").focus();
      $("search").select();
    },
    "?": () => $("keys").showModal(),
    c: () => copyCurrent(),
    o: () => openCurrent(),
  };
  const moves = { ArrowLeft: () => go(-1), ArrowRight: () => go(1), Home: () => go("first"), End: () => go("last") };
  const act = acts[event.key] || (full ? moves[event.key] : stepOf(event));
  if (!act) return;
  event.preventDefault();
  act();
}

/** Arrows move from picture to picture where one has the focus. */
function stepOf(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const tile = event.target.closest?.(".tile");
  if (!step || !tile) return null;
  const tiles = [...document.querySelectorAll(".tile")];
  return () => tiles[tiles.indexOf(tile) + step]?.focus();
}

function copyCurrent() {
  const prompt = current ? current.job.prompt : document.activeElement?.closest(".group")?.group.prompt;
  if (prompt) copy(prompt, "Prompt copied");
}

function openCurrent() {
  const item = current || document.activeElement?.item;
  if (!item) return;
  $("full-open").href = item.file.src;
  $("full-open").click();
}

function onTouches(stage) {
  let start = null;
  stage.addEventListener("touchstart", (event) => {
    const zoomed = (window.visualViewport?.scale || 1) > 1.01;
    start = event.touches.length === 1 && !zoomed ? event.touches[0] : null;
  }, { passive: true });
  stage.addEventListener("touchend", (event) => {
    if (!start) return;
    const { clientX, clientY } = event.changedTouches[0];
    const [x, y] = [clientX - start.clientX, clientY - start.clientY];
    start = null;
    if (Math.abs(x) > 45 && Math.abs(x) > 1.5 * Math.abs(y)) go(x < 0 ? 1 : -1);
    else if (y > 90 && y > 2 * Math.abs(x)) $("full").close();
  });
}
