// Asks the node how it is every other second, and draws what it says. All text goes in as text, never as HTML.

import { bytes, perSecond, quantile, rate, seconds, since, span, total, whole } from "/figures.js";
import { drawRing, element } from "/ring.js";

const EVERY = 2000;
const CLUSTER_EVERY = 6000;
const PATIENCE = 5000;
const STALE_AFTER = 2.5 * EVERY;
const KEPT = 60;

const history = [];
let trace = null;
let nodes = [];
let said = new Map();
let meanings = {};
let heard = Date.now();
let problem = "";

const $ = (id) => document.getElementById(id);

// --- What is counted -------------------------------------------------------------------

const PATHS = ["socket", "nfqueue", "ebpf"];
const fromCache = (seen) => seen.datapaths.socket.cache_answers;
const reasons = (seen, wanted) => PATHS.reduce((sum, path) =>
  wanted.reduce((more, reason) => more + (seen.packets[path][reason] || 0), sum), 0);
const answered = (ops) => (seen) => Object.entries(seen.requests).reduce((sum, [name, count]) =>
  ops.includes(name.split(" ")[0]) ? sum + count : sum, 0);
const dropped = (seen) => PATHS.reduce((sum, path) =>
  sum + Object.entries(seen.packets[path]).reduce((more, [reason, count]) =>
    seen.verdicts[reason] === "DROP" ? more + count : more, 0), 0);

const RATES = {
  "gets answered": (seen) => answered(["GET", "QUORUM_GET"])(seen) + fromCache(seen) + reasons(seen, ["ANSWERED"]),
  "writes answered": answered(["PUT", "DELETE"]),
  "entered here": (seen) => reasons(seen, ["ENTERED"]),
  "forwarded": (seen) => reasons(seen, ["NEXT_HOP"]),
  "replies relayed": (seen) => reasons(seen, ["RELAYED"]),
  "dropped": dropped,
};

// --- Drawing -----------------------------------------------------------------------------

function made(tag, text, kind = "") {
  const found = document.createElement(tag);
  found.textContent = text;
  if (kind) found.className = kind;
  return found;
}

