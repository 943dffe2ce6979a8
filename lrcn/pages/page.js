// The report page; shared.js stands before it in the same script.
const data = JSON.parse(byId("data").textContent);
const mark = (right) => make("span", right ? "✓" : "✗", { class: right ? "right" : "wrong", title: right ? "right" : "wrong" });

// ---------------------------------------------------------------- theme and charts

function themed(figure) {
  const css = getComputedStyle(document.documentElement), color = (name) => css.getPropertyValue(name).trim();
  const layout = { ...figure.layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: color("--ink"), family: css.getPropertyValue("font-family") || "sans-serif" },
    hoverlabel: { bgcolor: color("--panel"), bordercolor: color("--edge"), font: { color: color("--ink") }, align: "left" } };
  if (!layout.width) layout.autosize = true;
  for (const axis of Object.keys(layout).filter((key) => /^[xy]axis/.test(key)))
    layout[axis] = { ...layout[axis], gridcolor: color("--edge"), zerolinecolor: color("--edge"), linecolor: color("--edge"), automargin: true };
  const traces = figure.data.map((trace) => trace.type === "heatmap" ?
    { ...trace, colorscale: [[0, color("--low")], [1, color("--high")]] } : trace);
  return [traces, layout, { displayModeBar: false, responsive: !layout.width, scrollZoom: false }];
}

const drawn = new Map();      // element -> the figure in it
async function draw(element, figure) {
  drawn.set(element, figure);
  await Plotly.react(element, ...themed(figure));
}

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    draw(target, data.charts[target.dataset.chart]).then(() => wire(target));
  }
}, { rootMargin: "300px" });

function wire(element) {
  element.dataset.ready = "1";
  if (element.dataset.chart === "confusion")
    element.on("plotly_click", ({ points: [{ pointIndex: [row, column] }] }) => showCell(row, column, true));
  const film = element.closest(".film");
  if (film) wireTimeline(element, film);
}

function setTheme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  for (const [element, figure] of drawn) draw(element, figure);
}
byId("theme").addEventListener("change", (event) => setTheme(event.target.value));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTheme(byId("theme").value));

// ---------------------------------------------------------------- test

function bars([name, label, predicted, top, ofTrue]) {
  const shown = top.some(([cls]) => cls === label) ? top : [...top, [label, ofTrue]];
  return shown.map(([cls, p]) => {
    const length = make("i", null, { "aria-hidden": "true" });
    length.style.width = `${100 * p}%`;
    return make("div", null, { class: cls === label ? "bar true" : "bar" }, make("b", data.classes[cls], { title: data.classes[cls] }),
      make("span", null, {}, length), make("span", p.toFixed(3)));
  });
}
const row = (video) => {
  const [name, label, predicted, , , clip, still] = video, right = label === predicted;
  const item = make("li"), answer = make("div", null, { class: "answer" }, make("div", null, {}, mark(right), " ", make("strong", name)));
  if (still) {
    const image = make("img", null, { src: still, alt: "", loading: "lazy" });
    const button = make(clip ? "button" : "div", null, clip ? { type: "button", class: "still", title: "play", "aria-label": `Play ${name}` } : { class: "still" }, image);
    if (clip) button.onclick = () => button.replaceWith(player(clip, name));
    item.append(button);
  }
  if (!right) answer.append(make("div", `true: ${data.classes[label]}; predicted: ${data.classes[predicted]}`));
  answer.append(...bars(video));
  item.append(answer);
  if (clip && !still) {
    const button = make("button", "Play", { type: "button", "aria-label": `Play ${name}` });
    button.onclick = () => button.replaceWith(player(clip, name));
    answer.append(button);
  }
  return item;
};

function showCell(label, predicted, jump = false) {
  byId("cell-true").value = label;
  byId("cell-predicted").value = predicted;
  const found = data.videos.filter((video) => video[1] === label && video[2] === predicted);
  const clips = found.filter((video) => video[5]), names = [data.classes[label], data.classes[predicted]];
  const panel = byId("cell");
  const words = `${found.length} ${found.length === 1 ? "video" : "videos"} of ${names[0]} predicted as ${names[1]}`;
  panel.replaceChildren(make("h3", words));
  if (found.length) {
    const all = make("button", "Show them in the list", { type: "button" });
    all.onclick = () => showVideos({ label, predicted });
    panel.append(make("p", `${clips.length} of them play here. `, {}, all));
  }
  panel.append(make("div", null, { class: "clips" }, ...clips.map((video) => make("div", null, { class: "clip" },
    player(video[5], video[0]), make("p", null, {}, mark(label === predicted), ` ${video[0]}`), make("p", `probability of ${names[1]}: ${video[3][0][1].toFixed(3)}`)))));
  if (jump) panel.scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
}

function showVideos({ label = "", predicted = "" }) {
  byId("filters").reset();
  byId("by-class").value = label;
  byId("by-predicted").value = predicted;
  filter();
  byId("videos").scrollIntoView();
  byId("by-class").focus({ preventScroll: true });
}

function filter() {
  const value = (id) => byId(id).value, text = value("by-name").toLowerCase();
  const limit = (id, other) => value(id) === "" ? other : Number(value(id));
  const low = limit("by-low", 0), high = limit("by-high", 1);
  const found = data.videos.filter(([name, label, predicted, top]) =>
    (value("by-class") === "" || label === Number(value("by-class"))) &&
    (value("by-predicted") === "" || predicted === Number(value("by-predicted"))) &&
    (value("by-answer") === "" || (label === predicted) === (value("by-answer") === "1")) &&
    top[0][1] >= low && top[0][1] <= high && name.toLowerCase().includes(text));
  const sign = { list: 0, down: -1, up: 1 }[value("by-order")];
  if (sign) found.sort((a, b) => sign * (a[3][0][1] - b[3][0][1]));
  const right = found.filter(([, label, predicted]) => label === predicted).length;
  byId("count").textContent = `${found.length} of ${data.videos.length} videos, ${right} right`;
  grow(byId("rows"), byId("more"), found, row);
}

