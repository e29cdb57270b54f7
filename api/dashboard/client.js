/** What the page asks of the API: plain fetches, streams of events and of log frames. Knows nothing of the page. */

/** True once an answer said that this listener changes nothing. */
export let isListenerReadOnly = false;

async function request(path, options = {}) {
  const response = await fetch(path, options);
  isListenerReadOnly = response.headers.get("X-Shoal-Read-Only") === "true";
  if (response.ok) return response;
  const body = await response.json().catch(() => ({ message: response.statusText }));
  throw new Error(body.message ?? response.statusText);
}

export async function getJson(path) {
  return (await request(path)).json();
}

export async function postJson(path, body) {
  const headers = { "Content-Type": "application/json" };
  const text = await (await request(path, { method: "POST", headers, body: JSON.stringify(body) })).text();
  return text.trim() === "" ? undefined : JSON.parse(text);
}

/** Calls `onEvent` for each event until the signal; resolves when the stream ends. */
export async function followEvents(onEvent, signal) {
  const response = await request("/events", { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let item = await reader.read(); !item.done; item = await reader.read()) {
    const lines = (rest + item.value).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) if (line.trim() !== "") onEvent(JSON.parse(line));
  }
}

/** Cuts Docker's frames out of a stream: eight bytes of head (stream, length), then a line. */
export class FrameReader {
  #rest = new Uint8Array(0);

  push(chunk) {
    const bytes = new Uint8Array(this.#rest.length + chunk.length);
    bytes.set(this.#rest);
    bytes.set(chunk, this.#rest.length);
    const lines = [];
    let at = 0;
    while (bytes.length - at >= 8) {
      const length = new DataView(bytes.buffer, bytes.byteOffset + at + 4).getUint32(0);
      if (bytes.length - at - 8 < length) break;
      const text = new TextDecoder().decode(bytes.subarray(at + 8, at + 8 + length));
      lines.push({ stream: bytes[at] === 2 ? "stderr" : "stdout", text });
      at += 8 + length;
    }
    this.#rest = bytes.slice(at);
    return lines;
  }
}

/** Calls `onLine` for the last lines of a service or task and for those that come, until the signal. */
export async function followLogs(path, onLine, signal) {
  const response = await request(`${path}/logs?stdout=1&stderr=1&follow=1&tail=200&details=1`, { signal });
  const isRaw = (response.headers.get("Content-Type") ?? "").includes("raw-stream");
  const frames = new FrameReader();
  const reader = response.body.getReader();
  for (let item = await reader.read(); !item.done; item = await reader.read()) {
    const lines = isRaw
      ? [{ stream: "stdout", text: new TextDecoder().decode(item.value) }]
      : frames.push(item.value);
    for (const line of lines) onLine(line);
  }
}