// Only what differs is written: else a screen reader reads an alert again at each look.
function write(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function card(name, value, ...more) {
  const found = made("div", "", "card");
  found.dataset.name = name;
  found.append(made("b", value), name, ...more);
  return found;
}

function sparkline(values) {
  const top = Math.max(...values, 0);
  const points = values.map((value, i) => `${KEPT - values.length + i},${23 - (22 * value) / (top || 1)}`).join(" ");
  const svg = element("svg", { viewBox: `0 0 ${KEPT} 24`, preserveAspectRatio: "none", "aria-hidden": "true" });
  svg.append(element("polyline", { points }));
  const scale = made("span", "", "scale");
  scale.append(made("span", `${span((KEPT * EVERY) / 1000)} ago`), made("span", `top: ${perSecond(top)}`));
  return [svg, scale];
}

// Cells are texts, numbers, or [text, class].
function fill(table, rows) {
  $(table).tBodies[0].replaceChildren(...rows.map(({ cells, own }) => {
    const row = made("tr", "", own ? "own" : "");
    row.append(...cells.map((cell) => {
      if (Array.isArray(cell)) return made("td", ...cell);
      return typeof cell === "number" ? made("td", whole(cell), "number") : made("td", cell);
    }));
    return row;
  }));
}

const right = (text) => [text, "number"];

function drawHead(seen) {
  write("address", seen.self.address);
  write("node-id", seen.self.node_id || "");
  write("readiness", seen.not_ready || "ready");
  $("readiness").className = `badge ${seen.not_ready ? "bad" : "good"}`;
  document.title = `kdht ${seen.self.address}`;
  $("datapaths").replaceChildren(...Object.entries(seen.datapaths || {}).map(([name, path]) =>
    made("span", path.state === "up" ? name : `${name} ${path.state}`, `badge ${path.state === "up" ? "good" : "bad"}`)));
  const warnings = seen.warnings.filter((warning) => !warning.startsWith("development node")).join("; ");
  write("trouble", warnings);
  $("trouble").hidden = !warnings;
}

function drawRates(seen) {
  const before = history.at(-2);
  $("rates").replaceChildren(...Object.entries(RATES).map(([name, read]) =>
    card(name, perSecond(rate(seen, before, read)), ...sparkline(history.slice(1).map((each, i) => rate(each, history[i], read))))));
  $("store").replaceChildren(
    card("records", whole(seen.storage.records)),
    card("values", bytes(seen.storage.value_bytes)),
    card("on disk", bytes(seen.storage.disk_bytes)),
    card("free on its disk", bytes(seen.storage.free_bytes)),
    card("writes waiting", whole(seen.storage.waiting)),
    ...(seen.datapaths.nfqueue?.queues || []).map((queue) =>
      card(`waiting in queue ${queue.number}`, whole(queue.waiting || 0))),
  );
  fill("reasons", PATHS.flatMap((path) => Object.entries(seen.packets[path])
    .filter(([, count]) => count > 0)
    .map(([reason, count]) => ({ cells: [
      path, seen.verdicts[reason], reason, count,
      right(perSecond(rate(seen, before, (each) => each.packets[path][reason]))), [meanings[reason] || "", "words"],
    ] }))));
  fill("requests", Object.entries({ ...seen.requests, "GET from the cache": fromCache(seen) }).map(([name, count]) => {
    const read = (each) => (name.startsWith("GET from") ? fromCache(each) : each.requests[name] || 0);
    return { cells: [name, count, right(perSecond(rate(seen, before, read)))] };
  }));
}

function histograms({ requests, round_trips: trips, group }) {
  return {
    ...Object.fromEntries(Object.entries(requests).map(([op, each]) => [`${op} of a client`, each])),
    "one group of writes to the disk": group,
    ...Object.fromEntries(Object.entries(trips).flatMap(([part, ops]) =>
      Object.entries(ops).map(([op, each]) => [`${op} to another node (${part})`, each]))),
  };
}

function drawDurations(seen) {
  const [now, before] = [histograms(seen.latency), history.length > 1 ? histograms(history[0].latency) : {}];
  const rows = Object.entries(now).map(([name, each]) => [name, since(each, before[name])]).filter(([, each]) => total(each));
  write("durations-of", history.length > 1 ? `of the last ${span(seen.time - history[0].time)}` : "since the start");
  fill("durations", rows.map(([name, each]) =>
    ({ cells: [name, right(quantile(each, 0.5)), right(quantile(each, 0.99)), total(each)] })));
}

function drawEvents(events) {
  const text = JSON.stringify(events);
  if ($("events").dataset.drawn === text) return;
  $("events").dataset.drawn = text;
  $("events").replaceChildren(...(events.length ? events : [{ kind: "", what: "none yet" }]).map(({ unix_s: at, kind, what }) => {
    const item = made("li", at ? `${new Date(at * 1000).toLocaleTimeString("en-GB")} ` : "");
    item.append(made("span", kind, `kind ${kind}`), what);
    return item;
  }));
}

function state(node, summary) {
  if (node.own) return $("readiness").className.includes("good") ? ["ready", "good"] : [$("readiness").textContent, "bad"];
  if (!summary) return ["", ""];
  if (summary.rtt_ms == null) return ["no answer", "bad"];
  if (!summary.said) return ["does not say", ""];
  return summary.said.ready ? ["ready", "good"] : [`waits for ${summary.said.waiting_for.join(", ")}`, "bad"];
}

function of(node) {
  if (!node.own) return said.get(node.id)?.said;
  const seen = history.at(-1);
  return {
    version: seen.self.version, uptime: seen.self.uptime, contacts: nodes.length - 1,
    records: seen.storage.records, value_bytes: seen.storage.value_bytes, behind: seen.behind,
  };
}

function drawNodes() {
  write("count", `${nodes.length} ${nodes.length === 1 ? "node" : "nodes"}`);
  drawRing($("ring"), nodes, trace);
  const states = nodes.map((node) => state(node, said.get(node.id)));
  fill("nodes", nodes.map((node, i) => {
    const told = of(node);
    const figure = (value, form = whole) => right(value == null ? "" : form(value));
    return {
      own: node.own,
      cells: [
        node.address + (node.own ? " (this node)" : ""), states[i], told?.version || "", figure(told?.uptime, span),
        figure(told?.contacts), figure(told?.records), figure(told?.value_bytes, bytes), figure(told?.behind),
        figure(node.rtt_ms, (ms) => seconds(ms / 1000)), figure(node.clock, (s) => `${Math.round(s) > 0 ? "+" : ""}${Math.round(s) || 0} s`),
        figure(node.seen, (s) => span(s)), figure(node.failures),
        figure(node.share, (share) => `${(100 * share).toFixed(1)} %`), node.id,
      ],
    };
  }));
  const ready = states.filter(([, kind]) => kind === "good").length;
  const versions = new Set(nodes.map((node) => of(node)?.version).filter(Boolean));
  write("summary", `${ready} of ${nodes.length} ready${versions.size > 1 ? `; versions ${[...versions].join(", ")}` : ""}`);
}

// How old what is shown is, told each second.
function drawAge() {
  const age = Date.now() - heard;
  const stale = age > STALE_AFTER;
  document.body.classList.toggle("stale", stale);
  $("stale").hidden = !stale;
  const at = new Date(heard).toLocaleTimeString("en-GB");
  write("stale", stale ? `The node has not answered for ${span(age / 1000)}: what is shown is of ${at}. ${problem}` : "");
}

// --- Asking ------------------------------------------------------------------------------

async function json(path) {
  const found = await (await fetch(path, { signal: AbortSignal.timeout(PATIENCE) })).json();
  if (found.error) throw new Error(found.error);
  return found;
}

async function look() {
  try {
    const seen = await json("/api/status");
    [heard, problem] = [Date.now(), ""];
    drawHead(seen);
    drawEvents(seen.events);
    if (!seen.packets) return;
    history.push(seen);
    if (history.length > KEPT + 1) history.shift();
    nodes = seen.nodes;
    drawRates(seen);
    drawDurations(seen);
    drawNodes();
  } catch (error) {
    problem = `(${error.message})`;
  } finally {
    drawAge();
    setTimeout(look, EVERY);
  }
}

async function lookAround() {
  try {
    const found = await json("/api/cluster");
    said = new Map(found.nodes.map((each) => [each.id, each]));
    if (history.length) drawNodes();
  } catch (error) {
    if (!problem) console.debug(`no summaries: ${error.message}`);
  } finally {
    setTimeout(lookAround, CLUSTER_EVERY);
  }
}

function holding(replica) {
  if (!replica.answered) return "no answer";
  if (!replica.version) return "no record";
  return replica.deleted ? `${replica.version}, deleted` : String(replica.version);
}

function drawPath() {
  $("path").replaceChildren(...trace.hops.map((hop) =>
    made("li", hop.id ? `${hop.address}  ${seconds(hop.rtt_ms / 1000)}${hop.owner ? "  owner" : ""}` : "no answer")));
  fill("replicas", trace.replicas.map((each) => ({ cells: [each.address, holding(each), each.bytes] })));
  $("replicas").hidden = false;
  write("path-words", `${trace.key} is ${trace.id}`);
}

async function ask(event) {
  event.preventDefault();
  $("found").hidden = false;
  write("path-words", "asking…");
  try {
    trace = null;
    // Its own limit is the server's, which is longer than a look's.
    const found = await (await fetch(`/api/trace?${new URLSearchParams({ key: $("key").value })}`)).json();
    if (found.error) throw new Error(found.error);
    trace = found;
    drawPath();
  } catch (error) {
    $("path").replaceChildren();
    $("replicas").hidden = true;
    write("path-words", `not traced: ${error.message}`);
  }
  drawNodes();
  $("found").scrollIntoView({ block: "nearest" });
}

async function learn() {
  try {
    meanings = await json("/api/reasons");
  } catch {
    setTimeout(learn, EVERY);
  }
}

$("trace").addEventListener("submit", ask);
setInterval(drawAge, 1000);
learn();
look();
lookAround();
