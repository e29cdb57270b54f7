/**
 * Reads JSON bodies: bounded in bytes, time and depth, with Docker's demands on the content type. Called by routes
 * through Exchange.json(). Never trusts a length that a client states.
 */
import type { Readable } from "node:stream";
import type { Timers } from "../common/env.ts";
import { ClusterError } from "../common/errors.ts";
import type { Json, JsonObject } from "../model/engine.ts";
import { badParameter } from "./error-body.ts";
import { JSON_BODY_BYTES_MAX, JSON_BODY_TIMEOUT_MS } from "./limits.ts";

function tooLarge(): ClusterError {
  return badParameter(`invalid JSON: request body too large, at most ${JSON_BODY_BYTES_MAX} bytes are taken`);
}

/**
 * Everything the stream has, at most JSON_BODY_BYTES_MAX bytes, within JSON_BODY_TIMEOUT_MS. On failure the stream is
 * left alive (destroying a request would cut the connection that the error must go out on).
 */
export function readWhole(body: Readable, timers: Timers): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let bytes = 0;
    const settle = (error: ClusterError | undefined): void => {
      cancel();
      body.off("data", onData).off("end", onEnd).off("error", onBroken).off("close", onBroken);
      if (error === undefined) {
        resolve(Buffer.concat(chunks, bytes));
        return;
      }
      body.pause();
      reject(error);
    };
    const onData = (chunk: Buffer): void => {
      bytes += chunk.byteLength;
      if (bytes > JSON_BODY_BYTES_MAX) settle(tooLarge());
      else chunks.push(chunk);
    };
    const onEnd = (): void => settle(undefined);
    const onBroken = (): void => settle(badParameter("Cannot read the request body: the connection broke"));
    const cancel = timers.after(JSON_BODY_TIMEOUT_MS, () => {
      settle(badParameter(`Cannot read the request body: not complete after ${JSON_BODY_TIMEOUT_MS} ms`));
    });
    body.on("data", onData).on("end", onEnd).on("error", onBroken).on("close", onBroken);
  });
}

/** Throws unless the content type is JSON. Checked only where there is a body, as Docker does. */
export function checkJsonType(contentType: string | undefined): void {
  if (contentType === undefined || contentType === "") {
    throw badParameter("malformed Content-Type header (): mime: no media type");
  }
  const mediaType = contentType.split(";", 1)[0]?.trim().toLowerCase();
  if (mediaType !== "application/json") {
    throw badParameter(`unsupported Content-Type header (${contentType}): must be 'application/json'`);
  }
}

function parseJson(bytes: Buffer): unknown {
  const text = bytes.toString("utf8");
  if (text.trim() === "") return null;
  try {
    return JSON.parse(text);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new ClusterError("invalid_argument", `invalid JSON: ${why}`, { cause: error });
  }
}

/** The body as a list; an empty one if it is empty or null. */
export function parseList(bytes: Buffer): readonly Json[] {
  const parsed = parseJson(bytes);
  if (parsed === null) return [];
  if (!Array.isArray(parsed)) throw badParameter(`invalid JSON: body must be a list, got ${typeof parsed}`);
  return parsed as readonly Json[];
}

/** The body as an object; undefined if it is empty or null. */
export function parseObject(bytes: Buffer): JsonObject | undefined {
  const parsed = parseJson(bytes);
  if (parsed === null) return undefined;
  if (typeof parsed !== "object" || Array.isArray(parsed)) {
    throw badParameter(
      `invalid JSON: body must be an object, got ${Array.isArray(parsed) ? "a list" : typeof parsed}`,
    );
  }
  return parsed as JsonObject;
}
