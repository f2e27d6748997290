// Brush, eraser, polygon, and box → cut. Each edits editor.ids between editor.begin() and editor.end().

import { drawSegment, fillPolygon, pack, unpack } from "./raster.js";
import { fetchMask } from "./store.js";

export class Tools {
  constructor(editor) {
    Object.assign(this, { editor, name: "brush", diameter: 15, points: [], box: null, last: null });
    // { frame, object, box, hints (packed) } of the latest cut, never changed: strokes on it are hints for the next.
    this.cutting = null;
  }

  choose(name) {
    this.cancel();
    this.name = name;
  }

  down(point, event) {
    this.editor.following = false; // a polygon or box must not be lost because the next frame is shown
    if (this.name === "polygon") {
      const [first] = this.points;
      if (first && Math.hypot(first.x - point.x, first.y - point.y) * this.editor.view.scale < 8) this.finish();
      else this.points.push(point);
    } else if (this.name === "box") this.box = { from: point, to: point };
    else {
      const erase = this.name === "eraser" || event?.altKey;
      this.editor.begin();
      const hints = this.isCut() ? unpack(this.cutting.hints) : null;
      this.stroke = { last: point, value: erase ? 0 : this.editor.object, hints };
      this.move(point);
    }
  }

  move(point) {
    if (this.box) this.box.to = point;
    if (!this.stroke) return;
    const { ids, state, view } = this.editor, [height, width] = state.size, { last, value, hints } = this.stroke;
    view.drawMask(ids, drawSegment(ids, width, height, last, point, this.diameter, value));
    if (hints) drawSegment(hints, width, height, last, point, this.diameter, value ? 1 : 2);
    this.stroke.last = point;
  }

  up() {
    this.endStroke();
    if (!this.box) return null;
    const { from, to } = this.box;
    this.box = null;
    const [x0, x1] = [from.x, to.x].sort((a, b) => a - b), [y0, y1] = [from.y, to.y].sort((a, b) => a - b);
    return this.cut([x0, y0, x1 + 1, y1 + 1]);
  }

  endStroke() {
    if (!this.stroke) return;
    const { hints } = this.stroke;
    this.stroke = null;
    if (hints) this.cutting = { ...this.cutting, hints: pack(hints) };
    this.editor.end();
  }

  // A second finger means that the first one should not have drawn; a polygon keeps its other corners.
  takeBack() {
    if (this.name !== "polygon") return this.cancel();
    this.points.pop();
    return this.editor.view.drawTop();
  }

  cancel() {
    if (this.stroke) this.editor.rollBack();
    Object.assign(this, { stroke: null, box: null, points: [] });
    this.editor.view?.drawTop();
  }

  finish() {
    const points = this.points, { ids, state, object } = this.editor;
    this.points = [];
    if (points.length < 3 || !this.editor.ready) return;
    this.editor.begin();
    fillPolygon(ids, state.size[1], state.size[0], points, object);
    this.editor.end();
    this.editor.view.drawMask(ids);
    this.editor.view.drawTop();
  }

  isCut() {
    return this.cutting?.frame === this.editor.frame && this.cutting.object === this.editor.object;
  }

  // Cuts the active object out of the box; without a box, again with the strokes since the last cut as hints.
  async cut(box) {
    this.endStroke();
    const { editor } = this, { frame, object, loading } = editor;
    if (!box && !this.isCut()) return editor.say("Draw a box around the object first (K).");
    const cutting = box ? { frame, object, box, hints: pack(new Uint8Array(editor.ids.length)) } : this.cutting;
    const hints = unpack(cutting.hints).map((hint, i) => hint || (editor.ids[i] && editor.ids[i] !== object ? 2 : 0));
    const cut = await fetchMask("POST", `cut/${frame}?box=${cutting.box}`, pack(hints));
    if (editor.frame !== frame || !editor.ready) return null;
    if (editor.loading !== loading) return editor.say("The mask has changed meanwhile; cut again.");
    editor.begin();
    this.cutting = cutting;
    const [x0, y0, x1, y1] = box ?? cutting.box, [height, width] = editor.state.size;
    for (let y = Math.max(0, y0); y < Math.min(height, y1); y++)
      for (let i = y * width + Math.max(0, x0); i < y * width + Math.min(width, x1); i++)
        if (cut[i]) editor.ids[i] = object;
        else if (editor.ids[i] === object) editor.ids[i] = 0;
    editor.view.drawMask(editor.ids);
    return editor.end();
  }

  draw(context, toScreen, pixel) {
    const { view } = this.editor, [x, y] = toScreen(pixel);
    const trace = (points, colour) => {
      context.strokeStyle = colour;
      context.beginPath();
      points.forEach((point) => context.lineTo(...toScreen(point)));
      context.stroke();
    };
    for (const [width, colour] of [[3, "#000"], [1.5, "#fff"]]) {
      context.lineWidth = width;
      if (this.points.length) trace([...this.points, pixel], colour);
      const box = this.box ?? (this.isCut() && this.name !== "polygon" ? this.asBox(this.cutting.box) : null);
      if (box) {
        const { from, to } = box;
        trace([from, { x: to.x, y: from.y }, to, { x: from.x, y: to.y }, from], colour);
      }
      context.strokeStyle = colour;
      context.beginPath();
      if (this.name === "brush" || this.name === "eraser") {
        context.arc(x, y, Math.max(1, (this.diameter / 2) * view.scale), 0, 7);
      } else {
        context.moveTo(x - 8, y), context.lineTo(x + 8, y);
        context.moveTo(x, y - 8), context.lineTo(x, y + 8);
      }
      context.stroke();
    }
  }

  asBox([x0, y0, x1, y1]) {
    return { from: { x: x0, y: y0 }, to: { x: x1 - 1, y: y1 - 1 } };
  }
}
