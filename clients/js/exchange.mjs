// One request from its first datagram to its answer or its error. clients/README.md has the rules as tables.

import { createSocket } from "node:dgram";
import { KdhtError, MAX_SENT, pack, parseReply } from "./wire.mjs";

export const MAX_TRIES = MAX_SENT / 2;
const MAX_WAIT_MS = 2000;
const MAX_PAUSE_MS = 500;
/** UNREACHABLEs that are followed by another try at once. */
const MAX_BOUNCES = 5;
/** BAD_VERSIONs until a write in doubt is given up. */
const MAX_DOUBTS = 3;
const CERTIFIED = 1n << 63n;

/** Its `answer` is a promise: the accepted reply, or a KdhtError. */
export class Exchange {
  #state;
  #call;
  #id;
  #sockets = {};
  #sent = [];
  #attempt = 0; // the next try's
  #counts = { tries: 0, losses: 0, laps: 0, bounces: 0, doubts: 0, renewals: 0 };
  #version = 0n; // a write's
  #since = 0; // the first datagram with it
  #isRetimed = false; // a read's clock was corrected
  #reason; // a node's status, for the error
  #held;
  #timer;
  #givesUp;
  #isDone = false;

  constructor(state, call) {
    this.#state = state;
    this.#call = call;
    this.#id = state.draw(1n << 58n) << 6n;
    this.#givesUp = performance.now() + state.timeoutMs;
    this.answer = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
    if (call.isWrite) this.#version = state.clock.next(call.ifVersion);
    this.#try(state.current);
  }

  #end(settle) {
    if (this.#isDone) return;
    this.#isDone = true;
    clearTimeout(this.#timer);
    for (const socket of Object.values(this.#sockets)) socket.close();
    settle();
  }

  #failWith(status, version) {
    const { op, name } = this.#call;
    this.#end(() => this.reject(new KdhtError(`kdht: ${op} ${name}: ${status}`, status, version)));
  }

  #accept(got) {
    if (this.#call.accepts.includes(got.status)) this.#end(() => this.resolve(got));
    else this.#failWith(got.status, got.version);
  }

  // --- Tries

  #try(node) {
    if (this.#counts.tries < this.#state.attempts) {
      this.#counts.tries++;
      this.#send(node, this.#attempt++);
    } else if (this.#sent.every((one) => one.hasReply)) {
      this.#fail();
    } else {
      this.#wakeIn(Infinity); // an answer to an earlier try still counts
    }
  }

  #tryNext() {
    this.#try(this.#after(this.#last.node));
  }

