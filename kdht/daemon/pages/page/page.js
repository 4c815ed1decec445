// Asks the node how it is every other second, and draws what it says. All text goes in as text, never as HTML.

import { drawRing, element } from "/ring.js";

const EVERY = 2000;
const KEPT = 60;

const history = [];
let trace = null;
let nodes = [];

const $ = (id) => document.getElementById(id);
const whole = (number) => Math.round(number).toLocaleString("en");

function rate(now, before, read) {
  const seconds = before ? now.time - before.time : 0;
  return seconds > 0 ? Math.max(read(now) - read(before), 0) / seconds : 0;
}

function perSecond(now, before, read) {
  const number = rate(now, before, read);
  return `${number > 0 && number < 10 ? number.toFixed(1) : whole(number)}/s`;
}

// --- What is counted -------------------------------------------------------------------

const fromCache = (seen) => seen.datapaths.socket.cache_answers;
const reasons = (seen, wanted) =>
  ["socket", "nfqueue", "ebpf"].reduce((total, path) =>
    wanted.reduce((more, reason) => more + (seen.packets[path][reason] || 0), total), 0);
const answered = (ops) => (seen) =>
  Object.entries(seen.requests).reduce((total, [name, count]) =>
    ops.includes(name.split(" ")[0]) ? total + count : total, 0);

const dropped = (seen) => ["socket", "nfqueue", "ebpf"].reduce((total, path) =>
  total + Object.entries(seen.packets[path]).reduce((more, [reason, count]) =>
    seen.verdicts[reason] === "DROP" ? more + count : more, 0), 0);

const RATES = {
  "gets answered": (seen) => answered(["GET", "QUORUM_GET"])(seen) + fromCache(seen),
  "writes answered": answered(["PUT", "DELETE"]),
  "entered here": (seen) => reasons(seen, ["ENTERED"]),
  "forwarded": (seen) => reasons(seen, ["NEXT_HOP"]),
  "replies relayed": (seen) => reasons(seen, ["RELAYED"]),
  "dropped": dropped,
};

// --- Drawing -----------------------------------------------------------------------------

function card(name, value, line) {
  const made = document.createElement("div");
  made.className = "card";
  made.dataset.name = name;
  const strong = document.createElement("b");
  strong.textContent = value;
  made.append(strong, name);
  if (line) made.append(line);
  return made;
}

function sparkline(values) {
  const top = Math.max(...values, 1);
  const points = values.map((value, i) => `${i},${23 - (22 * value) / top}`).join(" ");
  const svg = element("svg", { viewBox: `0 0 ${KEPT} 24`, preserveAspectRatio: "none" });
  svg.append(element("polyline", { points }));
  return svg;
}

function fill(table, rows) {
  const made = rows.map(({ cells, own }) => {
    const row = document.createElement("tr");
    if (own) row.className = "own";
    for (const cell of cells) {
      const data = document.createElement("td");
      data.textContent = typeof cell === "number" ? whole(cell) : cell;
      if (typeof cell === "number" || /(%|\/s)$/.test(cell)) data.className = "number";
      row.append(data);
    }
    return row;
  });
  $(table).tBodies[0].replaceChildren(...made);
}

function badge(text, kind) {
  const made = document.createElement("span");
  made.className = `badge ${kind}`;
  made.textContent = text;
  return made;
}

function drawHead(seen) {
  $("address").textContent = seen.self.address;
  $("node-id").textContent = seen.self.node_id || "";
  $("readiness").textContent = seen.not_ready || "ready";
  $("readiness").className = `badge ${seen.not_ready ? "bad" : "good"}`;
  document.title = `kdht ${seen.self.address}`;
  const paths = Object.entries(seen.datapaths || {});
  $("datapaths").replaceChildren(...paths.map(([name, path]) =>
    badge(path.state === "up" ? name : `${name} ${path.state}`, path.state === "up" ? "good" : "bad")));
  say(seen.warnings.filter((warning) => !warning.startsWith("development node")).join("; "));
}

function drawRates(seen) {
  const line = (read) => history.slice(1).map((each, i) => rate(each, history[i], read));
  const before = history.at(-2);
  $("rates").replaceChildren(...Object.entries(RATES).map(([name, read]) =>
    card(name, perSecond(seen, before, read), sparkline(line(read)))));
  $("store").replaceChildren(
    card("records", whole(seen.storage.records)),
    card("bytes of values", whole(seen.storage.value_bytes)),
    card("bytes on disk", whole(seen.storage.disk_bytes)),
    card("writes waiting", whole(seen.storage.waiting)),
    ...(seen.datapaths.nfqueue?.queues || []).map((queue) =>
      card(`waiting in queue ${queue.number}`, whole(queue.waiting || 0))),
  );
  const counted = ["socket", "nfqueue", "ebpf"].flatMap((path) => Object.entries(seen.packets[path])
    .filter(([, count]) => count > 0)
    .map(([reason, count]) => ({ cells: [path, reason, count, perSecond(seen, before, (s) => s.packets[path][reason])] })));
  fill("reasons", counted);
  fill("requests", Object.entries({ ...seen.requests, "GET from the cache": fromCache(seen) }).map(([name, count]) =>
    ({ cells: [name, count, perSecond(seen, before, (s) => name.startsWith("GET from") ? fromCache(s) : s.requests[name] || 0)] })));
}

function drawNodes() {
  $("count").textContent = `${nodes.length} nodes`;
  drawRing($("ring"), nodes, trace);
  fill("nodes", nodes.map((node) => ({
    own: node.own,
    cells: [
      node.address, node.id, node.own ? "this node" : String(node.bucket),
      node.rtt_ms == null ? "" : `${node.rtt_ms.toFixed(2)} ms`,
      node.own ? "" : `${node.seen.toFixed(0)} s ago`,
      node.own ? "" : node.failures, `${(100 * node.share).toFixed(1)} %`,
    ],
  })));
}

function say(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

// --- Asking ------------------------------------------------------------------------------

async function look() {
  try {
    const seen = await (await fetch("/api/status")).json();
    drawHead(seen);
    if (!seen.packets) return;
    history.push(seen);
    if (history.length > KEPT + 1) history.shift();
    nodes = seen.nodes;
    drawRates(seen);
    drawNodes();
  } catch (error) {
    say(`the node does not answer: ${error.message}`);
  } finally {
    setTimeout(look, EVERY);
  }
}

function holding(replica) {
  if (!replica.answered) return "no answer";
  if (!replica.version) return "no record";
  return replica.deleted ? `${replica.version}, deleted` : String(replica.version);
}

function drawPath() {
  const items = trace.hops.map((hop) => {
    const item = document.createElement("li");
    item.textContent = hop.id
      ? `${hop.address}  ${hop.rtt_ms.toFixed(2)} ms${hop.owner ? "  owner" : ""}`
      : "no answer";
    return item;
  });
  $("path").replaceChildren(...items);
  fill("replicas", trace.replicas.map((each) => ({ cells: [each.address, holding(each), each.bytes] })));
  $("replicas").hidden = false;
  $("path-words").textContent = `${trace.key} is ${trace.id}`;
}

async function ask(event) {
  event.preventDefault();
  $("path-words").textContent = "asking…";
  try {
    const found = await (await fetch(`/api/trace?${new URLSearchParams({ key: $("key").value })}`)).json();
    if (found.error) throw new Error(found.error);
    trace = found;
    drawPath();
  } catch (error) {
    trace = null;
    $("path").replaceChildren();
    $("replicas").hidden = true;
    $("path-words").textContent = `not traced: ${error.message}`;
  }
  drawNodes();
}

$("trace").addEventListener("submit", ask);
look();