function classTable(key, descending) {
  const order = data.classes.map((_, i) => i), of = { accuracy: data.accuracy, n: data.n, train: data.train ?? data.n };
  order.sort((a, b) => key === "name" ? data.classes[a].localeCompare(data.classes[b]) : (of[key][a] ?? -1) - (of[key][b] ?? -1));
  if (descending) order.reverse();
  byId("class-table").tBodies[0].replaceChildren(...order.map((i) => {
    const other = data.matrix[i].map((n, k) => k === i ? -1 : n), most = Math.max(...other), into = other.indexOf(most);
    const name = make("button", data.classes[i], { type: "button", title: "its test videos" });
    name.onclick = () => showVideos({ label: i });
    return make("tr", null, {}, make("th", data.few[i] ? "◆ " : "", { scope: "row" }, name), make("td", percent(data.accuracy[i]), { class: "num" }),
      make("td", data.n[i], { class: "num" }), make("td", data.train ? data.train[i] : "–", { class: "num" }),
      make("td", most > 0 ? `${data.classes[into]} (${most})` : ""));
  }));
}

function setUpTest() {
  for (const select of document.querySelectorAll("select.names")) {
    if (select.id.startsWith("by-")) select.append(new Option("all", ""));
    select.append(...data.classes.map((name, i) => new Option(name, i)));
  }
  const chosen = () => showCell(Number(byId("cell-true").value), Number(byId("cell-predicted").value));
  for (const id of ["cell-true", "cell-predicted"]) byId(id).addEventListener("change", chosen);
  const wrong = data.matrix.flatMap((cells, i) => cells.map((n, k) => [i, k, n])).filter(([i, k, n]) => i !== k && n);
  wrong.sort((a, b) => b[2] - a[2]);
  byId("mistakes").append(...wrong.slice(0, 24).map(([i, k, n]) => {
    const button = make("button", `${data.classes[i]} predicted as ${data.classes[k]} (${n} of ${data.n[i]})`, { type: "button" });
    button.onclick = () => showCell(i, k, true);
    return make("li", null, {}, button);
  }));
  if (!wrong.length) byId("mistakes").append(make("li", "None: every video is right."));
  for (const button of document.querySelectorAll("#class-table thead button")) {
    button.onclick = () => {
      const head = button.closest("th"), descending = head.getAttribute("aria-sort") === "ascending";
      for (const th of head.parentElement.cells) if (th.ariaSort) th.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      classTable(button.dataset.sort, descending);
    };
  }
  classTable("accuracy", true);
  byId("filters").addEventListener("input", filter);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => setTimeout(filter));
  filter();
}

function setUpComparison() {
  const { names, videos, answers } = data.compared, table = byId("disagree");
  const apart = videos.map((_, i) => i).filter((i) => answers.some((own) => own[i] !== answers[0][i]));
  byId("disagree-count").textContent = names.length > 1 ? `On ${apart.length} of ${videos.length} videos they give different answers.` : "";
  table.tHead.append(make("tr", null, {}, ...["video", "true", ...names].map((name) => make("th", name))));
  grow(table.tBodies[0], byId("disagree-more"), apart, (i) => make("tr", null, {}, make("th", videos[i][0], { scope: "row" }), make("td", videos[i][1]),
    ...answers.map((own) => make("td", null, {}, mark(own[i] === videos[i][1]), ` ${own[i]}`))), 12);
}

// ---------------------------------------------------------------- films

function wireTimeline(element, film) {
  const video = film.querySelector("video");
  if (!video) return;
  element.addEventListener("click", (event) => {
    const plot = element.querySelector(".nsewdrag").getBoundingClientRect(), [from, to] = element.layout.xaxis.range;
    const share = (event.clientX - plot.left) / plot.width;
    if (share >= 0 && share <= 1) video.currentTime = from + share * (to - from);
  }, true);
  const cursor = () => Plotly.relayout(element, { shapes: [{ type: "line", x0: video.currentTime, x1: video.currentTime, yref: "paper", y0: 0, y1: 1, line: { width: 2, color: "rgb(200,16,46)" } }] });
  for (const name of ["timeupdate", "seeked"]) video.addEventListener(name, cursor);
}

for (const film of document.querySelectorAll(".film")) {
  const { segments, plays } = data.films[film.dataset.film], video = film.querySelector("video");
  film.querySelector(".segments").append(...segments.map(([start, end, label, p]) => {
    const words = `${clock(start)} to ${clock(end)} ${label}${p === null ? "" : ` ${p.toFixed(2)}`}`;
    const part = make(plays ? "button" : "span", words, plays ? { type: "button" } : {});
    if (plays) part.onclick = () => { video.currentTime = start; };
    return make("li", null, {}, part);
  }));
}

if (byId("gate-k")) byId("gate-k").addEventListener("change", (event) =>
  draw(document.querySelector('[data-chart="gates"]'), data.gates[event.target.value]));
if (data.videos.length) setUpTest();
if (data.compared) setUpComparison();
for (const element of document.querySelectorAll("[data-chart]")) seen.observe(element);
document.documentElement.dataset.ready = "1";
