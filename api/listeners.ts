/** Binding a UNIX socket safely: only a dead socket is replaced, and no one but the owner and group ever has access. */
import { chmod, chown, lstat, mkdir, rename, unlink } from "node:fs/promises";
import type { Server } from "node:http";
import { connect } from "node:net";
import path from "node:path";
import { ClusterError } from "../common/errors.ts";

export interface UnixAccess {
  /** Group that may use the socket; absent: the owner's alone. */
  readonly groupId?: number;
}

/** sun_path has 108 bytes with its final zero; the temporary name needs a few. */
const SOCKET_PATH_BYTES_MAX = 100;

/** True if someone accepts connections there. */
function isAlive(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(socketPath);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}

async function clearDead(socketPath: string): Promise<void> {
  const found = await lstat(socketPath).catch(() => undefined);
  if (found === undefined) return;
  if (!found.isSocket()) {
    throw new ClusterError("conflict", `Cannot listen on "${socketPath}": it exists and is no socket`);
  }
  if (await isAlive(socketPath)) {
    throw new ClusterError("conflict", `Cannot listen on "${socketPath}": another process listens there`);
  }
  await unlink(socketPath);
}

/**
 * Listens under a temporary name, sets owner and mode, and only then takes the real name. Returns what removes the
 * socket's name again, unless someone else has taken it meanwhile.
 */
export async function bindUnix(
  server: Server,
  socketPath: string,
  access: UnixAccess,
): Promise<() => Promise<void>> {
  if (Buffer.byteLength(socketPath) > SOCKET_PATH_BYTES_MAX) {
    throw new ClusterError(
      "invalid_argument",
      `Cannot listen on "${socketPath}": the path must have at most ${SOCKET_PATH_BYTES_MAX} bytes`,
    );
  }
  await mkdir(path.dirname(socketPath), { recursive: true });
  await clearDead(socketPath);
  const temporary = `${socketPath}.new`;
  await unlink(temporary).catch(() => undefined);
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(temporary, () => {
      server.off("error", reject);
      resolve();
    });
  });
  if (access.groupId !== undefined) await chown(temporary, process.getuid?.() ?? 0, access.groupId);
  await chmod(temporary, access.groupId === undefined ? 0o600 : 0o660);
  await rename(temporary, socketPath);
  const { ino } = await lstat(socketPath);
  return async () => {
    const now = await lstat(socketPath).catch(() => undefined);
    if (now?.ino === ino) await unlink(socketPath).catch(() => undefined);
  };
}
