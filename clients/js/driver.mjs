// Carries out the commands of clients/README.md, for tests.

import { createInterface } from "node:readline";
import { Client, KdhtError } from "./kdht.mjs";

const ARGUMENT = new KdhtError("a wrong command", "ARGUMENT");
const MAX_TTL = 2 ** 32 - 1;
let client;
let clockUs;

/** The fields of one line. */
class Fields {
  constructor(words) {
    this.values = new Map(words.map((word) => [word.split("=", 1)[0], word.slice(word.indexOf("=") + 1)]));
  }

  long(name) {
    const text = this.values.get(name);
    if (text === undefined) return undefined;
    if (!/^\d+$/.test(text)) throw ARGUMENT;
    return BigInt(text);
  }

  number(name) {
    const found = this.long(name);
    return found === undefined ? undefined : Number(found);
  }

  bytes(name) {
    const text = this.values.get(name);
    if (text === undefined) return undefined;
    if (!/^([0-9a-f]{2})*$/i.test(text)) throw ARGUMENT;
    return Buffer.from(text, "hex");
  }

  need(name) {
    const found = this.bytes(name);
    if (found === undefined) throw ARGUMENT;
    return found;
  }

  ttl() {
    const found = this.number("ttl");
    if (found === 0 || found > MAX_TTL) throw ARGUMENT;
    return found;
  }
}

async function open(fields) {
  const options = {
    nodes: fields.values.get("nodes").split(","), timeoutMs: fields.number("timeout_ms"), attempts: fields.number("attempts"),
    retryMs: fields.number("retry_ms"), token: fields.values.get("token"), scope: fields.bytes("scope"),
  };
  if (fields.values.has("clock_us")) {
    clockUs = fields.long("clock_us");
    options.unixUs = () => clockUs;
  }
  let number = fields.long("number");
  // Requests get their numbers one after the other; all else is 0.
  if (number !== undefined) options.draw = (below) => (below === 1n << 58n ? number++ : 0n);
  client = await Client.open(options);
  return "";
}

const COMMANDS = {
  open,
  clock: (fields) => {
    clockUs = fields.long("clock_us");
    return "";
  },
  close: () => {
    client = undefined;
    return "";
  },
  cookie: () => `cookie=${client.cookie.toString(16).padStart(16, "0")}`,
  put: async (fields) => {
    const how = { ttl: fields.ttl(), ifVersion: fields.long("if_version") };
    return `version=${await client.put(fields.need("key"), fields.need("value"), how)}`;
  },
  get: async (fields) => {
    const how = { quorum: fields.number("quorum") === 1, max: fields.number("max") };
    const { version, ttl, value } = await client.get(fields.need("key"), how);
    return `version=${version} ttl=${ttl} value=${value.toString("hex")}`;
  },
  delete: async (fields) => {
    const was = await client.delete(fields.need("key"), { ifVersion: fields.long("if_version") });
    return `found=${Number(was)}`;
  },
  announce: async (fields) => {
    const how = { ttl: fields.number("ttl"), member: fields.bytes("member") };
    return `version=${await client.announce(fields.need("set"), fields.need("payload"), how)}`;
  },
  withdraw: async (fields) => {
    const how = { ttl: fields.number("ttl"), member: fields.bytes("member") };
    return `found=${Number(await client.withdraw(fields.need("set"), fields.need("payload"), how))}`;
  },
  members: async (fields) => {
    const members = await client.members(fields.need("set"), { quorum: fields.number("quorum") === 1 });
    const said = members.map(({ id, ttl, payload }) => `${id.toString(16).padStart(16, "0")}:${ttl}:${payload.toString("hex")}`);
    return `members=${said.join(",")}`;
  },
};

async function answer(line) {
  const [word, ...rest] = line.trim().split(" ");
  try {
    if (!Object.hasOwn(COMMANDS, word) || (!client && !["open", "clock", "close"].includes(word))) throw ARGUMENT;
    return `ok ${await COMMANDS[word](new Fields(rest))}`.trimEnd();
  } catch (error) {
    if (!(error instanceof KdhtError)) {
      process.stderr.write(`${error.stack}\n`);
      return "error ARGUMENT";
    }
    return error.status === "CONFLICT" ? `error CONFLICT version=${error.version}` : `error ${error.status}`;
  }
}

for await (const line of createInterface({ input: process.stdin })) console.log(await answer(line));
