// The shown frame, its mask, and every change to it: saved at once, undone and redone.

import { idsIn, pack, unpack } from "./raster.js";
import { History, Pictures, Saves, api, fetchMask } from "./store.js";
import { Tools } from "./tools.js";
import { View } from "./view.js";

export class Editor {
  // page: say(text), refresh() (controls and timeline), saving(pending, error)
  constructor(stage, page) {
    Object.assign(this, { page, frame: 0, object: 1, ids: null, before: null, loading: 0, wantsOld: false });
    this.saves = new Saves(page.saving);
    this.history = new History(page.refresh);
    this.tools = new Tools(this);
    this.view = new View(stage, {
      down: (point, event) => this.ready && this.tools.down(point, event),
      move: (point) => this.tools.move(point),
      up: () => this.attempt(this.tools.up()),
      cancel: () => this.tools.takeBack(),
      overlay: (context, toScreen) => this.tools.draw(context, toScreen, this.view.pixel),
    });
  }

  // Whether ids is the mask of the frame: between frames nothing can be edited.
  get ready() {
    return this.ids !== null && this.shown === this.frame;
  }

  say(text) {
    this.page.say(text);
  }

  // Failures of what a control started are shown, not thrown.
  async attempt(promise) {
    try {
      return await promise;
    } catch (error) {
      return this.say(error.message);
    }
  }

  open(state) {
    this.pictures = new Pictures(state.size[1], state.size[0]);
    this.receive(state);
    this.object = Number(Object.keys(state.objects)[0] ?? 1);
    this.view.open(state.size[1], state.size[0], state.palette);
  }

  receive(state) {
    this.state = { ...this.state, ...state };
    this.state.stale = new Set(this.state.stale);
  }

  async show(frame) {
    if (!this.state) return;
    frame = Math.min(this.state.frames - 1, Math.max(0, frame));
    if (frame !== this.frame) this.tools.cancel();
    this.frame = frame;
    this.page.refresh();
    const turn = ++this.loading;
    const [picture, ids] = await Promise.all([this.pictures.get(frame), this.load(frame)]);
    if (turn !== this.loading || this.before) return; // another frame by now, or a stroke has begun
    this.ids = ids;
    this.view.drawPicture(picture);
    this.view.drawMask(ids);
    this.view.drawTop();
    this.shown = frame;
    this.page.refresh();
  }

  async load(frame, which = "") {
    const waiting = this.saves.waiting.get(frame);
    if (waiting?.mask && !which) return unpack(waiting.mask);
    if (waiting) await this.saves.all();
    return fetchMask("GET", `mask/${frame}${which}`);
  }

  snapshot() {
    const complete = this.state.users[this.frame] ?? null; // null: not a frame of the user's
    return { frame: this.frame, mask: pack(this.ids), complete, cutting: this.tools.cutting };
  }

  begin() {
    this.tools.endStroke(); // one that is still being drawn: edits do not overlap
    this.following = false;
    this.loading++; // a mask that is on its way is older than the edit
    this.before = this.snapshot();
  }

  // complete: whether objects that are not in the mask are absent; by default as before, or if the user has erased one
  // that the network had seen
  end(complete) {
    const before = this.before, after = this.snapshot(), left = idsIn(after.mask);
    const erased = this.frame in this.state.confidence && idsIn(before.mask).some((id) => !left.includes(id));
    complete ??= before.complete || erased;
    this.before = null;
    after.complete = this.store(this.frame, after.mask, complete);
    this.history.add(() => this.restore(before), () => this.restore(after));
  }

  rollBack() {
    this.ids = unpack(this.before.mask);
    this.tools.cutting = this.before.cutting;
    this.before = null;
    this.view.drawMask(this.ids);
  }

  change(edit, complete) {
    if (!this.ready) return;
    this.begin();
    edit();
    this.end(complete);
    this.view.drawMask(this.ids);
  }

