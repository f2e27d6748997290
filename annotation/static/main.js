// The page: controls, keys, and what the server reports.

import { Editor } from "./editor.js";
import { $, Panel, element } from "./panel.js";
import { address, api, begin } from "./store.js";

const refresh = () => panel.refresh();
const editor = new Editor($("stage"), {
  say: (text) => ($("status").textContent = text),
  saving(pending, error) {
    $("saved").textContent = error ? `Not saved: ${error.message}` : pending ? "Saving…" : "Saved";
  },
  refresh,
});
const panel = new Panel(editor, go);
const { tools, view, history } = editor;
window.editor = editor; // for tests and the browser's console

function go(frame) {
  editor.following = false;
  return editor.attempt(editor.show(frame));
}

function choose(tool) {
  view.hand = false;
  tools.choose(tool);
  refresh();
}

function hand() {
  tools.cancel();
  view.hand = !view.hand;
  refresh();
}

function resize(size) {
  tools.diameter = Math.min(200, Math.max(1, Math.round(size)));
  refresh();
  view.drawTop();
}

function style(change) {
  Object.assign(view.style, change);
  if (editor.ids) view.drawMask(editor.ids);
}

const step = (frames) => go(editor.frame + frames);
const propagate = (direction) => editor.attempt(editor.propagate(direction, $("follow").checked));
const startOrPause = () => (editor.state.running ? pause() : propagate("both"));
const pause = () => editor.attempt(api("POST", "pause"));
const before = (old) => editor.attempt(editor.showOld(old));
const next = () => (editor.state.next === null ? editor.say("Propagate first.") : go(editor.state.next));
const accept = () => editor.change(() => {}, editor.ids.some(Boolean) ? undefined : true);
const undo = () => editor.attempt(history.step(false));
const redo = () => editor.attempt(history.step(true));

// [key, button or null, action, text]; one table for the keys, the buttons and the help
const ACTIONS = [
  ["ArrowLeft", null, () => step(-1), "Previous frame"],
  ["ArrowRight", null, () => step(1), "Next frame"],
  ["Shift+ArrowLeft", null, () => step(-10), "Ten frames back"],
  ["Shift+ArrowRight", null, () => step(10), "Ten frames on"],
  ["Home", null, () => go(0), "First frame"],
  ["End", null, () => go(editor.state.frames - 1), "Last frame"],
  ["F", "forward", () => propagate("forward"), "Propagate forward from here"],
  ["B", "backward", () => propagate("backward"), "Propagate backward from here"],
  ["Space", null, startOrPause, "Propagate in both directions, or pause"],
  ["P", "play", play, "Play or stop"],
  ["J", "next", next, "Next frame to correct"],
  ["C", "commit", accept, "Accept what is shown as your own mask of this frame"],
  ["X", "absent", () => editor.absent(), "The object is absent on this frame"],
  ["N", "add", () => editor.attempt(editor.addObject()), "New object"],
  ["A", null, () => choose("brush"), "Brush"],
  ["E", null, () => choose("eraser"), "Eraser"],
  ["L", null, () => choose("polygon"), "Polygon: Enter closes it, Escape drops it"],
  ["K", null, () => choose("box"), "Box around an object, which is then cut out"],
  ["R", "recut", () => editor.attempt(tools.cut()), "Cut again, with the strokes since the last cut as hints"],
  ["H", "hand", hand, "Hand: move the picture"],
  ["+", null, () => resize(Math.max(tools.diameter + 1, tools.diameter * 1.2)), "Larger brush"],
  ["-", null, () => resize(Math.min(tools.diameter - 1, tools.diameter / 1.2)), "Smaller brush"],
  ["]", "zoom-in", () => view.zoom(1.25), "Zoom in; the mouse wheel does, too"],
  ["[", "zoom-out", () => view.zoom(0.8), "Zoom out"],
  ["0", "fit", () => view.fit(), "Whole picture"],
  ["O", null, () => $("outline").click(), "Outline"],
  ["Ctrl+Z", "undo", undo, "Undo"],
  ["Ctrl+Shift+Z", "redo", redo, "Redo"],
  ["Ctrl+Y", null, redo, "Redo"],
  ["Enter", null, () => tools.finish(), "Close the polygon"],
  ["Escape", null, () => tools.cancel(), "Drop the polygon, box or stroke"],
  ["?", "help-button", () => $("help").showModal(), "This list"],
];
const MORE_KEYS = [
  ["1 … 9", "Choose an object"],
  ["V (hold)", "Before the last correction"],
  ["Alt+arrows", "Move the cross-hair (with Shift by one pixel), or with the hand the picture"],
  ["Alt+Enter", "Press or release the tool at the cross-hair"],
];

for (const [, id, action] of ACTIONS) if (id) $(id).onclick = action;
$("both").onclick = () => propagate("both");
$("pause").onclick = pause;
for (const [key, text] of [...ACTIONS.map(([key, , , text]) => [key, text]), ...MORE_KEYS]) {
  $("keys").append(element("dt", { textContent: key.replace("Arrow", "") }), element("dd", { textContent: text }));
}
for (const button of document.querySelectorAll("[data-tool]")) button.onclick = () => choose(button.dataset.tool);
$("size").oninput = () => resize($("size").valueAsNumber);
$("opacity").oninput = () => style({ opacity: $("opacity").valueAsNumber });
$("outline").onchange = () => style({ outline: $("outline").checked });
$("complete").onchange = () => editor.change(() => {}, $("complete").checked);
$("scrubber").oninput = () => go($("scrubber").valueAsNumber);
$("timeline").onclick = (event) => go(Math.floor((event.offsetX / $("timeline").clientWidth) * editor.state.frames));
$("before").onpointerdown = () => before(true);
$("before").onpointerup = $("before").onpointerleave = $("before").onblur = () => before(false);
$("videos").onchange = () => editor.attempt(openVideo());
$("import").onchange = async () => {
  const [file] = $("import").files;
  $("import").value = "";
  if (file) await editor.attempt(editor.importMask(file));
};
window.onbeforeunload = (event) => editor.saves.waiting.size && event.preventDefault();
// After a click with the mouse the keys are the page's again; those who use Tab keep their place.
document.addEventListener("click", (event) => {
  if (event.detail) event.target.closest("button, input:not([type=text])")?.blur();
});