  #after(node) {
    return (node + 1) % this.#state.nodes.length;
  }

  #send(index, attempt) {
    const { nodes, rights, cookie, clock } = this.#state;
    const node = nodes[index];
    const seq = this.#call.isWrite ? this.#version : clock.now();
    const data = pack(rights, this.#call, this.#id + BigInt(this.#sent.length), attempt, cookie, seq);
    this.#sent.push({ node: index, attempt, cookie, seq, hasReply: false, isUnsure: false, changedNothing: false });
    const type = node.family === 6 ? "udp6" : "udp4";
    // Not connected, so one socket serves for all nodes. It is fresh: no late reply to another request comes in.
    this.#sockets[type] ??= createSocket(type)
      .on("message", (message, from) => this.#received(message, from))
      .on("error", () => {}); // as a lost datagram
    this.#sockets[type].send(data, node.port, node.address, () => {});
    this.#wait(MAX_WAIT_MS);
  }

  /** Until the next try: twice as long after each loss. Clients that lost packets together must not try together. */
  #wait(mostMs) {
    const span = Math.min(this.#state.retryMs * 2 ** this.#counts.losses, mostMs);
    this.#wakeIn(span + Number(this.#state.draw(BigInt(Math.floor(span / 2) + 1))));
  }

  #wakeIn(spanMs) {
    clearTimeout(this.#timer);
    const left = this.#givesUp - performance.now();
    if (!this.#isDone) this.#timer = setTimeout(() => this.#timedOut(), Math.ceil(Math.min(spanMs, left)));
  }

  /** Wait with nothing under way before the next try, or try now. */
  #pauseOr(pauses, node) {
    if (!pauses) this.#try(node);
    else if (this.#counts.tries >= this.#state.attempts && this.#sent.every((one) => one.hasReply)) this.#fail();
    else this.#wait(MAX_PAUSE_MS);
  }

  get #last() {
    return this.#sent[this.#sent.length - 1];
  }

  get #mayRepeat() {
    return this.#sent.length - this.#counts.tries < MAX_SENT - MAX_TRIES;
  }

  // --- Events

  #timedOut() {
    if (this.#held) this.#failWith("UNCONFIRMED");
    else if (performance.now() >= this.#givesUp) this.#fail();
    else {
      if (!this.#last.hasReply) this.#counts.losses++;
      this.#tryNext();
    }
  }

  #received(data, from) {
    const got = parseReply(data, this.#call, this.#id);
    const of = got && this.#sent[got.number];
    const node = of && this.#state.nodes[of.node];
    if (this.#isDone || !of || from.address !== node.address || from.port !== node.port) return;
    this.#state.current = of.node;
    this.#state.cookie = got.cookie || this.#state.cookie;
    of.hasReply = true;
    this.#take(got, of);
    if (!this.#held || this.#isDone || !this.#sent.every((one) => one.hasReply)) return;
    const held = this.#held;
    this.#held = undefined;
    if (held.status === "BAD_VERSION") this.#chooseVersion(held, this.#sent[held.number]);
    else this.#conclude(held);
  }

  #take(got, of) {
    const { isWrite, accepts } = this.#call;
    // A copy of a refused datagram was done, and the write is on its way under a greater version: that is its end.
    const isLate = accepts.includes(got.status) && got.number < this.#since && this.#since < this.#sent.length;
    // The network doubles datagrams: another reply to this one does not end the doubt.
    of.isUnsure ||= isLate || got.status === "UNCONFIRMED";
    of.changedNothing &&= !of.isUnsure;
    if (isLate) return;
    if (isWrite && !accepts.includes(got.status)) {
      of.changedNothing = !of.isUnsure;
      if (this.#held) return;
      if (got.status === "BAD_VERSION") {
        // The present version was chosen with what older refusals told.
        if (got.number >= this.#since) this.#chooseVersion(got, of);
        return;
      }
    }
    const isLast = of === this.#last;
    switch (got.status) {
      case "BAD_VERSION":
        this.#correctClock(got, of);
        break;
      case "COOKIE_NEEDED":
        if ([0n, of.cookie].includes(got.cookie) || !this.#mayRepeat) this.#conclude(got);
        else if (this.#last.cookie !== got.cookie) this.#send(of.node, of.attempt);
        break;
      case "NOT_RESPONSIBLE":
        if (isLast) this.#goBeyondReplicas(of);
        break;
      case "UNREACHABLE":
        if (isLast) this.#pauseOr(++this.#counts.bounces > MAX_BOUNCES, of.node);
        break;
      case "STORAGE_FAILED":
      case "FULL":
      case "BUSY":
      case "UNCONFIRMED":
        this.#reason = got.status;
        if (isLast) this.#pauseOr(["BUSY", "UNCONFIRMED"].includes(got.status), this.#after(of.node));
        break;
      default:
        this.#conclude(got);
    }
  }

  /** The replicas are used up, so the best route is next. */
  #goBeyondReplicas(of) {
    this.#attempt = of.attempt === 0 ? 1 : 0;
    this.#pauseOr(of.attempt !== 0 && ++this.#counts.laps > 1, this.#after(of.node));
  }

  /** Of a read: the time in its proof was refused. */
  #correctClock(got, of) {
    if (this.#isRetimed || !this.#mayRepeat) {
      this.#conclude(got);
      return;
    }
    this.#isRetimed = true;
    this.#state.clock.refused(of.seq, got.version);
    this.#send(of.node, of.attempt);
  }

  /** The request ends with this reply, unless it refuses a write that another datagram may have done. */
  #conclude(got) {
    if (this.#call.isWrite && !this.#call.accepts.includes(got.status) && this.#isInDoubt) this.#hold(got);
    else this.#accept(got);
  }

  // --- Writes

  get #isInDoubt() {
    return !this.#sent.every((one) => one.changedNothing);
  }

  /** Wait for the open datagrams. */
  #hold(got) {
    if (this.#sent.every((one) => one.hasReply)) {
      this.#failWith("UNCONFIRMED");
      return;
    }
    this.#held = got;
    this.#wakeIn(this.#state.retryMs);
  }

  /** The key has a newer version, or this host's clock is off. */
  #chooseVersion(got, of) {
    const { clock, attempts } = this.#state;
    // No ordinary write may go there, so it is no reason to refuse one.
    const isLie = got.version >= CERTIFIED;
    this.#reason = isLie ? "STORAGE_FAILED" : "BAD_VERSION";
    if (!isLie) {
      clock.refused(this.#version, got.version);
      if (!this.#isInDoubt) {
        this.#version = clock.next(this.#call.ifVersion, got.version);
        this.#since = this.#sent.length;
        this.#attempt = of.attempt;
        this.#pauseOr(++this.#counts.renewals > 1, of.node);
        return;
      }
      // Another replica may know that the write was done. A greater version could undo what came after it.
      if (++this.#counts.doubts >= MAX_DOUBTS || this.#counts.tries >= attempts) {
        this.#hold(got);
        return;
      }
    }
    if (of === this.#last) this.#tryNext();
  }

  /** The end without an answer. */
  #fail() {
    if (this.#reason && this.#call.isWrite && this.#isInDoubt) this.#failWith("UNCONFIRMED");
    else if (this.#reason) this.#failWith(this.#reason);
    else this.#failWith(this.#sent.every((one) => one.hasReply) ? "NOT_RESPONSIBLE" : "TIMEOUT");
  }
}
