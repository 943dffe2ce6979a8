"use strict";
// What the report page and the teach page have in common. Words of the data only ever become text: textContent,
// option texts, attributes by setAttribute, plotly's escaped texts.
const byId = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

function make(tag, text, attributes = {}, ...children) {
  const element = document.createElement(tag);
  if (text !== null && text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
const percent = (share) => share === null ? "–" : `${(100 * share).toFixed(1)}%`;

function grow(list, button, items, one, step = 24) {
  let shown = 0;
  const more = () => {
    list.append(...items.slice(shown, shown + step).map(one));
    shown = Math.min(items.length, shown + step);
    button.hidden = shown >= items.length;
  };
  list.replaceChildren();
  button.onclick = more;
  more();
}

function player(path, name) {
  const video = make("video", null, { src: path, preload: "metadata", playsinline: "", "aria-label": name, title: name });
  video.muted = video.loop = true;
  video.controls = calm;
  video.autoplay = !calm;
  return video;
}

function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
}
