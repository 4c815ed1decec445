// A thin client of kdht: values with conditions, and sets. Copy the four files. clients/README.md says how it behaves.
//
//     import { Client, KdhtError } from "./kdht.mjs";
//     const client = await Client.open({ nodes: ["10.0.0.1", "10.0.0.2"] });
//     const version = await client.put("greeting", "hello", { ttl: 60 });
//     const { value } = await client.get("greeting");

import { randomBytes } from "node:crypto";
import { lookup } from "node:dns/promises";
import { SocketAddress } from "node:net";
import { blake2b } from "./blake2b.mjs";
import { Exchange, MAX_TRIES } from "./exchange.mjs";
import * as wire from "./wire.mjs";

export { KdhtError } from "./wire.mjs";

const PORT = 5348;
const MAX_TTL = 2 ** 32 - 1;
const MAX_CLOCK_ERROR = 60_000_000n; // µs
/** µs before now, from which a conditional write's version is drawn. */
const SPREAD = 1_000_000n;
const SPREAD_AHEAD = 1n << 14n;

const least = (a, b) => (a < b ? a : b);
const greatest = (a, b) => (a > b ? a : b);
const argument = (message) => new wire.KdhtError(`kdht: ${message}`, "ARGUMENT");

/** The versions of writes: microseconds since 1970 by the cluster's clocks, as far as they are known. */
class Clock {
  #unixUs;
  #draw;
  #offset = 0n;
  #last = 0n;

  constructor(unixUs, draw) {
    this.#unixUs = unixUs;
    this.#draw = draw;
  }

  now() {
    return this.#unixUs() + this.#offset;
  }

