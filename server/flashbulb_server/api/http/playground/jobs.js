// The queue view: what this tab submitted, followed live until it ends. Job ids outlive a reload of the page.

import { ApiError, call, events } from "./api.js";

const STORED = "flashbulb-jobs";
const MOST = 30;
const RETRY = 1000;
const POLL = 1000;
const STREAMS = 2; // a browser opens six connections to a server, and other calls need some

export class Jobs {
  // `shown(job, result)`: the user wants a finished job's picture; `changed(count)`: how many are listed.
  constructor(list, { shown, changed }) {
    this.list = list;
    this.shown = shown;
    this.changed = changed;
    this.jobs = [];
    this.streams = 0;
    for (const known of JSON.parse(sessionStorage.getItem(STORED) ?? "[]").reverse()) this.add(known);
  }

  async submit(endpoint, input) {
    const idempotency = unique();
    const answer = await call("POST", `queue/fal-ai/${endpoint}`, { body: input, headers: { "idempotency-key": idempotency } });
    const { image_url: _, ...rest } = input; // too large to keep
    this.add({ id: answer.request_id, endpoint, prompt: input.prompt, input: rest });
  }

  add(job) {
    job.element = row(job, {
      cancel: () => this.cancel(job),
      show: () => this.shown(job, job.result),
    });
    this.jobs.unshift(job);
    this.list.prepend(job.element.root);
    for (const old of this.jobs.splice(MOST)) {
      old.stop?.abort();
      old.element.root.remove();
    }
    this.store();
    this.follow(job);
  }

  store() {
    const kept = this.jobs.map(({ id, endpoint, prompt, input }) => ({ id, endpoint, prompt, input }));
    sessionStorage.setItem(STORED, JSON.stringify(kept));
    this.changed(this.jobs.length);
  }

  async cancel(job) {
    try {
      await call("PUT", `${path(job)}/cancel`);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error; // it may have ended meanwhile: what follows it says so
    }
  }

  // Follows a job to its end: over a stream if one is free, else by asking.
  async follow(job) {
    job.stop = new AbortController();
    const { signal } = job.stop;
    while (!signal.aborted) {
      const streams = this.streams < STREAMS;
      this.streams += streams;
      try {
        for await (const status of streams ? events(`${path(job)}/status/stream?previews=1`, signal) : asked(job, signal)) {
          this.told(job, status);
          if (status.status === "COMPLETED") return await this.finish(job, status);
        }
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof ApiError)) throw error;
        if (error.status === 404) return job.element.say("Forgotten by the server", "over");
        if (error.status === 401 || error.status === 403) return job.element.say("Needs a key", "locked");
        job.element.say("No answer: trying again", "lost");
      } finally {
        this.streams -= streams;
      }
      await new Promise((resolve) => setTimeout(resolve, streams ? RETRY : POLL));
    }
  }

  // Goes on with jobs that could not be followed without a key.
  unlock() {
    for (const job of this.jobs) if (job.element.root.dataset.state === "locked") this.follow(job);
  }

  told(job, status) {
    if (status.preview) job.element.picture(status.preview);
    if (status.status === "IN_QUEUE") {
      const ahead = status.queue_position ?? 0;
      const eta = status.eta === undefined || status.eta === null ? "" : ` · about ${seconds(status.eta)}`;
      job.element.say((ahead ? `Waiting · ${ahead} ahead` : "Waiting · next") + eta, "waiting");
    } else if (status.status === "IN_PROGRESS") {
      const progress = status.progress;
      if (progress) job.element.progress(progress.step, progress.total_steps);
      const eta = status.eta ? ` · about ${seconds(status.eta)}` : "";
      job.element.say(progress ? `Step ${progress.step} of ${progress.total_steps}${eta}` : "Drawing", "running");
    }
  }

  async finish(job, status) {
    if (status.outcome === "ERROR") return job.element.say(status.state === "CANCELLED" ? "Cancelled" : status.error, "over");
    try {
      job.result = await call("GET", path(job));
      job.element.picture(job.result.images[0].url);
      job.element.done(`Done · ${seconds(job.result.timings?.inference ?? status.metrics?.inference_time ?? 0)}`);
    } catch (error) {
      if (!(error instanceof ApiError) || error.status === 0) throw error; // asked for again
      job.element.say(error.message, "over");
    }
  }
}

// Not crypto.randomUUID: over plain http from another host it does not exist.
function unique() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function* asked(job, signal) {
  yield await call("GET", `${path(job)}/status`, { signal });
}

function path(job) {
  return `queue/fal-ai/${job.endpoint.split("/")[0]}/requests/${job.id}`;
}

function seconds(value) {
  return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(1)} s`;
}

function row(job, { cancel, show }) {
  const root = document.createElement("li");
  root.className = "job";
  root.dataset.state = "waiting";
  root.innerHTML = `<div class="blank"></div><span class="prompt"></span><span class="state" role="status"></span>
    <progress max="1" value="0" aria-label="Steps"></progress><div class="buttons"></div>`;
  const part = (selector) => root.querySelector(selector);
  part(".prompt").textContent = job.prompt;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Cancel";
  button.setAttribute("aria-label", `Cancel: ${job.prompt}`);
  button.onclick = () => {
    button.disabled = true;
    cancel();
  };
  part(".buttons").append(button);
  const say = (text, state) => {
    part(".state").textContent = text;
    root.dataset.state = state;
    if (state === "over") {
      button.remove();
      part("progress").remove();
    }
  };
  return {
    root,
    say,
    progress: (step, total) => Object.assign(part("progress"), { max: total, value: step }),
    picture(url) {
      let image = part("img");
      if (!image) {
        image = Object.assign(document.createElement("img"), { alt: "" });
        part(".blank").replaceWith(image);
      }
      image.src = url;
    },
    done(text) {
      part(".state").textContent = text;
      root.dataset.state = "done";
      part("progress")?.remove();
      button.disabled = false;
      button.textContent = "Show";
      button.setAttribute("aria-label", `Show: ${job.prompt}`);
      button.onclick = show;
    },
  };
}
