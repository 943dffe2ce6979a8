// teach.py's page: what all its modes share, and the moments of films. review.js: clips and candidates.
// pages/shared.js comes first. Whatever the server says is text.
const STEP = 0.2, LEAST = 0.4;      // seconds: one press of an arrow; the shortest moment
const KEY_NAMES = { " ": "space", ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Escape: "Esc" };
let state = { version: null, mode: null, classes: [], films: [] };
const modes = {};       // mode -> {actions: [[key, words, what it does]], start(), show()}

const tell = (id, words) => { if (byId(id).textContent !== words) byId(id).textContent = words; };
const wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));
const colorOf = (name) => state.classes.find((cls) => cls.name === name)?.color || "#888888";
const called = (name) => name === null ? "none of these" : name === "" ? "skipped" : name;

async function api(path, body) {
  const answer = await fetch(`api/${path}`, body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(said.error || `the server answers ${answer.status}`), { status: answer.status });
  return said;
}

let busy = false;
async function send(path, body, then) {     // one at a time: a key that is pressed meanwhile was meant for what is on screen now
  if (busy) return;
  busy = true;
  try {
    const answer = await api(path, body);
    busy = false;
    await then(answer);
  } catch (error) {
    tell("said", `Not saved: ${error.message}. Press the key again.`);
  }
  busy = false;
}

async function watch() {
  for (let gone = true; ;) {
    try {
      const news = await api(state.version === null ? "state" : `state?after=${encodeURIComponent(state.version)}`);
      tell("gone", "");
      await show(news, gone);
      gone = false;
    } catch (error) {
      if (!error.status) console.info(error.message);
      tell("gone", error.status === 404 || error.status === 403 ? "teach.py was restarted: open the address that it printed." :
        "teach.py does not answer. What you said is on disk. Start it again with the same command: this page tries again every 2 seconds.");
      gone = true;
      state.version = null;
      await wait(2);
    }
  }
}

async function show(news, anew) {
  state = { ...state, ...news };
  const { mode, progress = {} } = state, [title, panel] = { films: ["Teach", "films"], clips: ["Clips", "review"], candidates: ["Candidates", "review"] }[mode];
  byId("bar").hidden = !progress.total || progress.done >= progress.total;
  byId("bar").value = progress.total ? progress.done / progress.total : 0;
  tell(panel === "films" ? "note" : "table", progress.note || "");
  if (byId(panel).hidden) {
    byId(panel).hidden = false;
    document.title = title;
    tell("title", title);
    const rows = [...modes[mode].actions.map(([key, words]) => [KEY_NAMES[key] || key, words]), ["1 … 9", "the class with this number"], ["?", "these keys"]];
    byId("keys").querySelector("dl").append(...rows.flatMap(([key, words]) => [make("dt", null, {}, make("kbd", key)), make("dd", words)]));
  }
  modes[mode].show();
  if (anew) await modes[mode].start();
  document.documentElement.dataset.ready = "1";
}

// ---------------------------------------------------------------- keys, and buttons that do the same

function chord(event) {     // a keyboard may have its digits on shift, or its letters elsewhere
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code)?.[1];
  if (/^\d$/.test(event.key) || (digit && !event.shiftKey)) return /^\d$/.test(event.key) ? event.key : digit;
  if (event.shiftKey && event.key === "ArrowLeft") return "ArrowDown";
  if (event.shiftKey && event.key === "ArrowRight") return "ArrowUp";
  return event.key.length === 1 ? event.key.toLowerCase() : event.key;
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("keys").open || !state.mode) return;
  if (event.target.closest("input, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const key = chord(event);
  if (event.target.closest("button, summary") && (key === " " || key === "Enter")) return;
  if (event.repeat && !key.startsWith("Arrow")) return;     // a key held down is one answer
  const { actions, choose } = modes[state.mode], found = actions.find(([name]) => name === key);
  const cls = /^[1-9]$/.test(key) && state.classes.find((one) => one.key === key);
  if (key === "?") byId("keys").showModal();
  else if (found) found[2]();
  else if (cls) choose(cls.name);
  else return;
  event.preventDefault();
});
byId("help").onclick = () => byId("keys").showModal();
// A button that the mouse has pressed must not take the next space for itself
addEventListener("click", (event) => { if (event.detail) event.target.closest("button")?.blur(); });

