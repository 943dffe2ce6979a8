// teach.py's page: the clips of a data set, and the candidates of find_clips.py, most suspicious first.
let items = [], shownItems = [], chosen = null;     // chosen: an item's number
const before = [];      // what undo brings back: items as they were
const cards = new Map();    // number -> its <li>, of those drawn so far
const numbered = (number) => items.find((item) => item.number === number);
const suspicious = (item) => item.reasons.length > 0;
const changed = (item) => item.action === "drop" || item.now !== item.class;

const seenCards = new IntersectionObserver((entries) => {     // hundreds of films: those in sight play, the others rest
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting && !target.src) target.src = target.dataset.src;
    if (calm) continue;
    if (isIntersecting) target.play().catch(() => {});
    else target.pause();
  }
}, { rootMargin: "100px" });

function card(item) {
  const box = make("li", null, { class: "card", tabindex: -1, "data-number": item.number });
  box.onclick = () => choose(item.number, false);
  cards.set(item.number, box);
  fill(item);
  return box;
}

function fill(item) {
  const box = cards.get(item.number), name = item.name || item.source, old = box.querySelector("video");
  const knob = box.querySelector(".end:focus")?.getAttribute("aria-label");
  const ends = item.start === null ? "" : `?start=${item.start}&end=${item.end}`, src = `thumb/${item.number}.mp4${ends}`;
  const video = old?.dataset.src === src ? old : player(src, name);
  if (video !== old) {      // until it is in sight nothing is asked for
    video.removeAttribute("src");
    Object.assign(video, { autoplay: false, preload: calm ? "metadata" : "none" });
    video.dataset.src = src;
    seenCards.observe(video);
  }
  const select = make("select", null, { "aria-label": `class of number ${item.number}` });
  select.append(...[...new Set([item.now, item.class, ...state.classes.map((cls) => cls.name)])].map((cls) => new Option(cls, cls)));
  select.value = item.now;
  select.onchange = () => {
    relabel(select.value, item.number);
    box.focus();
  };
  const act = (key, words, action) => {
    const one = button([key, words, () => change(item.number, { action })]);
    one.setAttribute("aria-pressed", item.action === action);
    return one;
  };
  const color = swatch(colorOf(item.now));
  box.replaceChildren(video, make("p", null, { class: "top" }, make("strong", `#${item.number}`), make("span", name, { class: "title" }), make("small", item.part || "")),
    make("p", null, { class: "top" }, color, select));
  if (item.now !== item.class) box.append(make("p", `was ${item.class}`, { class: "changed" }));
  if (item.start !== null) box.append(make("p", `${clock(item.start)} to ${clock(item.end)}`, { class: "times" }));
  box.append(make("p", null, {}, make("small", `suspicion ${item.suspicion.toFixed(2)}${item.guess?.length ? `; the network: ${guessed(item)}` : ""}`)));
  if (item.reasons.length) box.append(make("p", item.reasons.join("; "), { class: "reasons" }));
  box.append(make("p", null, { class: "buttons" }, act("k", "Keep", "keep"), act("d", "Drop", "drop")));
  box.classList.toggle("dropped", item.action === "drop");
  if (item.number === chosen) choose(chosen, false);
  if (knob) box.querySelector(`.end[aria-label=${knob}]`)?.focus();
}

// Of a candidate that is chosen: its film as a strip of frames, with two handles.
function strip(item) {
  const around = item.end - item.start, low = Math.max(0, item.start - around), high = Math.min(item.seconds ?? Infinity, item.end + around);
  const box = make("div", null, { class: "ends" }, make("img", null, { src: `film/${item.number}.jpg?from=${low.toFixed(2)}&to=${high.toFixed(2)}`, alt: "", draggable: "false" }));
  const moment = { start: item.start, end: item.end };
  const times = cards.get(item.number).querySelector(".times");
  handles(box, moment, low, high, () => { times.textContent = `${clock(moment.start)} to ${clock(moment.end)}`; },
    () => change(item.number, { ...moment }, false));
  return box;
}

function choose(number, focus = true) {
  const box = cards.get(number), item = numbered(number);
  if (chosen !== number || !box.classList.contains("on")) {
    const old = cards.get(chosen);
    old?.classList.remove("on", "wide");
    old?.setAttribute("tabindex", -1);
    if (chosen !== number) old?.querySelector(".ends")?.remove();
  }
  chosen = number;
  box.classList.add("on");
  box.setAttribute("tabindex", 0);
  if (state.mode === "candidates" && !box.querySelector(".ends")) {
    box.classList.add("wide");
    box.querySelector("video").after(strip(item));
  }
  if (focus) {
    box.focus({ preventScroll: true });
    box.scrollIntoView({ block: "nearest" });
  }
}