  // mask: packed; returns whether it is complete, or null: it says nothing
  store(frame, mask, complete) {
    const ids = idsIn(mask);
    for (const id of ids) this.state.objects[id] ??= `object ${id}`;
    if (!ids.length && !complete) complete = null;
    this.saves.put(frame, complete === null ? null : mask, complete);
    if (complete === null) delete this.state.users[frame];
    else this.state.users[frame] = complete;
    this.page.refresh();
    return complete;
  }

  async restore({ frame, mask, complete, cutting }) {
    if (this.tools.stroke) this.tools.cancel();
    this.store(frame, mask, complete);
    if (frame === this.shown) this.view.drawMask((this.ids = unpack(mask)));
    this.tools.cutting = cutting;
    await this.show(frame);
  }

  // Steps of the history that are not strokes. prepare: is called once all steps before are complete, and returns what
  // does and what undoes this one, or null if there is nothing to do.
  act(prepare) {
    return this.history.run(async () => {
      const step = await prepare();
      if (!step) return;
      const [act, undo] = step;
      await act();
      this.history.add(undo, act);
    });
  }

  async removeUser(frame) {
    await this.act(async () => {
      if (!(frame in this.state.users)) return null;
      const mask = pack(await this.load(frame, "?of=user")), complete = this.state.users[frame];
      const set = (value) => async () => {
        this.store(frame, mask, value);
        await this.saves.all();
        if (frame === this.frame) await this.show(frame);
      };
      return [set(null), set(complete)];
    });
  }

  async addObject() {
    let id = 1;
    const name = (value) => () => this.nameObject(id, value);
    await this.act(() => {
      while (id in this.state.objects) id++;
      if (id > 254) throw new Error("A mask holds at most 254 objects.");
      return [name(`object ${id}`), name(null)];
    });
    this.choose(id);
  }

  async rename(id, name) {
    const old = this.state.objects[id], set = (value) => () => this.nameObject(id, value);
    if (name && name !== old) await this.act(() => [set(name), set(old)]);
  }

  async nameObject(id, name) {
    await this.saves.all();
    if (name === null) {
      await api("DELETE", `object/${id}`);
      const { objects, users } = await (await api("GET", "state")).json();
      Object.assign(this.state, { objects, users });
    } else await api("PUT", `object/${id}`, name), (this.state.objects[id] = name);
    await this.show(this.frame);
  }

  async removeObject(id) {
    await this.act(async () => {
      if (!(id in this.state.objects)) return null;
      await this.saves.all();
      const name = this.state.objects[id], masks = new Map();
      for (const frame of Object.keys(this.state.users).map(Number)) {
        const mask = await this.load(frame, "?of=user");
        if (mask.includes(Number(id))) masks.set(frame, [pack(mask), this.state.users[frame]]);
      }
      const restore = async () => {
        await this.nameObject(id, name);
        for (const [frame, [mask, complete]] of masks) this.store(frame, mask, complete);
        await this.saves.all();
        await this.show(this.frame);
      };
      return [() => this.nameObject(id, null), restore];
    });
  }

  choose(id) {
    if (id in this.state.objects || id === 1) this.object = Number(id);
    this.page.refresh();
  }

  absent() {
    this.change(() => this.ids.forEach((id, i) => id === this.object && (this.ids[i] = 0)), true);
  }

  async importMask(file) {
    const { frame } = this, ids = await fetchMask("POST", "import", await file.arrayBuffer());
    if (this.frame !== frame) return this.say("Another frame is shown by now; the mask was not imported.");
    this.change(() => this.ids.set(ids));
  }

  // Shows the mask that the latest result has replaced, or the present one again.
  async showOld(wanted) {
    if (wanted === this.wantsOld) return;
    this.wantsOld = wanted;
    this.old = wanted ? await this.load(this.frame, "?of=before") : null;
    if (this.wantsOld === wanted) this.view.drawMask(this.old ?? this.ids);
  }

  // follow: show each frame as it is done, until the user goes elsewhere or paints
  async propagate(direction, follow) {
    this.following = follow;
    await this.saves.all();
    await api("POST", `propagate?frame=${this.frame}&direction=${direction}`);
  }
}
