// Drawing into masks: Uint8Arrays of width × height object ids. Nothing here knows of the page.

// Sets every pixel whose centre is within diameter / 2 of the segment between the pixels a and b.
export function drawSegment(mask, width, height, a, b, diameter, value) {
  const radius = diameter / 2, dx = b.x - a.x, dy = b.y - a.y, length = dx * dx + dy * dy;
  const x0 = Math.max(0, Math.ceil(Math.min(a.x, b.x) - radius));
  const y0 = Math.max(0, Math.ceil(Math.min(a.y, b.y) - radius));
  const x1 = Math.min(width - 1, Math.max(a.x, b.x) + radius);
  const y1 = Math.min(height - 1, Math.max(a.y, b.y) + radius);
  for (let y = y0; y <= y1; y++) {
    // Of a row, only what is within the radius of the whole line can be near the segment: long strokes are thin.
    const middle = a.x + ((y - a.y) * dx) / dy, reach = (radius * Math.sqrt(length)) / Math.abs(dy) + 1;
    const from = dy ? Math.max(x0, Math.floor(middle - reach)) : x0, to = dy ? Math.min(x1, middle + reach) : x1;
    for (let x = from; x <= to; x++) {
      const t = length ? Math.min(1, Math.max(0, ((x - a.x) * dx + (y - a.y) * dy) / length)) : 0;
      const ex = x - a.x - t * dx, ey = y - a.y - t * dy;
      if (ex * ex + ey * ey <= radius * radius) mask[y * width + x] = value;
    }
  }
  return { x0: x0 - 1, y0: y0 - 1, x1: Math.floor(x1) + 2, y1: Math.floor(y1) + 2 };
}

// Sets every pixel whose centre is inside the polygon (even-odd rule); points are pixels, so corners are centres.
export function fillPolygon(mask, width, height, points, value) {
  points.forEach((point, i) => drawSegment(mask, width, height, point, points[(i + 1) % points.length], 1, value));
  for (let y = 0; y < height; y++) {
    const crossings = [];
    points.forEach((a, i) => {
      const b = points[(i + 1) % points.length];
      if (a.y <= y !== b.y <= y) crossings.push(a.x + ((y - a.y) / (b.y - a.y)) * (b.x - a.x));
    });
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const first = Math.max(0, Math.ceil(crossings[i])), last = Math.min(width - 1, Math.floor(crossings[i + 1]));
      if (last >= first) mask.fill(value, y * width + first, y * width + last + 1);
    }
  }
}

// The ids above 0 in a packed mask, ascending.
export function idsIn(runs) {
  const ids = new Set(runs.filter((id, i) => i % 2 === 0 && id > 0));
  return [...ids].sort((a, b) => a - b);
}

// Run lengths, for the history and the way to the server: pairs of an id and how many pixels have it.
export function pack(mask) {
  const runs = [];
  for (let start = 0, end; start < mask.length; start = end) {
    for (end = start + 1; end < mask.length && mask[end] === mask[start]; end++);
    runs.push(mask[start], end - start);
  }
  return Uint32Array.from(runs);
}

export function unpack(runs) {
  let length = 0, start = 0;
  for (let i = 1; i < runs.length; i += 2) length += runs[i];
  const mask = new Uint8Array(length);
  for (let i = 0; i < runs.length; i += 2) mask.fill(runs[i], start, (start += runs[i + 1]));
  return mask;
}
