// A realtime session that outlives its connections: the newest input is what counts, and it is sent again after a reconnect.

import { ApiError, BASE, call } from "./api.js";

const SEND_EVERY = 40; // ms between frames; a fast typist makes one every 80
const RETRY_FIRST = 300;
const RETRY_MOST = 4000;
const UNANSWERED_MOST = 200;

export class Live {
  // `told`: { state(name, text), picture(result, facts), problem(text), unauthorized(text) }
  constructor(told) {
    this.told = told;
    this.endpoint = null;
    this.latest = null;
    this.fresh = false;
    this.socket = null;
    this.sent = new Map();
    this.frame = 0;
    this.superseded = 0;
    this.pending = false; // a connection is being made, or waits to be tried again: it begins with the newest input
    this.idled = false; // the server closes a session in which nothing happens
    this.retry = RETRY_FIRST;
    this.timer = 0;
    this.sendTimer = 0;
    this.nextSend = 0;
    this.generation = 0;
  }

  // Draws an input; whatever is not drawn yet gives way to it.
  draw(endpoint, input) {
    this.latest = input;
    this.fresh = true;
    if (endpoint !== this.endpoint) {
      this.endpoint = endpoint;
      this.restart();
    } else if (this.socket) {
      this.flush();
    } else if (!this.pending) {
      this.restart();
    }
  }

  // Whether everything that was sent has been answered.
  get idle() {
    return this.sent.size === 0 && !this.fresh;
  }

  // Opens a new connection now.
  restart() {
    clearTimeout(this.timer);
    this.generation += 1;
    const old = this.socket;
    this.socket = null;
    old?.close(1000);
    this.connect(this.generation);
  }

  async connect(generation) {
    if (!this.endpoint) return;
    this.pending = true;
    this.told.state("connecting", "Connecting");
    let token;
    try {
      const app = `fal-ai/${this.endpoint}`;
      ({ token } = await call("POST", "rest/tokens/realtime", { body: { allowed_apps: [app], duration: 600 } }));
    } catch (error) {
      if (generation !== this.generation) return;
      if (error instanceof ApiError && (error.status === 401 || error.status === 403)) {
        this.pending = false;
        this.told.unauthorized(error.message);
      } else this.again(generation);
      return;
    }
    if (generation !== this.generation) return;
    const url = new URL(`run/fal-ai/${this.endpoint}/realtime?max_buffering=1`, BASE);
    url.protocol = url.protocol.replace("http", "ws");
    url.searchParams.set("fal_jwt_token", token);
    const socket = new WebSocket(url);
    this.socket = socket;
    this.pending = false;
    this.idled = false;
    socket.onopen = () => {
      this.retry = RETRY_FIRST;
      this.sent.clear();
      this.told.state("open", "Live");
      if (this.latest) {
        this.fresh = true;
        this.flush();
      }
    };
    socket.onmessage = (event) => socket === this.socket && this.take(JSON.parse(event.data));
    socket.onclose = (event) => {
      if (socket !== this.socket) return;
      this.socket = null;
      this.sent.clear();
      if (event.code === 1000 && this.idled) this.told.state("paused", "Paused: type to go on");
      else this.again(generation);
    };
  }

  again(generation) {
    this.pending = true;
    this.told.state("lost", "No answer: trying again");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => generation === this.generation && this.connect(generation), this.retry);
    this.retry = Math.min(RETRY_MOST, this.retry * 1.7);
  }

  flush() {
    const wait = this.nextSend - performance.now();
    if (wait > 0 || this.socket?.readyState !== WebSocket.OPEN || !this.fresh) {
      if (this.fresh && wait > 0) {
        clearTimeout(this.sendTimer);
        this.sendTimer = setTimeout(() => this.flush(), wait);
      }
      return;
    }
    const id = String(++this.frame);
    this.sent.set(id, { time: performance.now(), endpoint: this.endpoint, input: this.latest });
    if (this.sent.size > UNANSWERED_MOST) this.sent.delete(this.sent.keys().next().value);
    this.fresh = false;
    this.nextSend = performance.now() + SEND_EVERY;
    this.socket.send(JSON.stringify({ ...this.latest, request_id: id }));
  }

  take(message) {
    if (message.type === "x-fal-message") {
      if (message.action === "dropped") {
        this.sent.delete(message.request_id);
        if (message.reason === "SUPERSEDED") this.superseded += 1;
      }
    } else if (message.type === "x-fal-error") {
      if (message.request_id) this.sent.delete(message.request_id);
      else this.sent.clear();
      if (message.error === "TIMEOUT") this.idled = true;
      else this.told.problem(message.reason || message.error);
    } else if (message.images) {
      const asked = this.sent.get(message.request_id);
      for (const id of [...this.sent.keys()]) if (Number(id) <= Number(message.request_id)) this.sent.delete(id);
      if (asked) this.told.picture(message, { ...asked, round: performance.now() - asked.time, superseded: this.superseded });
      this.superseded = 0;
    }
  }
}
