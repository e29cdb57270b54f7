/** Docker's frames for several streams on one connection: [stream, 0, 0, 0, length (4, big endian)] and the payload. */
const HEADER_BYTES = 8;
const STREAM_NUMBER = { stdin: 0, stdout: 1, stderr: 2, engineError: 3 } as const;
export type FrameStream = keyof typeof STREAM_NUMBER;

/** Header and payload in one buffer, so that they leave in one write. */
export function frame(stream: FrameStream, payload: Uint8Array): Buffer {
  const bytes = Buffer.allocUnsafe(HEADER_BYTES + payload.byteLength);
  bytes.fill(0, 0, 4);
  bytes.writeUInt8(STREAM_NUMBER[stream], 0);
  bytes.writeUInt32BE(payload.byteLength, 4);
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}
