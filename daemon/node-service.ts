/** What this node serves to others of its cluster: images by reference, blobs by digest, logs of its tasks. */
import { once } from "node:events";
import type { ServerWritableStream } from "@grpc/grpc-js";
import { ClusterError, hasCode } from "../common/errors.ts";
import type { ResolvedImage } from "../model/dispatch.ts";
import type { LogOptions, Engine } from "../model/engine.ts";
import type { shoal } from "../proto/messages.ts";
import type { ServiceHandlers } from "../proto/rpc-server.ts";
import type { Audience } from "../proto/rpc.ts";
import type { nodeService } from "../proto/services.ts";
import { BlobSlots } from "./blob-slots.ts";
import { TASK_ID_LABEL } from "../worker/tasks/container-config.ts";

type FetchBlobCall = ServerWritableStream<
  shoal.v1.FetchBlobRequest.$Properties,
  shoal.v1.BlobChunk.$Properties
>;
type TaskLogsCall = ServerWritableStream<
  shoal.v1.TaskLogsRequest.$Properties,
  shoal.v1.TaskLogLine.$Properties
>;

const CHUNK_BYTES_MAX = 256 * 1024;
const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** What a name means in the cluster; undefined if it means nothing. Rejects on nodes that are no managers. */
export type ImageResolver = (reference: string) => Promise<ResolvedImage | undefined>;

export const NODE_AUDIENCE: { readonly [K in keyof typeof nodeService]: Audience } = {
  resolveImage: "members",
  describeImage: "members",
  fetchBlob: "members",
  taskLogs: "managers",
};

export function nodeServiceHandlers(
  engine: Engine,
  resolveImage: ImageResolver,
): ServiceHandlers<typeof nodeService> {
  const slots = new BlobSlots();
  return {
    resolveImage: {
      unary: async ({ reference }) => {
        const image = await resolveImage(reference ?? "");
        if (image === undefined) throw new ClusterError("not_found", `No such image: ${reference ?? ""}`);
        return { imageJson: encoder.encode(JSON.stringify(image)) };
      },
    },
    describeImage: {
      unary: ({ reference }) => {
        const image = engine.images.describe(reference ?? "");
        if (image === undefined) {
          throw new ClusterError("not_found", `No such image: ${reference ?? ""}`);
        }
        return { imageJson: encoder.encode(JSON.stringify(image)) };
      },
    },
    fetchBlob: {
      serverStream: async (call, { peer, signal }) => {
        const release = slots.take(peer?.nodeId ?? "");
        try {
          await sendBlob(engine, call, signal);
        } finally {
          release();
        }
      },
    },
    taskLogs: { serverStream: (call, { signal }) => sendLogs(engine, call, signal) },
  };
}

/** A reader of blobs that takes nothing for so long gives its place to others. */
const READER_STALL_MS = 30_000;

/** Writes at the reader's pace; rejects when the reader is gone, or takes nothing for `stallMs`. */
async function write<Q, R>(
  call: ServerWritableStream<Q, R>,
  message: R,
  { signal, stallMs }: { readonly signal: AbortSignal; readonly stallMs?: number },
): Promise<void> {
  if (call.write(message)) return;
  const patience = stallMs === undefined ? [] : [AbortSignal.timeout(stallMs)];
  await once(call, "drain", { signal: AbortSignal.any([signal, ...patience]) });
}

async function sendBlob(engine: Engine, call: FetchBlobCall, signal: AbortSignal): Promise<void> {
  const { digest, offset, length } = call.request;
  const { sizeBytes, content } = await engine.images.openBlob(digest ?? "", offset ?? 0);
  signal.addEventListener("abort", () => content.destroy(), { once: true });
  const pace = { signal, stallMs: READER_STALL_MS };
  let isFirst = true;
  const wanted = length ?? 0;
  let left = wanted === 0 ? Infinity : wanted;
  for await (const whole of content as AsyncIterable<Buffer>) {
    // What the reader will not take must not travel.
    const piece = whole.subarray(0, Math.min(whole.byteLength, left));
    left -= piece.byteLength;
    for (let start = 0; start < piece.byteLength; start += CHUNK_BYTES_MAX) {
      const data = piece.subarray(start, start + CHUNK_BYTES_MAX);
      await write(call, isFirst ? { sizeBytes, data } : { data }, pace);
      isFirst = false;
    }
    if (left === 0) break;
  }
  if (isFirst) await write(call, { sizeBytes }, pace);
}

async function sendLogs(engine: Engine, call: TaskLogsCall, signal: AbortSignal): Promise<void> {
  const taskId = call.request.taskId ?? "";
  const options = JSON.parse(decoder.decode(call.request.optionsJson ?? new Uint8Array())) as LogOptions;
  const [container] = engine.containers.summaries({ [TASK_ID_LABEL]: taskId });
  if (container === undefined) {
    throw new ClusterError("not_found", `No container of task "${taskId}" is on this node`);
  }
  try {
    for await (const line of engine.containers.logs(container.id, options, signal)) {
      await write(call, { stream: line.stream, timestamp: line.timestamp, data: line.data }, { signal });
    }
  } catch (caught) {
    // Its driver keeps nothing that could be read: for the service, as with Swarm, that is a log without lines.
    if (!hasCode(caught, "unimplemented")) throw caught;
  }
}