const button = ([key, words, run]) => {
  const made = make("button", null, { type: "button", "data-key": key }, make("kbd", KEY_NAMES[key] || key), make("span", words));
  made.onclick = run;
  return made;
};

// Two handles over a stretch from low to high seconds of a film: dragged, or moved by arrows when focused.
// moved() follows every move of the moment's start or end, rested() the last one. Returns move(end, seconds).
function handles(box, moment, low, high, moved, rested) {
  const between = make("span", null, { class: "between" }), share = (at) => `${100 * (at - low) / (high - low)}%`;
  const focused = box.contains(document.activeElement) && document.activeElement.getAttribute("aria-label"), knobs = {};
  let timer = null, held = false;
  const rest = () => {
    clearTimeout(timer);
    if (!held) timer = setTimeout(rested, 250);
  };
  const draw = () => {
    between.style.left = share(moment.start);
    between.style.width = `${100 * (moment.end - moment.start) / (high - low)}%`;
    for (const [end, knob] of Object.entries(knobs)) {
      knob.style.left = share(moment[end]);
      knob.setAttribute("aria-valuenow", moment[end]);
      knob.setAttribute("aria-valuetext", clock(moment[end]));
    }
  };
  const move = (end, seconds) => {
    const [from, to] = end === "start" ? [low, moment.end - LEAST] : [moment.start + LEAST, high];
    moment[end] = Math.round(100 * Math.max(from, Math.min(to, seconds))) / 100;
    draw();
    moved();
    rest();
  };
  for (const end of ["start", "end"]) {
    const knob = knobs[end] = make("span", null, { class: "end", role: "slider", tabindex: 0, "aria-label": end, "aria-valuemin": low, "aria-valuemax": high });
    knob.onpointerdown = (event) => {
      event.preventDefault();
      knob.setPointerCapture(event.pointerId);
      held = true;
    };
    knob.onlostpointercapture = () => {
      held = false;
      rest();
    };
    knob.onpointermove = (event) => {
      const room = box.getBoundingClientRect();
      if (knob.hasPointerCapture(event.pointerId)) move(end, low + (event.clientX - room.left) / room.width * (high - low));
    };
    knob.onkeydown = (event) => {
      const by = { ArrowLeft: -STEP, ArrowDown: -STEP, ArrowRight: STEP, ArrowUp: STEP }[event.key];
      if (!by) return;
      move(end, moment[end] + by);
      event.preventDefault();
      event.stopPropagation();
    };
  }
  box.replaceChildren(...box.querySelectorAll("img"), between, ...Object.values(knobs));
  draw();
  knobs[focused]?.focus();
  return move;
}

// ---------------------------------------------------------------- the moment on screen

let moments = [], found = null;     // what to ask, the first is on screen; or a list that the person asked for: {words, of, moments}
let move = null;
const queue = () => found ? found.moments : moments;
const clips = new Map();    // address -> its <video>: that on screen and the next ones
const address = ({ id, start, end }) => `clip/${encodeURIComponent(id)}.mp4?start=${start}&end=${end}`;
const onScreen = () => byId("stage").querySelector("video.on");
const WHY = { random: "drawn at random: only such moments count for the accuracy", unsure: "the network is unsure of it", unlike: "unlike what has been labelled", chosen: "you chose it" };

function clip(moment) {
  const path = address(moment);
  if (!clips.has(path)) {
    const video = player(path, `${moment.film}, ${clock(moment.start)} to ${clock(moment.end)}`);
    Object.assign(video, { preload: "auto", autoplay: false, onloadeddata: showClip, onerror: showClip });
    byId("stage").append(video);
    clips.set(path, video);
  }
  return clips.get(path);
}

