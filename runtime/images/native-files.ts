/**
 * The file calls that Node lacks: device nodes and extended attributes, straight on libc. Never follows a symbolic link
 * in the last part of a path. Loaded in worker threads and, for a folder's opaque mark, in tests.
 */
import { constants } from "node:fs";
import { getSystemErrorName } from "node:util";
import koffi from "koffi";
import { cString } from "./tar/byte-path.ts";

const libc = koffi.load(null);
const mknodCall = libc.func("int mknod(const void *path, uint32_t mode, uint64_t dev)");
const setCall = libc.func(
  "int lsetxattr(const void *path, const void *name, const void *value, size_t size, int flags)",
);
const getCall = libc.func("int64_t lgetxattr(const void *path, const void *name, void *value, size_t size)");
const listCall = libc.func("int64_t llistxattr(const void *path, void *list, size_t size)");
const rangeCall = libc.func("int sync_file_range(int fd, int64_t offset, int64_t count, uint32_t flags)");
const SYNC_FILE_RANGE_WRITE = 2;
const syncCall = libc.func("int syncfs(int fd)");

/** Kernel's own bound (XATTR_SIZE_MAX, XATTR_LIST_MAX). */
const XATTR_BYTES_MAX = 65_536;

function failure(call: string, path: string): NodeJS.ErrnoException {
  const errno = koffi.errno();
  const code = getSystemErrorName(-errno);
  return Object.assign(new Error(`${code}: ${call} '${path}'`), { errno: -errno, code, syscall: call, path });
}

function check(answer: unknown, call: string, path: string): number {
  const value = Number(answer);
  if (value < 0) throw failure(call, path);
  return value;
}

export type NodeType = "char" | "block" | "fifo";

const NODE_BITS: Readonly<Record<NodeType, number>> = {
  char: constants.S_IFCHR,
  block: constants.S_IFBLK,
  fifo: constants.S_IFIFO,
};

/** The kernel's packing of a device number. */
function deviceNumber(major: number, minor: number): bigint {
  const high = BigInt(major);
  const low = BigInt(minor);
  return (
    ((high & 0xfffff000n) << 32n) | ((high & 0xfffn) << 8n) | ((low & 0xffffff00n) << 12n) | (low & 0xffn)
  );
}

export function deviceParts(device: number): { readonly major: number; readonly minor: number } {
  const value = BigInt(device);
  return {
    major: Number(((value >> 8n) & 0xfffn) | ((value >> 32n) & 0xfffff000n)),
    minor: Number((value & 0xffn) | ((value >> 12n) & 0xffffff00n)),
  };
}

/** Makes a device node or fifo. `path` is a byte string. */
export function makeNode(
  path: string,
  node: { readonly type: NodeType; readonly mode: number; readonly major: number; readonly minor: number },
): void {
  const mode = NODE_BITS[node.type] | (node.mode & 0o7777);
  check(mknodCall(cString(path), mode, deviceNumber(node.major, node.minor)), "mknod", path);
}

export function setXattr(path: string, name: string, value: Buffer): void {
  check(setCall(cString(path), cString(name), value, value.length, 0), "lsetxattr", path);
}

const scratch = Buffer.alloc(XATTR_BYTES_MAX);

/** undefined when the attribute is not there. */
export function getXattr(path: string, name: string): Buffer | undefined {
  const length = Number(getCall(cString(path), cString(name), scratch, scratch.length));
  if (length >= 0) return Buffer.from(scratch.subarray(0, length));
  const caught = failure("lgetxattr", path);
  if (caught.code === "ENODATA" || caught.code === "ENOTSUP" || caught.code === "EOPNOTSUPP")
    return undefined;
  throw caught;
}

export function listXattrs(path: string): readonly string[] {
  const length = Number(listCall(cString(path), scratch, scratch.length));
  if (length === 0) return [];
  if (length < 0) {
    const caught = failure("llistxattr", path);
    if (caught.code === "ENOTSUP" || caught.code === "EOPNOTSUPP") return [];
    throw caught;
  }
  return scratch.toString("latin1", 0, length - 1).split("\0");
}

/** Has the kernel begin to write a file's content to the disk. A hint: nothing depends on it. */
export function startWriting(fd: number): void {
  rangeCall(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

/** Makes everything written to the file system of `fd` durable. Blocks: for worker threads only. */
export function syncFileSystem(fd: number): void {
  check(syncCall(fd), "syncfs", String(fd));
}
