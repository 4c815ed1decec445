// The ring: each node where its ID lies between 0 (top) and 2^160, clockwise, as large as its share of the keys.

const SVG = "http://www.w3.org/2000/svg";
const RADIUS = 175;
const LINE = 11;
const MOST_LABELS = 48;
const MOST_LETTERS = 15;

export function element(name, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

function place(id, radius = RADIUS) {
  const angle = (parseInt(id.slice(0, 8), 16) / 2 ** 32) * 2 * Math.PI - Math.PI / 2;
  return { x: radius * Math.cos(angle), y: radius * Math.sin(angle), angle };
}

function size(share, count) {
  return Math.min(4 + 5 * Math.sqrt(share * count), 16);
}

// An IPv6 address has no room; its end differs most. The node's title and the table have all of it.
function label(host) {
  return host.length > MOST_LETTERS ? `…${host.slice(1 - MOST_LETTERS)}` : host;
}

// Addresses beside their nodes; one that would lie on the one above it goes below.
function labels(nodes) {
  const last = { start: -Infinity, end: -Infinity };
  const places = nodes.map((node) => ({ node, at: place(node.id, RADIUS + 18) }));
  places.sort((one, other) => one.at.y - other.at.y);
  return places.map(({ node, at }) => {
    const anchor = at.x > 0 ? "start" : "end";
    const y = Math.max(at.y + 3, last[anchor] + LINE);
    last[anchor] = y;
    return element("text", { x: at.x, y, "text-anchor": anchor }, label(node.address.replace(/:\d+$/, "")));
  });
}

function dot(node, count, holders) {
  const at = place(node.id);
  const kind = node.own ? " own" : node.failures ? " suspect" : "";
  const held = holders.has(node.id) ? " replica" : "";
  const made = element("circle", {
    class: `node${kind}${held}`, cx: at.x, cy: at.y, r: size(node.share, count), "data-id": node.id,
  });
  made.append(element("title", {}, `${node.address}\n${node.id}\n${(100 * node.share).toFixed(1)} % of the keys`));
  return made;
}

// From hop to hop through the inside of the ring, and the key itself as a diamond outside of it.
function pathOf(trace) {
  const hops = trace.hops.filter((hop) => hop.id);
  const drawn = [];
  for (let i = 1; i < hops.length; i += 1) {
    const from = place(hops[i - 1].id);
    const to = place(hops[i].id);
    const bend = `${(from.x + to.x) / 4} ${(from.y + to.y) / 4}`;
    drawn.push(element("path", {
      class: "hop", d: `M ${from.x} ${from.y} Q ${bend} ${to.x} ${to.y}`, "marker-end": "url(#arrow)",
    }));
  }
  const key = place(trace.id, RADIUS - 24);
  drawn.push(element("rect", {
    class: "key", x: -6, y: -6, width: 12, height: 12, transform: `translate(${key.x} ${key.y}) rotate(45)`,
  }));
  return drawn;
}

function arrowHead() {
  const marker = element("marker", {
    id: "arrow", viewBox: "0 0 10 10", refX: 15, refY: 5, markerWidth: 5, markerHeight: 5, orient: "auto",
  });
  marker.append(element("path", { class: "arrow", d: "M 0 0 L 10 5 L 0 10 z" }));
  const defs = element("defs");
  defs.append(marker);
  return defs;
}

export function drawRing(svg, nodes, trace) {
  const parts = [arrowHead(), element("circle", { class: "orbit", r: RADIUS })];
  const own = nodes.find((node) => node.own);
  if (!trace && own) {
    const from = place(own.id);
    for (const node of nodes.filter((each) => !each.own)) {
      const to = place(node.id);
      parts.push(element("line", { class: "spoke", x1: from.x, y1: from.y, x2: to.x, y2: to.y }));
    }
  }
  if (trace) parts.push(...pathOf(trace));
  const holders = new Set((trace?.replicas || []).filter((each) => each.version).map((each) => each.id));
  parts.push(...nodes.map((node) => dot(node, nodes.length, holders)));
  if (nodes.length <= MOST_LABELS) parts.push(...labels(nodes));
  svg.setAttribute("aria-label", `Ring of ${nodes.length} nodes${trace ? `, with the path of the key ${trace.key}` : ""}. The table of all nodes has its figures.`);
  svg.replaceChildren(...parts);
}
