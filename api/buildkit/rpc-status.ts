/** Errors as BuildKit's clients read them: the text, and the place in the Dockerfile as a detail. */
import { Metadata, status, type StatusObject } from "@grpc/grpc-js";
import { ClusterError } from "../../common/errors.ts";
import { bk } from "../../proto/buildkit-messages.ts";
import type { FailurePlace } from "./open-build.ts";
import { sourceRanges } from "./status-feed.ts";

const TYPES = "github.com/moby/buildkit/errdefs";

/** Clients print the code of any other status before its text. */
const CODES: Readonly<Partial<Record<string, status>>> = {
  cancelled: status.CANCELLED,
  unimplemented: status.UNIMPLEMENTED,
};

function detail(type: string, value: unknown): { typeUrl: string; value: Buffer } {
  return { typeUrl: `${TYPES}.${type}+json`, value: Buffer.from(JSON.stringify(value)) };
}

export function toRpcStatus(caught: unknown, place: FailurePlace | undefined): Partial<StatusObject> {
  const error = ClusterError.from(caught);
  const isCancelled = caught instanceof Error && caught.name === "AbortError";
  const code = isCancelled ? status.CANCELLED : (CODES[error.code] ?? status.UNKNOWN);
  const message = isCancelled ? "context canceled" : error.message;
  const metadata = new Metadata();
  if (place !== undefined) {
    const { filename, content } = place.source;
    const info = { filename, data: Buffer.from(content).toString("base64"), language: "Dockerfile" };
    const details = [detail("Source", { info, ranges: sourceRanges(place.source) })];
    if (place.vertex !== "") details.push(detail("Vertex", { digest: place.vertex }));
    const bytes = bk.RpcStatus.encode({ code, message, details } as never).finish();
    metadata.set("grpc-status-details-bin", Buffer.from(bytes));
  }
  return { code, details: message, metadata };
}
