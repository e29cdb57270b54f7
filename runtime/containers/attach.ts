/** Attaching to a container's streams: before its start, while it runs, with or without what its log has already. */
import { DetachScanner, parseDetachKeys } from "../../common/detach-keys.ts";
import { ClusterError } from "../../common/errors.ts";
import type { AttachOptions, AttachStreams, LogLine } from "../../model/engine.ts";
import { inputStream } from "./input-stream.ts";
import type { LiveContainer } from "./live-container.ts";
import {
  ATTACH_STDERR,
  ATTACH_STDIN,
  ATTACH_STDOUT,
  FrameType,
  u32,
  type NativeConnection,
} from "./native-frames.ts";
import { OutputStream, type OutputChunk } from "./output-stream.ts";

export interface AttachDeps {
  readonly connect: () => Promise<NativeConnection>;
  readonly logs: () => AsyncIterable<LogLine>;
  readonly onDetach: () => void;
}

async function* replayThenLive(
  logs: AsyncIterable<LogLine> | undefined,
  live: AsyncIterable<OutputChunk> | undefined,
): AsyncGenerator<OutputChunk, void> {
  if (logs !== undefined) for await (const line of logs) yield { stream: line.stream, data: line.data };
  if (live !== undefined) yield* live;
}

interface Attachment {
  readonly connection: Promise<NativeConnection>;
  readonly output: OutputStream;
  readonly close: () => void;
}

/** Takes hold of the streams now, or as soon as the container starts. */
function hold(live: LiveContainer, options: AttachOptions, deps: AttachDeps): Attachment {
  const output = new OutputStream();
  const { promise, resolve, reject } = Promise.withResolvers<NativeConnection>();
  promise.catch(() => undefined);
  let isClosed = false;
  let held: NativeConnection | undefined;
  const flags =
    (options.stdin ? ATTACH_STDIN : 0) |
    (options.stdout ? ATTACH_STDOUT : 0) |
    (options.stderr ? ATTACH_STDERR : 0);
  const use = async (connection: NativeConnection): Promise<void> => {
    if (isClosed) return connection.close();
    held = connection;
    output.source = connection;
    connection.handle({ output: (stream, data) => output.push(stream, data), closed: () => output.end() });
    await connection.ask(FrameType.attach, u32(flags));
    resolve(connection);
  };
  const pending = {
    connected: use,
    failed: (): void => {
      output.end();
      reject(new ClusterError("unavailable", "The container did not start"));
    },
  };
  if (live.connection === undefined) live.pendingAttachments.add(pending);
  else deps.connect().then(use).catch(pending.failed);
  return {
    connection: promise,
    output,
    close: () => {
      isClosed = true;
      live.pendingAttachments.delete(pending);
      held?.close();
      output.end();
      reject(new ClusterError("cancelled", "Attachment was closed"));
    },
  };
}

export function attachContainer(
  live: LiveContainer,
  options: AttachOptions,
  deps: AttachDeps,
): AttachStreams {
  const { config } = live.record;
  if (live.record.state.status === "paused") {
    throw new ClusterError("conflict", `container ${live.id} is paused, unpause the container before attach`);
  }
  if (live.record.state.status === "restarting") {
    throw new ClusterError(
      "conflict",
      `container ${live.id} is restarting, wait until the container is running`,
    );
  }
  const isTty = config.Tty === true;
  const logs = options.logs ? deps.logs() : undefined;
  if (!options.stream) {
    return { isTty, output: replayThenLive(logs, undefined), close: () => undefined };
  }
  const attachment = hold(live, options, deps);
  const detach = (): void => {
    attachment.close();
    deps.onDetach();
  };
  const keys = parseDetachKeys(options.detachKeys);
  const stdin =
    options.stdin && config.OpenStdin === true
      ? inputStream({
          connection: attachment.connection,
          scanner: isTty ? new DetachScanner(keys) : undefined,
          onDetach: detach,
          onEnd: (connection) => {
            if (isTty) return;
            if (config.StdinOnce === true) connection.send(FrameType.closeStdin);
            else attachment.close();
          },
        })
      : undefined;
  return {
    isTty,
    output: replayThenLive(logs, attachment.output),
    ...(stdin === undefined ? {} : { stdin }),
    close: attachment.close,
  };
}
