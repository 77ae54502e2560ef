// Calls to the server that served this page. Knows the key and no part of the page.

export const BASE = new URL(".", document.baseURI);

const STORED = "flashbulb-key";

// The key: from the address (`#key=id:secret`, then taken out of it), this tab, or this browser if the user asked for it.
export const key = {
  read() {
    const given = new URLSearchParams(location.hash.slice(1)).get("key");
    if (given) {
      history.replaceState(null, "", location.pathname + location.search);
      this.write(given, false);
    }
    return sessionStorage.getItem(STORED) ?? localStorage.getItem(STORED) ?? "";
  },
  write(value, remember) {
    sessionStorage.setItem(STORED, value);
    if (remember) localStorage.setItem(STORED, value);
    else localStorage.removeItem(STORED);
  },
};

// An answer that is no success. `status` 0: the server did not answer.
export class ApiError extends Error {
  constructor(status, body) {
    super(messageOf(body) || (status ? `The server answered ${status}.` : "The server does not answer."));
    this.status = status;
    this.body = body;
  }
}

function messageOf(body) {
  if (!body || typeof body !== "object") return "";
  if (Array.isArray(body.detail)) {
    return body.detail.map((d) => `${(d.loc ?? []).slice(1).join(".")}: ${d.msg}`).join("\n");
  }
  return body.message ?? (typeof body.detail === "string" ? body.detail : "");
}

export async function call(method, path, { body, signal, headers = {} } = {}) {
  const response = await send(method, path, { body, signal, headers });
  const answer = await response.json().catch(() => null);
  if (!response.ok) throw new ApiError(response.status, answer);
  return answer;
}

// Server-sent events of a GET, parsed as JSON. Ends when the server closes.
export async function* events(path, signal) {
  const response = await send("GET", path, { signal, headers: { accept: "text/event-stream" } });
  if (!response.ok) throw new ApiError(response.status, await response.json().catch(() => null));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      if (signal?.aborted) throw error;
      throw new ApiError(0, null);
    });
    if (done) return;
    const parts = (rest + value).split(/\r?\n\r?\n/);
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
      if (data) yield JSON.parse(data);
    }
  }
}

async function send(method, path, { body, signal, headers }) {
  const init = { method, signal, headers: { ...headers } };
  const secret = key.read();
  if (secret) init.headers.authorization = `Key ${secret}`;
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers["content-type"] = "application/json";
  }
  try {
    return await fetch(new URL(path, BASE), init);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, null);
  }
}
