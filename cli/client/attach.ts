/**
 * Connects this process's terminal or pipes with a container's or exec's streams: raw mode, resize, detach keys, half-close
 * at the end of stdin, frames taken apart where there is no terminal.
 */
import type { Socket } from "node:net";
import { DetachScanner } from "../../common/detach-keys.ts";
import { ClusterError } from "../../common/errors.ts";
import type { ApiClient, HijackedStream } from "./api-client.ts";
import { readFrames } from "./stdcopy.ts";

export interface AttachIo {
  readonly isTty: boolean;
  /** Send our stdin. */
  readonly sendsInput: boolean;
  /** Bytes that let go, or undefined for none. */
  readonly detachKeys: Uint8Array | undefined;
  /** POST PATH?h=&w= tells the size of our terminal. */
  readonly resizePath: string;
}

async function resize(client: ApiClient, path: string): Promise<void> {
  const { rows, columns } = process.stdout;
  if (rows === undefined || columns === undefined) return;
  try {
    await client.post(path, { query: { h: rows, w: columns } });
  } catch {
    // The container may have ended, or not begun; the next change of size tries again.
  }
}

function sendInput(socket: Socket, io: AttachIo, onDetach: () => void): () => void {
  const { stdin } = process;
  const scanner = io.isTty && io.detachKeys !== undefined ? new DetachScanner(io.detachKeys) : undefined;
  if (io.isTty && stdin.isTTY) stdin.setRawMode(true);
  const onData = (chunk: Buffer): void => {
    const { pass, isDetached } = scanner?.scan(chunk) ?? { pass: chunk, isDetached: false };
    if (pass.length > 0 && !socket.write(pass)) {
      stdin.pause();
      socket.once("drain", () => stdin.resume());
    }
    if (isDetached) onDetach();
  };
  // A half-close: the container's stdin ends, its output goes on.
  const onEnd = (): void => {
    socket.end();
  };
  stdin.on("data", onData).on("end", onEnd);
  return () => {
    stdin.off("data", onData).off("end", onEnd);
    if (io.isTty && stdin.isTTY) stdin.setRawMode(false);
    stdin.pause();
    stdin.unref?.();
  };
}

async function* chunksOf(stream: HijackedStream): AsyncGenerator<Uint8Array, void, undefined> {
  if (stream.head.length > 0) yield stream.head;
  for await (const chunk of stream.socket as AsyncIterable<Buffer>) yield chunk;
}

/** Resolves when the stream ends or the user let go ("detached"). `stream` is the answer of attach or exec start. */
export async function connectStreams(
  client: ApiClient,
  stream: HijackedStream,
  io: AttachIo,
): Promise<"ended" | "detached"> {
  const { socket } = stream;
  const ending = { isDetached: false };
  const onDetach = (): void => {
    ending.isDetached = true;
    socket.destroy();
  };
  const stopInput = io.sendsInput ? sendInput(socket, io, onDetach) : () => {};
  // Without input the other side must not wait for it.
  if (!io.sendsInput) socket.end();
  const onResize = (): void => {
    resize(client, io.resizePath).catch(() => {});
  };
  if (io.isTty) process.stdout.on("resize", onResize);
  try {
    if (io.isTty) for await (const chunk of chunksOf(stream)) process.stdout.write(chunk);
    else {
      for await (const frame of readFrames(chunksOf(stream))) {
        if (frame.stream === 3) throw new ClusterError("internal", frame.payload.toString("utf8").trim());
        (frame.stream === 2 ? process.stderr : process.stdout).write(frame.payload);
      }
    }
  } catch (caught) {
    if (!ending.isDetached) throw caught;
  } finally {
    stopInput();
    process.stdout.off("resize", onResize);
  }
  return ending.isDetached ? "detached" : "ended";
}

/** Tells the size of the terminal; tries again while the process is not there yet. */
export async function announceSize(client: ApiClient, path: string): Promise<void> {
  await resize(client, path);
}