// Put the first moment's clip on the screen as soon as it has a picture. While a moved moment's new clip is made
// the old one stays; of another moment nothing stays, or its label would be a label of the wrong picture.
function showClip() {
  const moment = queue()[0], video = moment && clip(moment), old = onScreen();
  tell("empty", !moment ? "" : video.error ? "This clip cannot be shown. Skip it with s." : "…");
  if (old && old !== video && (!moment || video.readyState >= 2 || old.dataset.id !== moment.id)) old.classList.remove("on");
  if (!video || video.readyState < 2 || video === old) return;
  video.classList.add("on");
  video.dataset.id = moment.id;
  video.currentTime = 0;
  if (!calm) video.play().catch(() => {});
}

function present() {
  const [moment] = queue();
  const wanted = queue().slice(0, 3).map((one) => [address(one), clip(one)]);
  showClip();
  for (const [path, video] of clips) {
    if (wanted.some(([other]) => other === path) || (video === onScreen() && video.dataset.id === moment?.id)) continue;
    video.removeAttribute("src");       // it need not be loaded to its end
    video.load();
    video.remove();
    clips.delete(path);
  }
  for (const id of ["caption", "moment-ends", "moves"]) byId(id).hidden = !moment;
  for (const one of byId("actions").children) one.disabled = !moment && "0snm g".includes(one.dataset.key);
  byId("guess").hidden = true;
  byId("found").hidden = !found;
  if (found) tell("found-words", found.words + (found.of > 1 ? `: ${found.of - found.moments.length + 1} of ${found.of}` : ""));
  if (moment) caption(moment);
  else {
    const { done = 0, total = 0 } = state.progress || {};
    tell("empty", done < total ? "The films are being read. The first moments come at once." : "Nothing more to ask. Look at the suspects, choose in a film's timeline, or finish.");
  }
  if (moment) {
    const around = 2 * (moment.end - moment.start), low = Math.max(0, moment.start - around), high = Math.min(moment.seconds, moment.end + around);
    move = handles(byId("moment-ends"), moment, low, high, () => caption(moment), () => moment === queue()[0] && present());
  }
  marks();
}

function caption(moment) {
  const [name, times, why] = byId("caption").children;
  name.textContent = moment.film;
  times.textContent = `${clock(moment.start)} to ${clock(moment.end)}`;
  why.textContent = `${WHY[moment.why] || ""}${"label" in moment ? `; labelled ${called(moment.label)}` : ""}`;
}

// The network's guess stays hidden until it is asked for, or told after the answer: who reads it first agrees with
// it too often, and the labels would teach the network what it believes already.
const guessed = ({ guess }) => guess?.length ? guess.map(([name, p]) => `${called(name)} ${p.toFixed(2)}`).join(", ") : "nothing yet";
function toggleGuess() {
  byId("guess").hidden = !byId("guess").hidden;
  if (queue()[0]) tell("guess", `The network: ${guessed(queue()[0])}`);
}

async function ask() {
  found = null;
  for (const [path, video] of clips) {
    if (!video.error) continue;     // the server was away: it is asked for again
    video.remove();
    clips.delete(path);
  }
  if (!busy) ({ moments } = await api("next"));
  present();
}

function label(name) {
  const moment = queue()[0], video = moment && clip(moment);
  if (!moment || busy) return;
  if (name !== "" && onScreen()?.dataset.id !== moment.id && !video.error) {
    tell("said", "This moment is not on screen yet. Wait for its picture, or skip it with s.");
    return;
  }
  const { id, film, start, end } = moment, list = found;
  send("label", { id, film, start, end, label: name }, (answer) => {
    tell("said", `${called(name)}: ${film}, ${clock(start)} to ${clock(end)}.${name === "" ? "" : ` The network had said ${guessed(moment)}.`}`);
    ({ moments } = answer);
    list?.moments.shift();
    if (!found?.moments.length) found = null;
    present();
    return show(answer.state);
  });
}

const undo = () => send("undo", {}, (answer) => {
  tell("said", "Undone.");
  ({ moments } = answer);
  found = null;
  present();
  return show(answer.state);
});

async function find(query, words) {
  try {
    const { moments: list } = await api(`find?${new URLSearchParams(query)}`);
    if (!list.length) return tell("said", `${words}: nothing found.`);
    found = { words, of: list.length, moments: list };
    present();
  } catch (error) {
    tell("said", `${words}: ${error.message}`);
  }
}