function nameOf({ key, ctrlKey, metaKey, shiftKey }) {
  const name = { " ": "Space", "=": "+" }[key] ?? (key.length === 1 ? key.toUpperCase() : key);
  const shift = shiftKey && (name.length > 1 || ctrlKey) ? "Shift+" : "";
  return (ctrlKey || metaKey ? "Ctrl+" : "") + shift + name;
}

document.addEventListener("keydown", (event) => {
  const { target } = event, isControl = target.closest("button, a, input");
  if (!editor.ids || target.matches("select, [type=text]") || $("help").open) return;
  if (isControl && ["Enter", " "].includes(event.key)) {
    if (event.key === " " && target.id === "before") before(true);
    return;
  }
  if (target.matches("[type=range]") && event.key.startsWith("Arrow") && target.id !== "scrubber") return;
  const key = nameOf(event);
  const action = ACTIONS.find(([known]) => known === key)?.[2];
  if (event.altKey) {
    if (!crossHair(event)) return;
  } else if (key === "V") before(true);
  else if (/^[1-9]$/.test(key)) editor.choose(Number(key));
  else if (action) action();
  else return;
  event.preventDefault();
});
document.addEventListener("keyup", (event) => ["v", " "].includes(event.key.toLowerCase()) && before(false));
window.addEventListener("blur", () => before(false)); // the key will be released elsewhere

// Whatever the mouse draws, the keys can draw, too.
function crossHair(event) {
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (move && view.hand) view.move(-40 * move[0], -40 * move[1]);
  else if (move) {
    const size = event.shiftKey ? 1 : Math.max(4, Math.round(tools.diameter / 2));
    view.pixel = { x: view.pixel.x + move[0] * size, y: view.pixel.y + move[1] * size };
    view.reveal();
    tools.move(view.pixel);
  } else if (event.key !== "Enter") return false;
  else if (tools.stroke || tools.box) editor.attempt(tools.up());
  else if (editor.ready) tools.down(view.pixel);
  view.drawTop();
  return true;
}

async function openVideo() {
  await editor.saves.all(); // they belong to the video that is shown
  await api("POST", "open", $("videos").value);
  location.reload();
}

async function play() {
  panel.playing = !panel.playing;
  if (panel.playing && editor.frame + 1 === editor.state.frames) await go(0);
  refresh();
  for (let due = performance.now(); panel.playing && editor.frame + 1 < editor.state.frames; ) {
    due = Math.max(due + 1000 / editor.state.fps, performance.now() - 100);
    const last = Math.min(editor.frame + 4, editor.state.frames - 1);
    for (let ahead = editor.frame + 2; ahead <= last; ahead++) editor.pictures.get(ahead);
    await step(1);
    await new Promise((resolve) => setTimeout(resolve, due - performance.now()));
  }
  panel.playing = false;
  refresh();
}

function report({ running, message }) {
  $("progress").value = running ? running.done / Math.max(1, running.total) : 0;
  if (running && !running.total) editor.say("Preparing the network…");
  else if (running) editor.say(`${running.done} of ${running.total} frames, ${Math.ceil(running.seconds)} s left`);
  else editor.say(message ?? "Ready");
}

async function download(name) {
  editor.say(`Preparing ${name}; the download begins when it is complete.`);
  await api("POST", `export/${name}`);
  element("a", { href: address(`export/${name}`), download: "" }).click();
  editor.say(`${name} is complete.`);
}

async function start() {
  window.history.replaceState(null, "", "/"); // the token is in a cookie by now
  const state = await begin();
  for (const name of state.videos)
    $("videos").append(element("option", { textContent: name, selected: name === state.video }));
  for (const name of state.exports) {
    const onclick = () => editor.attempt(download(name));
    $("exports").append(element("button", { textContent: name, onclick }));
  }
  editor.open(state);
  const events = new EventSource(address("events"));
  events.addEventListener("state", (event) => {
    // What the user has said is known here first: a report may be older than the latest stroke.
    const { users, objects, ...news } = JSON.parse(event.data);
    editor.receive(news);
    report(editor.state);
    refresh();
  });
  events.addEventListener("frame", (event) => {
    const { frame, confidence, stale, running } = JSON.parse(event.data);
    editor.state.confidence[frame] = confidence;
    if (!stale) editor.state.stale.delete(frame);
    editor.receive({ running });
    report(editor.state);
    const isWanted = editor.following || frame === editor.frame;
    if (isWanted && !editor.before && !panel.playing) editor.attempt(editor.show(frame));
    else refresh();
  });
  events.onerror = () => {
    if (events.readyState === EventSource.CLOSED) editor.say("Not connected: opened in another tab? Reload this one.");
    else editor.say("No connection: has the program been stopped? It prints a new address when it starts.");
  };
  await go(0);
}

new ResizeObserver(() => refresh()).observe($("timeline"));
editor.attempt(start());
