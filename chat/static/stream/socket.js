// The connection to the hub (docs/websocket.md): says hello, asks and waits for what is answered, comes back by itself.

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15000;
const PING_EVERY_MS = 25000;
const ANSWER_WAIT_MS = 15000;
const NOT_LET_IN = 4401;

export class Refused extends Error {
  constructor(fields) {
    super(fields.message);
    this.code = fields.code;
    this.retryAfter = fields.retry_after;
  }
}

/** `on`: state(name, waitS), ready(message), event(message), refused(error). */
export class Socket {
  #socket = null;
  #key = "";
  #waiting = new Map();
  #next = 1;
  #tries = 0;
  #refusal = null;
  #timer = 0;
  #ping = 0;
  #isWanted = false;

  constructor(on) {
    this.on = on;
    addEventListener("online", () => this.#isWanted && !this.#socket && this.#connect());
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.#look());
  }

  open(key) {
    this.#key = key;
    this.#isWanted = true;
    this.#tries = 0;
    this.#connect();
  }

  close() {
    this.#isWanted = false;
    clearTimeout(this.#timer);
    this.#socket?.close();
  }

  /** Send a message; resolves to what answers it, rejects with Refused or with an Error if the connection is lost. */
  ask(message) {
    return new Promise((resolve, reject) => {
      if (this.#socket?.readyState !== WebSocket.OPEN) {
        reject(new Error("not connected"));
        return;
      }
      const id = this.#next++;
      this.#waiting.set(id, { resolve, reject });
      this.#socket.send(JSON.stringify({ ...message, id }));
    });
  }

  #connect() {
    clearTimeout(this.#timer);
    this.on.state("connecting", 0);
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/ws/chat/`);
    this.#socket = socket;
    socket.addEventListener("open", () => this.#hello());
    socket.addEventListener("message", (event) => this.#heard(JSON.parse(event.data)));
    socket.addEventListener("close", (event) => socket === this.#socket && this.#closed(event.code));
  }

  async #hello() {
    try {
      const ready = await this.ask(this.#key ? { type: "hello", key: this.#key } : { type: "hello" });
      this.#tries = 0;
      this.#ping = setInterval(() => this.#look(), PING_EVERY_MS);
      this.on.state("ready", 0);
      this.on.ready(ready);
    } catch (error) {
      this.#refusal = null;
      if (error instanceof Refused) this.on.refused(error);
    }
  }

  #heard(message) {
    const waiting = message.re === undefined || message.re === null ? null : this.#waiting.get(message.re);
    if (waiting) {
      this.#waiting.delete(message.re);
      if (message.type === "error") waiting.reject(this.#refusal = new Refused(message));
      else waiting.resolve(message);
    } else if (message.type === "error" && !message.turn) {
      this.on.refused(new Refused(message));
    } else {
      this.on.event(message);
    }
  }

  /** A connection that has died without a word, as after a laptop's sleep, is found by asking. */
  async #look() {
    const socket = this.#socket;
    if (socket?.readyState !== WebSocket.OPEN) return;
    const late = setTimeout(() => { socket.close(); this.#closed(1006); }, ANSWER_WAIT_MS);
    try { await this.ask({ type: "ping" }); } catch { /* closed meanwhile */ } finally { clearTimeout(late); }
  }

  #closed(code) {
    this.#socket = null;
    clearInterval(this.#ping);
    const lost = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { reject } of lost) reject(new Error("the connection was lost"));
    if (!this.#isWanted || code === NOT_LET_IN) {
      this.#isWanted = false;
      this.on.state("off", 0);
      // Told as the answer to something that was asked, it may have been heard by somebody else alone.
      if (code === NOT_LET_IN && this.#refusal) this.on.refused(this.#refusal);
      return;
    }
    const longest = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#tries++);
    const waitMs = longest * (0.5 + Math.random() / 2);
    this.on.state("waiting", waitMs / 1000);
    this.#timer = setTimeout(() => this.#connect(), waitMs);
  }
}
