// What the controls show: everything here follows from the editor's state.

import { drawTimeline } from "./timeline.js";

export const $ = (id) => document.getElementById(id);

export function element(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function setList(list, content, makeItem) {
  const signature = JSON.stringify(content);
  if (list.dataset.signature === signature) return; // leave the focus where it is
  list.dataset.signature = signature;
  list.replaceChildren(...Object.entries(content).map(([key, value]) => makeItem(Number(key), value)));
}

const button = (textContent, ariaLabel, onclick) => element("button", { textContent, ariaLabel, onclick });

export class Panel {
  // go(frame): shows a frame
  constructor(editor, go) {
    Object.assign(this, { editor, go, playing: false });
  }

  refresh() {
    const { editor } = this, { state, frame, history, tools, view } = editor;
    if (!state?.frames) return;
    drawTimeline($("timeline"), state, frame);
    Object.assign($("scrubber"), { max: state.frames - 1, valueAsNumber: frame });
    const margin = $("timeline").clientWidth / state.frames / 2 + 2; // the knob is below the mark of its frame
    Object.assign($("scrubber").style, { margin: `0 ${margin}px`, width: `calc(100% - ${2 * margin}px)` });
    $("position").textContent = this.position();
    $("complete").checked = state.users[frame] ?? false;
    $("size").value = $("size-text").textContent = tools.diameter;
    $("play").textContent = this.playing ? "■ Stop" : "▶ Play";
    $("undo").disabled = history.next === 0;
    $("redo").disabled = history.next === history.items.length;
    $("pause").disabled = !state.running;
    $("hand").setAttribute("aria-pressed", Boolean(view.hand));
    for (const node of document.querySelectorAll("[data-tool]"))
      node.setAttribute("aria-pressed", node.dataset.tool === tools.name && !view.hand);
    const isEmpty = Object.keys({ ...state.users, ...state.confidence }).length === 0;
    for (const button of $("exports").children) button.disabled = isEmpty;
    setList($("users"), state.users, (user) => this.userItem(user));
    setList($("objects"), state.objects, (id, name) => this.objectItem(id, name));
    for (const item of $("objects").children)
      item.setAttribute("aria-current", Number(item.dataset.id) === editor.object);
  }

  position() {
    const { state, frame } = this.editor, confidence = state.confidence[frame];
    const sure = confidence === undefined ? "" : `, confidence ${Math.round(100 * confidence)} %`;
    return `Frame ${frame + 1} of ${state.frames} (${state.names[frame]})${sure}`;
  }

  userItem(frame) {
    const { editor } = this;
    return element(
      "li",
      {},
      button(frame + 1, `Go to your frame ${frame + 1}`, () => this.go(frame)),
      button("×", `Remove your mask of frame ${frame + 1}`, () => editor.attempt(editor.removeUser(frame))),
    );
  }

  objectItem(id, name) {
    const { editor } = this;
    const choose = button(id, `Object ${id}, ${name}`, () => editor.choose(id));
    const rename = (event) => editor.attempt(editor.rename(id, event.target.value.trim()));
    const field = { type: "text", value: name, ariaLabel: `Name of object ${id}`, maxLength: 40, onchange: rename };
    const remove = button("×", `Remove object ${id}`, () => editor.attempt(editor.removeObject(id)));
    const item = element("li", {}, choose, element("input", field), remove);
    choose.className = "swatch";
    item.dataset.id = id;
    item.style.setProperty("--colour", `rgb(${editor.state.palette[id]})`);
    return item;
  }
}
