/** Lines as one message of Fluentd's forward protocol (v1, Forward mode). Pure. */
import { parseLogBoolean } from "../../model/log-drivers.ts";
import type { LogMessage } from "./log-message.ts";
import type { LogTarget } from "./log-target.ts";
import { pack, type Packable } from "./msgpack.ts";

const NS_PER_SECOND = 1_000_000_000n;

function record(message: LogMessage, target: LogTarget): ReadonlyMap<string, Packable> {
  const { piece } = message;
  return new Map<string, Packable>([
    ["container_id", target.containerId],
    ["container_name", `/${target.containerName}`],
    ["source", message.stream],
    ["log", message.line],
    ...Object.entries(target.attributes),
    ...(piece === undefined
      ? []
      : ([
          ["partial_message", "true"],
          ["partial_id", piece.id],
          ["partial_ordinal", String(piece.ordinal)],
          ["partial_last", String(piece.isLast)],
        ] as const)),
  ]);
}

/** `chunk` is what the answer names; absent: none is asked for. */
export function fluentdMessage(
  messages: readonly LogMessage[],
  target: LogTarget,
  chunk: string | undefined,
): Buffer {
  const option = "fluentd-sub-second-precision";
  const isPrecise = parseLogBoolean(target.options[option], option) === true;
  const entries = messages.map((message) => {
    const seconds = Number(message.nanoseconds / NS_PER_SECOND);
    const nanoseconds = Number(message.nanoseconds % NS_PER_SECOND);
    return [isPrecise ? { seconds, nanoseconds } : seconds, record(message, target)];
  });
  const options = new Map<string, Packable>([
    ["size", messages.length],
    ...(chunk === undefined ? [] : ([["chunk", chunk]] as const)),
  ]);
  return pack([target.tag, entries, options]);
}

/** What the receiver says once it has a chunk. */
export function fluentdAnswer(chunk: string): Buffer {
  return pack(new Map([["ack", chunk]]));
}