function step(by) {
  const at = shownItems.findIndex((item) => item.number === chosen), to = Math.max(0, Math.min(shownItems.length - 1, at + by));
  while (to >= byId("grid").children.length && !byId("more").hidden) byId("more").click();
  if (shownItems[to]) choose(shownItems[to].number);
}

function columns() {
  const [first, ...rest] = byId("grid").children;
  const next = rest.findIndex((box) => box.offsetTop > first.offsetTop);
  return next < 0 ? 1 : next + 1;
}

function change(number, difference, onwards = true) {
  const item = numbered(number);
  if (!item) return;
  put({ ...item, ...difference }, () => {
    before.push(item);
    if (onwards && chosen === number) step(1);
  });
}

function put(item, then) {
  const { number, action, now, start, end } = item;
  send("item", { number, action, class: now, start, end }, ({ item: saved }) => {
    [items, shownItems] = [items, shownItems].map((list) => list.map((one) => one.number === number ? saved : one));
    if (cards.has(number)) fill(saved);
    tell("said", `#${number}: ${action}, ${now}${start === null ? "" : `, ${clock(start)} to ${clock(end)}`}.`);
    count();
    then();
  });
}

const relabel = (name, number = chosen) => change(number, { action: "keep", now: name });
function takeBack() {
  const item = before.at(-1);
  if (!item) return tell("said", "Nothing to undo.");
  put(item, () => {
    before.pop();
    if (cards.has(item.number)) choose(item.number);
  });
}

function count() {
  const of = (words, test) => `${items.filter(test).length} ${words}`;
  tell("count", [`${shownItems.length} of ${items.length} shown`, of("suspicious", suspicious), of("dropped", (item) => item.action === "drop"),
    of("relabelled", (item) => item.now !== item.class)].join(", "));
}

function select() {
  const value = (id) => byId(id).value, text = value("by-text").toLowerCase();
  const kinds = { "": () => true, suspicious, changed, drop: (item) => item.action === "drop" };
  shownItems = items.filter((item) => (!value("by-class") || item.now === value("by-class") || item.class === value("by-class")) &&
    (!value("by-part") || item.part === value("by-part")) && kinds[value("by-kind")](item) && `${item.name || ""} ${item.source} ${item.reasons.join(" ")}`.toLowerCase().includes(text));
  shownItems.sort((a, b) => b.suspicion - a.suspicion || a.number - b.number);
  cards.clear();
  seenCards.disconnect();
  chosen = null;
  grow(byId("grid"), byId("more"), shownItems, card);
  if (shownItems.length) choose(shownItems[0].number, false);
  count();
}

async function startReview() {
  ({ items } = await api("items"));
  const options = (id, names) => byId(id).replaceChildren(new Option("all", ""), ...[...new Set(names)].filter(Boolean).sort().map((name) => new Option(name, name)));
  options("by-class", items.flatMap((item) => [item.class, item.now]));
  options("by-part", items.map((item) => item.part));
  byId("by-part").parentElement.hidden = byId("by-part").length === 1;
  select();
}
byId("filters").addEventListener("input", select);
byId("filters").addEventListener("submit", (event) => {
  event.preventDefault();
  document.activeElement.blur();      // the keys are keys again
});
byId("filters").addEventListener("reset", () => setTimeout(select));

byId("renaming").onsubmit = (event) => {
  event.preventDefault();
  const name = typed("renamed");
  if (name) relabel(name);
};

let judging = false;
modes.clips = {
  choose: relabel, start: startReview,
  show() {      // what networks say of the clips comes a while after the clips
    if (judging && !state.training) startReview().then(() => tell("said", "Sorted again, by networks that have not seen a clip's group."));
    judging = state.training;
  },
  actions: [["k", "Keep", () => change(chosen, { action: "keep" })], ["d", "Drop", () => change(chosen, { action: "drop" })],
    ["r", "Another class", () => cards.get(chosen)?.querySelector("select").focus()], ["n", "New class", () => byId("renamed").focus()], ["u", "Undo", takeBack],
    [" ", "Pause", () => { const video = cards.get(chosen)?.querySelector("video"); video?.paused ? video.play() : video?.pause(); }],
    ["ArrowLeft", "the one before", () => step(-1)], ["ArrowRight", "the next", () => step(1)],
    ["ArrowUp", "one row up", () => step(-columns())], ["ArrowDown", "one row down", () => step(columns())],
    ["/", "Filter by text", () => byId("by-text").focus()]],
};
modes.candidates = { ...modes.clips, actions: [...modes.clips.actions, ["e", "Move its ends", () => cards.get(chosen)?.querySelector(".end")?.focus()]] };
