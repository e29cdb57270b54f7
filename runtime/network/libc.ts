/**
 * The few C library calls that Node has no door to: namespaces, netlink sockets, mounts, datagrams over UNIX sockets. Called by the
 * files of this folder and those that send logs. All calls are synchronous and short, but for the `.async` ones, which run on a thread of the FFI library.
 * Never keeps a changed namespace: that is namespace.ts's affair.
 */
import koffi from "koffi";
import type { KoffiFunc } from "koffi";
import { ClusterError } from "../../common/errors.ts";

const libc = koffi.load("libc.so.6");

type SocketCall = (domain: number, type: number, protocol: number) => number;
type BufferCall = (fd: number, bytes: Uint8Array, length: number, flags: number) => number;

const socketCall = libc.func("int socket(int, int, int)") as SocketCall;
const bindCall = libc.func("int bind(int, void *, uint32_t)") as (
  fd: number,
  address: Uint8Array,
  length: number,
) => number;
const setSocketOption = libc.func("int setsockopt(int, int, int, void *, uint32_t)") as (
  fd: number,
  level: number,
  name: number,
  value: Uint8Array,
  length: number,
) => number;
const sendCall = libc.func("intptr_t send(int, void *, size_t, int)") as KoffiFunc<BufferCall>;
const receiveCall = libc.func("intptr_t recv(int, void *, size_t, int)") as KoffiFunc<BufferCall>;
const setnsCall = libc.func("int setns(int, int)") as (fd: number, kind: number) => number;
const unshareCall = libc.func("int unshare(int)") as (kind: number) => number;
const openCall = libc.func("int open(const char *, int, int)") as (
  path: string,
  flags: number,
  mode: number,
) => number;
const closeCall = libc.func("int close(int)") as (fd: number) => number;
const mountCall = libc.func(
  "int mount(const char *, const char *, const char *, unsigned long, const char *)",
) as (source: string, target: string, kind: string | null, flags: number, options: string | null) => number;
const unmountCall = libc.func("int umount2(const char *, int)") as (target: string, flags: number) => number;

const connectCall = libc.func("int connect(int, void *, uint32_t)") as typeof bindCall;
const ioctlCall = libc.func("int ioctl(int, unsigned long, _Out_ int *)") as (
  fd: number,
  request: number,
  result: [number],
) => number;

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0o4000;
const MSG_NOSIGNAL = 0x4000;
/** sun_path with its closing NUL. */
const UNIX_PATH_BYTES_MAX = 107;
const SIOCOUTQ = 0x5411;
const IPPROTO_TCP = 6;
const TCP_USER_TIMEOUT = 18;
const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
const O_RDONLY_CLOEXEC = 0o2000000;
const CLONE_NEWNET = 0x40000000;
const SOL_SOCKET = 1;
const SO_RCVBUF = 8;
const SO_RCVTIMEO = 20;
const MS_BIND = 4096;
const MNT_DETACH = 2;

const ERRNO_NAMES: Readonly<Record<number, string>> = {
  1: "EPERM",
  2: "ENOENT",
  3: "ESRCH",
  4: "EINTR",
  6: "ENXIO",
  11: "EAGAIN",
  12: "ENOMEM",
  13: "EACCES",
  16: "EBUSY",
  17: "EEXIST",
  19: "ENODEV",
  22: "EINVAL",
  28: "ENOSPC",
  34: "ERANGE",
  90: "EMSGSIZE",
  91: "EPROTOTYPE",
  93: "EPROTONOSUPPORT",
  95: "EOPNOTSUPP",
  97: "EAFNOSUPPORT",
  98: "EADDRINUSE",
  99: "EADDRNOTAVAIL",
  100: "ENETDOWN",
  101: "ENETUNREACH",
  104: "ECONNRESET",
  105: "ENOBUFS",
  107: "ENOTCONN",
  110: "ETIMEDOUT",
  111: "ECONNREFUSED",
  113: "EHOSTUNREACH",
};

function errnoName(errno: number): string {
  return ERRNO_NAMES[errno] ?? `errno ${errno}`;
}

/** An operating error from an errno; `details.errno` has its name, for callers that act on it. */
export function kernelError(action: string, errno: number): ClusterError {
  const name = errnoName(errno);
  const code =
    name === "EPERM" || name === "EACCES"
      ? "permission_denied"
      : name === "EEXIST"
        ? "already_exists"
        : name === "ENOENT" || name === "ENODEV" || name === "ESRCH"
          ? "not_found"
          : "internal";
  return new ClusterError(code, `Cannot ${action}: the kernel answered ${name}`, {
    details: { errno: name },
  });
}

/** True if `caught` is a kernel's refusal with one of these errno names. */
export function hasErrno(caught: unknown, ...names: readonly string[]): boolean {
  return caught instanceof ClusterError && names.includes(String(caught.details["errno"]));
}

function check(result: number, action: string): number {
  if (result < 0) throw kernelError(action, koffi.errno());
  return result;
}