function pause() {
  const video = onScreen();
  if (video?.paused) video.play();
  else video?.pause();
}

const actions = [
  ["0", "None of these", () => label(null)],
  ["s", "Skip", () => label("")],
  ["u", "Undo", undo],
  ["n", "New class", () => byId("new").focus()],
  [" ", "Pause", pause],
  ["g", "Its guess", toggleGuess],
  ["m", "More like this", () => queue()[0] && find({ by: "like", value: queue()[0].id }, "More like this")],
  ["x", "Suspects", () => find({ by: "suspects" }, "Suspects")],
];
const by = (end, step) => () => queue()[0] && move(end, queue()[0][end] + step);
const moves = [["ArrowLeft", "start −", by("start", -STEP)], ["ArrowRight", "start +", by("start", STEP)],
  ["ArrowDown", "end −", by("end", -STEP)], ["ArrowUp", "end +", by("end", STEP)]];
const others = [["f", "Find by class", () => byId("wanted").focus()], ["/", "a class by a part of its name", () => byId("filter").focus()],
  ["Escape", "back to what is asked", () => found && ask()]];
byId("actions").append(...actions.map(button));
byId("moves").append(...moves.map(button));
byId("back").onclick = ask;

// ---------------------------------------------------------------- beside it

let listed = "";
function classButtons() {
  const background = state.classes.find((cls) => cls.background), shown = state.classes.filter((cls) => !cls.background);
  const signature = JSON.stringify(shown.map(({ name, key, color }) => [name, key, color]));
  if (signature !== listed) {     // else the buttons stay, and what is focused
    listed = signature;
    byId("classes").replaceChildren(...shown.map(({ name, key, color }) => {
      const one = make("button", null, { type: "button", title: name }, ...(key ? [make("kbd", key)] : []), swatch(color), make("span", name, { class: "name" }), make("span", "", { class: "count" }));
      one.onclick = () => label(name);
      return one;
    }));
    const chosen = byId("wanted").value;
    byId("wanted").replaceChildren(...state.classes.map(({ name }) => new Option(name, name)));
    if (shown.some(({ name }) => name === chosen)) byId("wanted").value = chosen;
    filter();
  }
  shown.forEach(({ count }, i) => { byId("classes").children[i].lastChild.textContent = count; });
  byId("filtering").hidden = shown.length <= 9;
  byId("finding").hidden = !state.classes.length;
  byId("actions").firstChild.lastChild.textContent = background ? `None of these: ${background.name} (${background.count})` : "None of these";
}

function swatch(color) {
  const square = make("span", null, { class: "swatch", "aria-hidden": "true" });
  square.style.background = color;
  return square;
}

function filter() {
  const text = byId("filter").value.toLowerCase();
  let first = true;
  for (const one of byId("classes").children) {
    one.hidden = !one.title.toLowerCase().includes(text);
    one.classList.toggle("first", Boolean(text) && !one.hidden && first);
    first &&= one.hidden;
  }
}
byId("filter").oninput = filter;
byId("filtering").onsubmit = (event) => {
  event.preventDefault();
  const first = byId("classes").querySelector(".first");
  byId("filter").value = "";
  byId("filter").blur();
  filter();
  if (first) label(first.title);
};
function typed(id) {        // a class's name as the server writes it; the keys are keys again
  const name = byId(id).value.normalize().trim().split(/\s+/).join(" ");
  byId(id).value = "";
  byId(id).blur();
  return name;
}
byId("adding").onsubmit = (event) => {
  event.preventDefault();
  const name = queue()[0] && typed("new");
  if (name) send("class", { name }, ({ classes }) => {
    state.classes = classes;
    classButtons();
    label(name);
  });
};
byId("finding").onsubmit = (event) => {
  event.preventDefault();
  document.activeElement.blur();
  find({ by: "class", value: byId("wanted").value }, `Most like ${byId("wanted").value}`);
};

