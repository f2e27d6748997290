// What the page keeps: requests to the server, masks on their way to it, pictures from it, and the history.

import { unpack } from "./raster.js";

let page = ""; // the server's name for this page; it serves the one that was opened last

export async function begin() {
  const state = await (await api("POST", "begin")).json();
  page = `${state.page}/`;
  return state;
}

// A request that is answered with a mask.
export async function fetchMask(method, path, body) {
  return unpack(new Uint32Array(await (await api(method, path, body)).arrayBuffer()));
}

export const address = (path) => `/api/${page}${path}`;

export async function api(method, path, body) {
  const response = await fetch(address(path), { method, body });
  if (!response.ok) throw new Error((await response.text()) || `${response.status} ${response.statusText}`);
  return response;
}

// Masks that the server does not have yet. Requests go one after the other, the newest state of a frame only.
export class Saves {
  constructor(onChange) {
    Object.assign(this, { waiting: new Map(), running: null, onChange });
  }

  // mask: packed, or null: the frame is the user's no longer
  put(frame, mask, complete) {
    this.waiting.set(frame, { mask, complete });
    this.onChange(true);
    this.running ??= this.run().finally(() => (this.running = null));
  }

  async run() {
    while (this.waiting.size) {
      const [frame, item] = this.waiting.entries().next().value;
      try {
        if (item.mask) await api("PUT", `mask/${frame}?complete=${Number(item.complete)}`, item.mask);
        else await api("DELETE", `mask/${frame}`);
      } catch (error) {
        this.onChange(true, error); // nothing is lost: the page keeps it and tries again
        await new Promise((resolve) => setTimeout(resolve, 2000));
        continue;
      }
      if (this.waiting.get(frame) === item) this.waiting.delete(frame);
    }
    this.onChange(false);
  }

  async all() {
    await this.running;
  }
}

export class Pictures {
  constructor(width, height) {
    this.room = Math.min(64, Math.max(6, Math.floor(2e8 / (4 * width * height))));
    this.loaded = new Map(); // frame → promise, the latest used last
  }

  async load(frame) {
    return createImageBitmap(await (await api("GET", `frame/${frame}.jpg`)).blob());
  }

  get(frame) {
    const picture = this.loaded.get(frame) ?? this.load(frame);
    picture.catch(() => this.loaded.delete(frame));
    this.loaded.delete(frame);
    this.loaded.set(frame, picture);
    if (this.loaded.size > this.room) {
      const [oldest, bitmap] = this.loaded.entries().next().value;
      this.loaded.delete(oldest);
      bitmap.then((b) => b.close(), () => {});
    }
    return picture;
  }
}

export class History {
  constructor(onChange) {
    Object.assign(this, { items: [], next: 0, busy: Promise.resolve(), onChange });
  }

  // undo, redo: functions that may be async; the action itself has been done
  add(undo, redo) {
    this.items.splice(this.next, Infinity, { undo, redo });
    if (this.items.length > 500) this.items.shift();
    this.next = this.items.length;
    this.onChange();
  }

  // One action after the other, also after one that has failed.
  run(action) {
    const done = this.busy.then(action);
    this.busy = done.catch(() => {});
    return done;
  }

  step(redo) {
    return this.run(async () => {
      const { next } = this, item = this.items[redo ? next : next - 1], after = redo ? next + 1 : next - 1;
      if (!item) return;
      this.next = after; // at once, for strokes that are added meanwhile
      try {
        await (redo ? item.redo() : item.undo());
      } catch (error) {
        if (this.next === after) this.next = next;
        throw error;
      } finally {
        this.onChange();
      }
    });
  }
}
