// A cache in front of a slow service. All its processes share what each has fetched: it lies in kdht, with a TTL.
//
//     node cache.mjs --origin http://127.0.0.1:9000 --listen 127.0.0.1:8080 --nodes 10.0.0.1,10.0.0.2 --ttl 30
//
// An answer's header x-cache says hit, miss, or pass: not to be cached. Without kdht all answers come from the origin.

import { createServer } from "node:http";
import { parseArgs } from "node:util";
import { Client, KdhtError } from "../../clients/js/kdht.mjs";

/** What is slower than this is no cache: then the origin is asked. */
const CACHE_MS = 1000;
const ORIGIN_MS = 10000;
const MAX_BYTES = 16 * 1024 * 1024;
/** Of a request. Such an answer may be for one user alone. */
const PRIVATE = ["authorization", "cookie", "range"];

function fail(message) {
  console.error(`cache: ${message}`);
  process.exit(2);
}

function options() {
  const text = { type: "string" };
  const { values } = parseArgs({ options: { origin: text, listen: text, nodes: text, ttl: { ...text, default: "30" } } });
  const ttl = Number(values.ttl);
  const [, host, port] = values.listen?.match(/^(.*):(\d+)$/) ?? [];
  if (!values.origin || !values.nodes || !host) fail("needs --origin URL, --listen HOST:PORT and --nodes HOST[:PORT],...");
  if (!Number.isInteger(ttl) || ttl < 1) fail("--ttl is a number of seconds above 0");
  return { origin: new URL(values.origin), host, port: Number(port), nodes: values.nodes.split(","), ttl };
}

/** Answers by URL: from kdht, or else from the origin, which is asked once however many wait. */
class Cache {
  #waiting = new Map();

  constructor(client, origin, ttl) {
    this.client = client;
    this.origin = origin;
    this.ttl = ttl;
  }

  async get(path) {
    const found = await this.#find(path);
    if (found) return found;
    if (!this.#waiting.has(path)) {
      this.#waiting.set(path, this.#fetch(path).finally(() => this.#waiting.delete(path)));
    }
    return this.#waiting.get(path);
  }

  /** An answer with a status, a type, a body, and whether others may have it. */
  async ask(path, headers = {}) {
    const signal = AbortSignal.timeout(ORIGIN_MS);
    // Put together as text: as a relative URL, //other.host/ would lead to another host.
    const answer = await fetch(`${this.origin.origin}${path}`, { headers, redirect: "manual", signal });
    const body = await wholeBody(answer);
    const isPrivate = /no-store|private/.test(answer.headers.get("cache-control") ?? "") || answer.headers.has("set-cookie");
    const type = answer.headers.get("content-type") ?? "application/octet-stream";
    return { status: answer.status, type, body, how: answer.status === 200 && !isPrivate ? "miss" : "pass" };
  }

  #key(path) {
    return `cache/${this.origin.host}${path}`;
  }

  async #find(path) {
    try {
      const { value } = await this.client.get(this.#key(path));
      const end = value.indexOf("\n");
      return { status: 200, type: value.toString("latin1", 0, end), body: value.subarray(end + 1), how: "hit" };
    } catch (error) {
      report(error, "NOT_FOUND");
      return undefined;
    }
  }

  async #fetch(path) {
    const answer = await this.ask(path);
    if (answer.how === "miss") {
      const value = Buffer.concat([Buffer.from(`${answer.type}\n`, "latin1"), answer.body]);
      // Nobody waits for it. TOO_LARGE: one record does not hold it.
      this.client.put(this.#key(path), value, { ttl: this.ttl }).catch((error) => report(error, "TOO_LARGE"));
    }
    return answer;
  }
}

async function wholeBody(answer) {
  const parts = [];
  let bytes = 0;
  for await (const part of answer.body ?? []) {
    bytes += part.length;
    if (bytes > MAX_BYTES) throw new Error("the origin's answer is too large");
    parts.push(part);
  }
  return Buffer.concat(parts);
}

function report(error, expected) {
  if (!(error instanceof KdhtError)) throw error;
  if (error.status !== expected) console.error(error.message);
}

async function serve(cache, request, response) {
  try {
    const isShared = request.method === "GET" && !PRIVATE.some((name) => name in request.headers);
    if (!["GET", "HEAD"].includes(request.method)) {
      response.writeHead(405, { allow: "GET, HEAD" }).end();
      return;
    }
    if (!request.url.startsWith("/")) {
      response.writeHead(400).end();
      return;
    }
    const headers = Object.fromEntries(PRIVATE.filter((name) => name in request.headers).map((name) => [name, request.headers[name]]));
    const answer = isShared ? await cache.get(request.url) : { ...(await cache.ask(request.url, headers)), how: "pass" };
    response.writeHead(answer.status, { "content-type": answer.type, "content-length": answer.body.length, "x-cache": answer.how });
    response.end(request.method === "HEAD" ? undefined : answer.body);
  } catch (error) {
    console.error(`${request.url}: ${error.message}`);
    response.writeHead(error.name === "TimeoutError" ? 504 : 502).end();
  }
}

const { origin, host, port, nodes, ttl } = options();
const client = await Client.open({ nodes, timeoutMs: CACHE_MS }).catch((error) => fail(error.message));
const cache = new Cache(client, origin, ttl);
createServer((request, response) => serve(cache, request, response))
  .on("error", (error) => fail(error.message))
  .listen(port, host, () => console.log(`listening on ${host}:${port}`));
