// The timeline: a mark for every frame, and the confidence curve above them.

const COLOURS = { user: "#58a6ff", done: "#3fb950", uncertain: "#ffa028", stale: "#b083f0", none: "#30363d" };
const MARKS = 14; // height of the marks in pixels

function statusOf(state, frame) {
  if (frame in state.users) return "user";
  if (state.stale.has(frame)) return "stale";
  const confidence = state.confidence[frame];
  if (confidence === undefined) return "none";
  return confidence < state.uncertain ? "uncertain" : "done";
}

export function drawTimeline(canvas, state, current) {
  const ratio = devicePixelRatio, width = canvas.clientWidth, height = canvas.clientHeight;
  Object.assign(canvas, { width: width * ratio, height: height * ratio });
  const context = canvas.getContext("2d"), step = width / state.frames, top = height - MARKS;
  context.scale(ratio, ratio);
  for (let frame = 0; frame < state.frames; frame++) {
    const status = statusOf(state, frame);
    context.fillStyle = COLOURS[status];
    const inset = { user: 0, uncertain: 3, stale: 5 }[status] ?? 7; // shapes differ, not only colours
    context.fillRect(frame * step, top + inset, Math.max(1, step - (step > 3)), MARKS - inset);
  }
  context.strokeStyle = "#e6edf3";
  context.lineWidth = 1.5;
  context.beginPath();
  let before = -2;
  for (const [frame, confidence] of Object.entries(state.confidence)) {
    const x = (Number(frame) + 0.5) * step, y = 2 + (1 - confidence) * (top - 6);
    if (Number(frame) === before + 1) context.lineTo(x, y);
    else context.moveTo(x, y), context.lineTo(x + 1, y);
    before = Number(frame);
  }
  context.stroke();
  context.fillStyle = "#ff6ad5";
  context.fillRect((current + 0.5) * step - 1, 0, 2, height);
}