function howWell() {
  const { accuracy, confusions = [], finish = {}, labels = 0, training } = state;
  byId("accuracy").replaceChildren(...accuracy ? [make("strong", percent(accuracy.value)), ` right; 95% interval ${percent(accuracy.low)} to ${percent(accuracy.high)}, n = ${accuracy.n} moments drawn at random, of ${accuracy.films} films. `] :
    ["Not known yet: it takes labels of moments drawn at random in two films or more. "], make("small", `${labels} labels${training ? "; training" : ""}.`));
  byId("confusions").previousElementSibling.hidden = !confusions.length;
  byId("confusions").replaceChildren(...confusions.slice(0, 8).map(([label, said, count]) =>
    make("li", null, {}, swatch(colorOf(label)), ` ${called(label)} predicted as `, swatch(colorOf(said)), ` ${called(said)}: ${count}`)));
  byId("finish").disabled = finish.state === "running";
  const [lines, run] = byId("finishing").children;
  lines.hidden = !finish.lines?.length;
  lines.textContent = (finish.lines || []).slice(-40).join("\n");
  lines.scrollTop = lines.scrollHeight;
  run.className = finish.state === "failed" ? "wrong" : "right";
  run.textContent = finish.run ? `Run folder: ${finish.run}` : finish.state === "failed" ? "Finish has failed: its last lines say why." : "";
}
byId("finish").onclick = () => send("finish", {}, () => tell("said", "Clips are cut, then it trains and tests. You may go on."));

let filmNames = "";
function films() {
  const names = JSON.stringify(state.films.map(({ name }) => name));
  if (names !== filmNames) {
    filmNames = names;
    byId("rows-of-films").replaceChildren(...state.films.map(({ name, seconds }, i) => {
      const line = make("button", null, { type: "button", class: "timeline" }, make("canvas", null, { width: 1200, height: 1 }), make("i", null, { class: "here" }));
      const at = (event) => Math.max(0, Math.min(1, event.offsetX / line.clientWidth)) * seconds;
      line.onmousemove = (event) => {
        const here = state.films[i].timeline.find(([start, end]) => start <= at(event) && at(event) < end);
        line.title = `${clock(at(event))}${here ? ` ${called(here[2])} ${here[3].toFixed(2)}` : ""}`;
      };
      line.onclick = (event) => {      // by keyboard: what comes after the moment on screen
        const [moment] = queue(), time = event.detail ? at(event) : moment?.film === name ? moment.end : 0;
        find({ by: "film", value: name, time: time.toFixed(2) }, `${name}, from ${clock(time)}`);
      };
      return make("div", null, { class: "of-film" }, make("div", null, {}, make("b", name, { title: name }), make("small")), line);
    }));
  }
  state.films.forEach((film, i) => {
    const [words, line] = byId("rows-of-films").children[i].children, canvas = line.firstChild, draw = canvas.getContext("2d");
    words.lastChild.textContent = `${clock(film.seconds)}, ${film.labels} labels${film.encoded < 1 ? `, ${Math.floor(100 * film.encoded)}% read` : ""}`;
    line.setAttribute("aria-label", `Timeline of ${film.name}: what comes next`);
    draw.clearRect(0, 0, canvas.width, 1);
    for (const [start, end, cls, confidence] of film.timeline) {
      draw.globalAlpha = 0.15 + 0.85 * confidence;
      draw.fillStyle = colorOf(cls);
      draw.fillRect(start / film.seconds * canvas.width, 0, (end - start) / film.seconds * canvas.width, 1);
    }
  });
  marks();
}

function marks() {      // where the moment on screen lies in its film
  const [moment] = queue();
  state.films.forEach(({ name, seconds }, i) => {
    const here = byId("rows-of-films").children[i]?.querySelector(".here");
    if (!here) return;
    here.hidden = moment?.film !== name;
    if (here.hidden) return;
    here.style.left = `${100 * moment.start / seconds}%`;
    here.style.width = `${100 * (moment.end - moment.start) / seconds}%`;
  });
}

modes.films = {
  actions: [...actions, ...moves, ...others], choose: label, start: ask,
  show() {
    classButtons();
    howWell();
    films();
    if (!queue().length && !busy) refill();
  },
};
let asking = false;
async function refill() {       // nothing on screen: whenever the server tells of something new
  if (asking) return;
  asking = true;
  await ask().catch(() => {});
  asking = false;
}
addEventListener("DOMContentLoaded", watch);
