// The picture with its mask: zoom, pan, and pointers as pixels of the picture.

export class View {
  // handlers: down(point, event), move(point), up(), cancel(): take back the last down; overlay(context, toScreen)
  constructor(stage, handlers) {
    Object.assign(this, { stage, handlers, scale: 1, x: 0, y: 0, width: 1, height: 1 });
    [this.picture, this.mask, this.top] = ["picture", "mask", "top"].map((id) => document.getElementById(id));
    this.style = { opacity: 0.5, outline: true };
    this.pointers = new Map();
    this.pixel = { x: 0, y: 0 }; // under the pointer, or where the keys have moved the cross-hair
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    for (const type of ["pointerdown", "pointermove", "pointerup", "pointercancel"])
      stage.addEventListener(type, (event) => this.pointer(event));
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    new ResizeObserver(() => this.fit()).observe(stage);
  }

  open(width, height, palette) {
    Object.assign(this, { width, height });
    for (const canvas of [this.picture, this.mask]) Object.assign(canvas, { width, height });
    this.colours = palette.map(([r, g, b]) => (b << 16) | (g << 8) | r); // little-endian RGBA without alpha
    this.fit();
  }

  fit() {
    const { clientWidth, clientHeight } = this.stage;
    Object.assign(this.top, { width: clientWidth, height: clientHeight });
    this.scale = Math.min(clientWidth / this.width, clientHeight / this.height);
    this.x = (clientWidth - this.scale * this.width) / 2;
    this.y = (clientHeight - this.scale * this.height) / 2;
    this.place();
  }

  zoom(factor, at = { x: this.stage.clientWidth / 2, y: this.stage.clientHeight / 2 }) {
    const scale = Math.min(32, Math.max(0.05, this.scale * factor));
    this.x = at.x - ((at.x - this.x) * scale) / this.scale;
    this.y = at.y - ((at.y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.place();
  }

  place() {
    for (const canvas of [this.picture, this.mask])
      canvas.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    this.drawTop();
  }

  move(x, y) {
    this.x += x;
    this.y += y;
    this.place();
  }

  // Moves the picture so far that the cross-hair is in view.
  reveal() {
    const { clientWidth, clientHeight } = this.stage, [x, y] = this.toScreen(this.pixel);
    this.move(Math.min(clientWidth, Math.max(0, x)) - x, Math.min(clientHeight, Math.max(0, y)) - y);
  }

  // The middle of a pixel, from the corner of the stage.
  toScreen({ x, y }) {
    return [this.x + (x + 0.5) * this.scale, this.y + (y + 0.5) * this.scale];
  }

  drawTop() {
    const context = this.top.getContext("2d");
    context.clearRect(0, 0, this.top.width, this.top.height);
    this.handlers.overlay(context, (pixel) => this.toScreen(pixel));
  }

  drawPicture(bitmap) {
    this.picture.getContext("2d").drawImage(bitmap, 0, 0, this.width, this.height);
  }

  // Draws the mask, or the part of it inside the rectangle (x1 and y1 exclusive).
  drawMask(ids, { x0 = 0, y0 = 0, x1 = this.width, y1 = this.height } = {}) {
    [x0, y0] = [Math.max(0, x0), Math.max(0, y0)];
    [x1, y1] = [Math.min(this.width, x1), Math.min(this.height, y1)];
    if (x1 <= x0 || y1 <= y0) return;
    const { opacity, outline } = this.style, image = new ImageData(x1 - x0, y1 - y0), w = this.width;
    const pixels = new Uint32Array(image.data.buffer), tint = Math.round(255 * opacity) << 24;
    for (let y = y0, k = 0; y < y1; y++) {
      for (let x = x0; x < x1; x++, k++) {
        const i = y * w + x, id = ids[i];
        if (!id) continue;
        const inside = (x === 0 || ids[i - 1] === id) && (x + 1 === w || ids[i + 1] === id)
          && (y === 0 || ids[i - w] === id) && (y + 1 === this.height || ids[i + w] === id);
        pixels[k] = this.colours[id] | (outline && !inside ? 0xff000000 : tint);
      }
    }
    this.mask.getContext("2d").putImageData(image, x0, y0);
  }

  toPixel(event) {
    const box = this.stage.getBoundingClientRect();
    const x = (event.clientX - box.left - this.x) / this.scale, y = (event.clientY - box.top - this.y) / this.scale;
    return { x: Math.floor(x), y: Math.floor(y) };
  }

  wheel(event) {
    event.preventDefault();
    const box = this.stage.getBoundingClientRect();
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.move(-event.deltaX || -event.deltaY, 0);
    else this.zoom(Math.exp(-event.deltaY / 400), { x: event.clientX - box.left, y: event.clientY - box.top });
  }

  // One finger, the pen or the left button draws; two fingers, another button or the hand move the picture.
  // Beside a pen, fingers only move it, and while the pen is down, they do nothing: they may be the palm of the hand.
  pointer(event) {
    const isTouch = event.pointerType === "touch";
    if (event.type === "pointerdown" && event.pointerType === "pen") {
      if (this.pointers.size) this.handlers.cancel();
      this.pointers.clear();
      this.pen = event.pointerId;
      this.hasPen = true;
    } else if (isTouch && this.pointers.has(this.pen)) return;
    const last = this.pointers.get(event.pointerId), others = [...this.pointers.values()].filter((p) => p !== last);
    this.pixel = this.toPixel(event);
    if (event.type === "pointerdown") {
      this.stage.focus();
      this.stage.setPointerCapture(event.pointerId);
      const pans = event.button > 0 || others.length > 0 || this.hand || (isTouch && this.hasPen);
      this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY, pans });
      if (others.length) others.forEach((other) => (other.pans = true)), this.handlers.cancel();
      else if (!pans) this.handlers.down(this.pixel, event);
    } else if (!last) {
      this.drawTop(); // the brush follows the mouse
    } else if (event.type === "pointermove") {
      if (!last.pans) {
        const events = event.getCoalescedEvents?.() ?? [];
        for (const part of events.length ? events : [event]) this.handlers.move(this.toPixel(part));
        this.drawTop();
      } else this.drag(last, others[0], event);
      Object.assign(last, { x: event.clientX, y: event.clientY });
    } else {
      this.pointers.delete(event.pointerId);
      if (!last.pans) event.type === "pointerup" ? this.handlers.up() : this.handlers.cancel();
      this.drawTop();
    }
  }

  drag(last, other, event) {
    const share = other ? 0.5 : 1; // of two fingers, each moves the picture by half
    this.move((event.clientX - last.x) * share, (event.clientY - last.y) * share);
    if (!other) return;
    const box = this.stage.getBoundingClientRect();
    const distance = (p) => Math.hypot(p.x - other.x, p.y - other.y);
    const centre = { x: (event.clientX + other.x) / 2 - box.left, y: (event.clientY + other.y) / 2 - box.top };
    this.zoom(distance({ x: event.clientX, y: event.clientY }) / Math.max(1, distance(last)), centre);
  }
}