/** A netlink socket of `protocol` in the calling thread's present network namespace, where it stays for ever. */
export function openNetlinkSocket(protocol: number, receiveBytes: number, timeoutMs: number): number {
  const fd = check(socketCall(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol), "open a netlink socket");
  const address = Buffer.alloc(12);
  address.writeUInt16LE(AF_NETLINK, 0);
  check(bindCall(fd, address, address.length), "bind a netlink socket");
  const size = Buffer.alloc(4);
  size.writeUInt32LE(receiveBytes, 0);
  check(setSocketOption(fd, SOL_SOCKET, SO_RCVBUF, size, size.length), "size a netlink socket's buffer");
  const time = Buffer.alloc(16);
  time.writeBigInt64LE(BigInt(Math.floor(timeoutMs / 1000)), 0);
  time.writeBigInt64LE(BigInt((timeoutMs % 1000) * 1000), 8);
  check(setSocketOption(fd, SOL_SOCKET, SO_RCVTIMEO, time, time.length), "bound a netlink socket's wait");
  return fd;
}

export function sendBytes(fd: number, bytes: Uint8Array): void {
  check(sendCall(fd, bytes, bytes.length, 0), "send to netlink");
}

/** Length received into `into`; throws with errno EAGAIN after the socket's time limit. */
export function receiveBytes(fd: number, into: Uint8Array): number {
  return check(receiveCall(fd, into, into.length, 0), "receive from netlink");
}

function asynchronous(call: KoffiFunc<BufferCall>, fd: number, bytes: Uint8Array): Promise<number> {
  return new Promise((resolve, reject) => {
    call.async(fd, bytes, bytes.length, 0, (failure: unknown, result: number) => {
      if (failure instanceof Error) reject(failure);
      else resolve(result);
    });
  });
}

/** Like sendBytes on another thread: netlink does its work inside send, and deletions of links wait 10-20 ms there. */
export async function sendBytesElsewhere(fd: number, bytes: Uint8Array): Promise<void> {
  const sent = await asynchronous(sendCall, fd, bytes);
  if (sent < 0) throw new ClusterError("internal", "Cannot send to netlink from another thread");
}

export async function receiveBytesElsewhere(fd: number, into: Uint8Array): Promise<number> {
  const received = await asynchronous(receiveCall, fd, into);
  if (received < 0) throw new ClusterError("internal", "Cannot receive from netlink in time");
  return received;
}

/** A socket of whole messages to the one at `path`. Never blocks. */
export function openUnixDatagram(path: string): number {
  const bytes = Buffer.from(path);
  if (bytes.length > UNIX_PATH_BYTES_MAX) {
    throw new ClusterError(
      "invalid_argument",
      `path of a socket must have at most ${UNIX_PATH_BYTES_MAX} bytes, got "${path}"`,
    );
  }
  const address = Buffer.alloc(bytes.length + 3);
  address.writeUInt16LE(AF_UNIX, 0);
  bytes.copy(address, 2);
  const fd = check(
    socketCall(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0),
    "open a datagram socket",
  );
  if (connectCall(fd, address, address.length) === 0) return fd;
  const failure = kernelError(`connect to "${path}"`, koffi.errno());
  closeCall(fd);
  throw failure;
}

/** False if there is no room now. Throws with EMSGSIZE for what is too long for any datagram. */
export function sendDatagram(fd: number, bytes: Uint8Array): boolean {
  if (sendCall(fd, bytes, bytes.length, MSG_NOSIGNAL) >= 0) return true;
  const errno = koffi.errno();
  const name = errnoName(errno);
  if (name === "EAGAIN" || name === "ENOBUFS") return false;
  throw kernelError("send a datagram", errno);
}

/** Bytes of a connected socket that the other side has not acknowledged; of a UNIX one, that nobody has read. */
export function unacknowledgedBytes(fd: number): number {
  const result: [number] = [0];
  check(ioctlCall(fd, SIOCOUTQ, result), "ask for what was not acknowledged");
  return result[0];
}

/** A TCP connection ends with an error once what was sent stays unacknowledged for this long. */
export function boundAcknowledgement(fd: number, ms: number): void {
  const value = Buffer.alloc(4);
  value.writeUInt32LE(ms, 0);
  check(setSocketOption(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, value, value.length), "bound a connection's wait");
}

export function openFile(path: string): number {
  const fd = openCall(path, O_RDONLY_CLOEXEC, 0);
  return check(fd, `open "${path}"`);
}

export function closeFile(fd: number): void {
  check(closeCall(fd), "close a descriptor");
}

/** Moves the calling thread into the network namespace of `fd`. */
export function enterNetworkNamespace(fd: number): void {
  check(setnsCall(fd, CLONE_NEWNET), "enter a network namespace");
}

/** Gives the calling thread a new network namespace. */
export function makeNetworkNamespace(): void {
  check(unshareCall(CLONE_NEWNET), "make a network namespace");
}

export function bindMount(source: string, target: string): void {
  check(mountCall(source, target, null, MS_BIND, null), `bind "${source}" to "${target}"`);
}

/** Takes the mount away; fine if there is none. */
export function unmount(target: string): void {
  const result = unmountCall(target, MNT_DETACH);
  if (result === 0) return;
  const name = errnoName(koffi.errno());
  if (name !== "EINVAL" && name !== "ENOENT") throw kernelError(`unmount "${target}"`, koffi.errno());
}
