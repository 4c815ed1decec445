// The bytes of requests and replies, as docs/protocol.md has them. No I/O.

import { readFileSync } from "node:fs";
import { blake2b } from "./blake2b.mjs";

export const OP = { get: 1, put: 2, delete: 3, quorumGet: 5, announce: 7, withdraw: 8, members: 9 };
export const STATUS = [
  "OK", "NOT_FOUND", "NOT_RESPONSIBLE", "COOKIE_NEEDED", "TOO_LARGE", "BAD_REQUEST", "STORAGE_FAILED", "BUSY", "HOPS_ENDED",
  "CONFLICT", "UNCONFIRMED", "UNREACHABLE", "DENIED", "BAD_VERSION", "TOO_FEW", "FULL",
];
export const MAX_BODY = 1120;
export const MAX_PAYLOAD = 256;
export const MAX_MEMBER_TTL = 86400;
/** Datagrams of one request: the low 6 bits of its ID number them. */
export const MAX_SENT = 64;
export const RECORD = 16;

const HEADER = 112;
const PROOF = 64;
const FLAGS_OF_REPLY = 3;
const PROVEN = 8;
const IF_VERSION = 1;
const START = Buffer.from("KDHT\x01");
const EVERY_KEY = Buffer.alloc(8);

/**
 * Why a request failed. `status` is the name of a node's status, or TIMEOUT (a write may have been done), ANSWER (it cannot be
 * read) or ARGUMENT (nothing was sent). `version`: of a CONFLICT, what the key has, 0n for none.
 */
export class KdhtError extends Error {
  constructor(message, status, version = 0n) {
    super(message);
    this.name = "KdhtError";
    this.status = status;
    this.version = version;
  }
}

export const bytesOf = (data) => (typeof data === "string" ? Buffer.from(data) : Buffer.from(data));

/** A client's token and scope: where its keys lie, and the proof in each of its requests. */
export class Rights {
  constructor(token, scope) {
    this.scope = scope ? blake2b(8, [bytesOf(scope)], { person: "kdht-scope" }) : EVERY_KEY;
    const text = (token.startsWith("@") ? readFileSync(token.slice(1), "ascii") : token).trim();
    if (!text) return;
    const raw = Buffer.from(text.slice(6), "base64url");
    if (raw.length !== 38 || `kdht1.${raw.toString("base64url")}` !== text) {
      throw new KdhtError("this token is damaged or cut off: copy it again", "ARGUMENT");
    }
    // The text leaves out the grant's kind and its reserved byte.
    this.grant = Buffer.concat([Buffer.from([1, raw[0], raw[1], 0]), raw.subarray(2, 22)]);
    this.key = raw.subarray(22);
    const own = raw.subarray(14, 22);
    if (own.equals(EVERY_KEY)) return;
    if (scope && !own.equals(this.scope)) {
      throw new KdhtError("this token is for another scope: leave the scope out, or use its own token", "ARGUMENT");
    }
    this.scope = own;
  }

  get room() {
    return this.grant ? MAX_BODY - PROOF : MAX_BODY;
  }

  keyOf(inner) {
    return this.scope.equals(EVERY_KEY) ? inner : blake2b(20, [inner, this.scope], { person: "kdht-scoped" });
  }

  /** What to put behind the body. `seq`: a write's version, or a read's time. */
  proof(call, body, seq) {
    const claims = Buffer.concat([this.grant, call.inner, long(seq)]);
    const covered = [Buffer.from([call.op]), call.key, body, claims];
    return Buffer.concat([claims, blake2b(12, covered, { person: "kdht-proof", key: this.key })]);
  }
}

export function long(number) {
  const packed = Buffer.alloc(8);
  packed.writeBigUInt64BE(number);
  return packed;
}

export function packRecord(ttl, ifVersion, ...value) {
  const head = Buffer.alloc(RECORD);
  head.writeUInt32BE(ttl, 8);
  if (ifVersion === undefined) return Buffer.concat([head, ...value]);
  head.writeUInt32BE(IF_VERSION, 12);
  return Buffer.concat([head, long(BigInt(ifVersion)), ...value]);
}

/** A datagram of a call. A write has its version in the first bytes of its body. */
export function pack(rights, call, id, attempt, cookie, seq) {
  let body = call.body;
  if (call.isWrite) body = Buffer.concat([long(seq), body.subarray(8)]);
  if (rights.grant) body = Buffer.concat([body, rights.proof(call, body, seq)]);
  const header = Buffer.alloc(HEADER);
  header.set(START);
  header[5] = call.op;
  header[6] = rights.grant ? PROVEN : 0;
  header.writeBigUInt64BE(id, 8);
  header.set(call.key, 16);
  header[36] = attempt;
  header.writeUInt16BE(body.length, 38);
  header.writeUInt16BE(call.maxReply, 82);
  header.writeBigUInt64BE(cookie, 88);
  return Buffer.concat([header, body]);
}

/** From untrusted bytes. Undefined for all that is no reply to this request. */
export function parseReply(data, call, id) {
  if (data.length < HEADER || !data.subarray(0, 5).equals(START)) return undefined;
  if (data[5] !== call.op || data[6] !== FLAGS_OF_REPLY || data.readUInt16BE(38) !== data.length - HEADER) return undefined;
  const got = data.readBigUInt64BE(8);
  if (got - (got % BigInt(MAX_SENT)) !== id || !data.subarray(16, 36).equals(call.key)) return undefined;
  const status = STATUS[data[37]] ?? `STATUS_${data[37]}`;
  const body = data.subarray(HEADER);
  // Of a body that holds no record the version is 0.
  const version = body.length < RECORD ? 0n : body.readBigUInt64BE();
  return { status, number: Number(got % BigInt(MAX_SENT)), cookie: data.readBigUInt64BE(88), body, version };
}

/** One page of a set: its members, and the cursor for the next page, 0n at the end. Undefined if it cannot be read. */
export function parseMembers(body) {
  if (body.length < 16) return undefined;
  const members = [];
  for (let at = 16; at < body.length; ) {
    if (body.length < at + 14) return undefined;
    const length = body.readUInt16BE(at + 12);
    const end = at + 14 + length;
    if (length > MAX_PAYLOAD || end > body.length) return undefined;
    members.push({ id: body.readBigUInt64BE(at), ttl: body.readUInt32BE(at + 8), payload: body.subarray(at + 14, end) });
    at = end;
  }
  return { members, next: body.readBigUInt64BE(8) };
}