  /** A version above the last one, the condition, and what a node told. */
  next(condition, told = -1n) {
    const now = this.now();
    const lowest = greatest(told, condition ?? -1n) + 1n;
    const floor = greatest(lowest, this.#last + 1n);
    const room = now - floor;
    let own = greatest(now, this.#last + 1n);
    if (condition !== undefined && room > SPREAD_AHEAD) {
      // From the last second: two conditional writes of one value must not have one version.
      own -= this.#draw(least(room, SPREAD));
    } else if (condition !== undefined || lowest > own) {
      own = floor + this.#draw(SPREAD_AHEAD);
      const behind = own - now;
      if (behind > 0n && behind <= MAX_CLOCK_ERROR) this.#offset += behind;
    }
    this.#last = own;
    return own;
  }

  /** A node refused this version, and told the key's or its clock. */
  refused(version, told) {
    const now = this.now();
    if (told < version || told > now + MAX_CLOCK_ERROR) this.#offset += told - now;
    if (told < version) this.#last = least(this.#last, told);
  }
}

// Date has milliseconds, and two clients should not choose one version.
const microseconds = () => BigInt(Date.now()) * 1000n + drawSecurely(1000n);

function drawSecurely(below) {
  return randomBytes(8).readBigUInt64BE() % below;
}

async function resolve(node) {
  const [, inBrackets, host, port = PORT] = node.match(/^(?:\[(.*)\]|([^:]*))(?::(\d+))?$/) ?? [];
  const { address, family } = await lookup(inBrackets ?? host ?? node); // else a bare IPv6 address
  // In its shortest form, as replies have it.
  const shortest = new SocketAddress({ address, family: `ipv${family}` }).address;
  return { address: shortest, family, port: Number(port) };
}

/** Asks the nodes of one cluster, with as many requests at once as you like. */
export class Client {
  #state;

  /**
   * Looks the nodes' names up, and sends nothing.
   *
   * `nodes`: "host", "host:port", "[fd00::3]:port". `timeoutMs`, of one request. `attempts`: tries of one request, 1 to 32.
   * `retryMs`: until a datagram counts as lost. `token`, or "@FILE"; by default $KDHT_TOKEN. `scope` of the keys, by default the
   * token's. For tests: `unixUs`, the clock; `draw`, random numbers below a number.
   */
  static async open(options) {
    const { nodes = [], timeoutMs = 5000, attempts = 16, retryMs = 250, scope } = options;
    const { token = process.env.KDHT_TOKEN ?? "", unixUs = microseconds, draw = drawSecurely } = options;
    if (!nodes.length || !(timeoutMs > 0 && retryMs > 0 && attempts >= 1 && attempts <= MAX_TRIES)) {
      throw argument(`name a node, times above 0 and 1 to ${MAX_TRIES} attempts`);
    }
    const client = new Client();
    client.#state = {
      rights: new wire.Rights(token, scope), clock: new Clock(unixUs, draw), nodes: await Promise.all(nodes.map(resolve)),
      timeoutMs, attempts, retryMs, draw, current: 0, cookie: 0n,
    };
    return client;
  }

  /** The last one that a node gave, a bigint; 0n for none. */
  get cookie() {
    return this.#state.cookie;
  }

  /** A record: `value` (a Buffer), `version` (a bigint), `ttl` (seconds left; 0: without end). Without one: NOT_FOUND. */
  async get(name, { quorum = false, max = wire.MAX_BODY - wire.RECORD } = {}) {
    const got = await this.#ask(quorum ? "quorumGet" : "get", name, Buffer.alloc(0), { maxReply: wire.RECORD + max });
    if (got.body.length < wire.RECORD) throw new wire.KdhtError(`kdht: get ${name}: ANSWER`, "ANSWER");
    return { value: got.body.subarray(wire.RECORD), version: got.version, ttl: got.body.readUInt32BE(8) };
  }

  /** Returns the version. `ifVersion`: only if the key has that version, 0n for none; else CONFLICT. */
  async put(name, value, { ttl = 0, ifVersion } = {}) {
    if (!Number.isInteger(ttl) || ttl < 0 || ttl > MAX_TTL) throw argument(`a TTL has 1 to ${MAX_TTL} seconds`);
    const body = wire.packRecord(ttl, ifVersion, wire.bytesOf(value));
    return (await this.#ask("put", name, body, { ifVersion, isWrite: true })).version;
  }

  /** Returns whether there was a value. */
  async delete(name, { ifVersion } = {}) {
    return this.#remove("delete", name, wire.packRecord(0, ifVersion), ifVersion);
  }

  /**
   * Makes the payload, at most 256 bytes, a member of the set for `ttl` seconds, at most 86,400; announce again three times in
   * it. `member` is its name: 8 bytes, or a text that is hashed; by default the payload's hash. Returns the version.
   */
  async announce(set, payload, { ttl = 30, member } = {}) {
    const data = wire.bytesOf(payload);
    if (data.length > wire.MAX_PAYLOAD) throw new wire.KdhtError(`kdht: announce ${set}: TOO_LARGE`, "TOO_LARGE");
    const body = wire.packRecord(memberTtl(ttl), undefined, memberName(data, member), data);
    return (await this.#ask("announce", set, body, { isWrite: true })).version;
  }

  /** Returns whether it was a member. `ttl`: the greatest one of its announcements. */
  async withdraw(set, payload, { ttl = wire.MAX_MEMBER_TTL, member } = {}) {
    const body = wire.packRecord(memberTtl(ttl), undefined, memberName(wire.bytesOf(payload), member));
    return this.#remove("withdraw", set, body);
  }

  /** All members, each with `id` (a bigint), `ttl` (seconds left) and `payload`, in the order of their IDs. */
  async members(set, { quorum = false } = {}) {
    const found = new Map();
    for (let cursor = 1n; cursor; ) {
      const body = Buffer.concat([wire.long(cursor), Buffer.from([0, 0, 0, quorum ? 1 : 0])]);
      const page = wire.parseMembers((await this.#ask("members", set, body)).body);
      // Backwards would be a walk without end.
      if (!page || (page.next && page.next <= cursor)) throw new wire.KdhtError(`kdht: members ${set}: ANSWER`, "ANSWER");
      for (const member of page.members) found.set(member.id, member);
      cursor = page.next;
    }
    return [...found.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
  }

  async #remove(op, name, body, ifVersion) {
    const accepts = ["OK", "NOT_FOUND"];
    return (await this.#ask(op, name, body, { ifVersion, isWrite: true, accepts })).status === "OK";
  }

  #ask(op, name, body, { isWrite = false, ifVersion, maxReply = 0, accepts = ["OK"] } = {}) {
    const { rights } = this.#state;
    if (body.length > rights.room) throw new wire.KdhtError(`kdht: ${op} ${name}: TOO_LARGE`, "TOO_LARGE");
    const inner = blake2b(20, [wire.bytesOf(name)]);
    const condition = ifVersion === undefined ? undefined : BigInt(ifVersion);
    const call = { op: wire.OP[op], name, inner, key: rights.keyOf(inner), body, isWrite, ifVersion: condition, maxReply, accepts };
    return new Exchange(this.#state, call).answer;
  }
}

function memberTtl(ttl) {
  if (Number.isInteger(ttl) && ttl >= 1 && ttl <= wire.MAX_MEMBER_TTL) return ttl;
  throw argument(`a member's TTL has 1 to ${wire.MAX_MEMBER_TTL} seconds`);
}

function memberName(payload, member) {
  const chosen = member === undefined ? payload : wire.bytesOf(member);
  return member !== undefined && chosen.length === 8 ? chosen : blake2b(8, [chosen], { person: "kdht-member" });
}
