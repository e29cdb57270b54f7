/**
 * A network namespace and this process's open ends into it: one netlink socket and one nftables context, opened on first use
 * and kept, so that later work needs no change of namespace. The only place that changes the thread's namespace: in
 * synchronous stretches that always come back; if coming back fails, the process must end, and does.
 */
import { mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { ClusterError } from "../../common/errors.ts";
import {
  bindMount,
  closeFile,
  enterNetworkNamespace,
  makeNetworkNamespace,
  openFile,
  unmount,
} from "./libc.ts";
import { NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket } from "./netlink-socket.ts";
import { Nftables } from "./nftables.ts";
import { deleteLink, ENODEV } from "./routing.ts";

/** Of the calling thread; worker threads have their own. */
const OWN_NAMESPACE = "/proc/thread-self/ns/net";

function returnTo(home: number): void {
  try {
    enterNetworkNamespace(home);
  } catch (caught) {
    // Going on in a foreign namespace would open sockets and change routes where nobody expects it.
    process.abort();
    throw caught;
  }
}

export class NetworkNamespace {
  readonly fd: number;
  #route: NetlinkSocket | undefined;
  #netfilter: NetlinkSocket | undefined;
  #nft: Nftables | undefined;
  #isClosed = false;

  private constructor(fd: number) {
    this.fd = fd;
  }

  /** The one that the calling thread is in now. */
  static current(): NetworkNamespace {
    return new NetworkNamespace(openFile(OWN_NAMESPACE));
  }

  static ofProcess(pid: number): NetworkNamespace {
    return new NetworkNamespace(openFile(`/proc/${pid}/ns/net`));
  }

  /** By the file that it is bound to. */
  static atPath(file: string): NetworkNamespace {
    return new NetworkNamespace(openFile(file));
  }

  /** A new one, kept alive by a bind mount on `file` (which is made) until `removePinned(file)`. */
  static createPinned(file: string): NetworkNamespace {
    mkdirSync(path.dirname(file), { recursive: true, mode: 0o755 });
    writeFileSync(file, "", { flag: "a" });
    const home = openFile(OWN_NAMESPACE);
    try {
      makeNetworkNamespace();
      try {
        bindMount(OWN_NAMESPACE, file);
        return new NetworkNamespace(openFile(OWN_NAMESPACE));
      } finally {
        returnTo(home);
      }
    } finally {
      closeFile(home);
    }
  }

  /** The pinned namespace at `file` if it is there and alive. */
  static openPinned(file: string): NetworkNamespace | undefined {
    if (!isNamespaceFile(file)) return undefined;
    return NetworkNamespace.atPath(file);
  }

  static removePinned(file: string): void {
    unmount(file);
    rmSync(file, { force: true });
  }

  static listPinned(folder: string): string[] {
    try {
      return readdirSync(folder).sort();
    } catch (caught) {
      if (ClusterError.from(caught).code === "not_found") return [];
      throw caught;
    }
  }

  /** Runs `work` inside. It must be synchronous; what it opens stays in this namespace. */
  run<T>(work: () => T extends Promise<unknown> ? never : T): T {
    const home = openFile(OWN_NAMESPACE);
    try {
      enterNetworkNamespace(this.fd);
      try {
        return work();
      } finally {
        returnTo(home);
      }
    } finally {
      closeFile(home);
    }
  }

  get route(): NetlinkSocket {
    this.#route ??= this.openSocket(NETLINK_ROUTE);
    return this.#route;
  }

  get netfilter(): NetlinkSocket {
    this.#netfilter ??= this.openSocket(NETLINK_NETFILTER);
    return this.#netfilter;
  }

  get nft(): Nftables {
    this.#nft ??= this.run(() => new Nftables());
    return this.#nft;
  }

  openSocket(protocol: number): NetlinkSocket {
    return this.run(() => new NetlinkSocket(protocol));
  }

  /** Sets entries below /proc/sys/net, e.g. "ipv4/ip_forward". */
  setSysctls(values: Readonly<Record<string, string>>): void {
    this.run(() => {
      for (const [key, value] of Object.entries(values)) writeFileSync(`/proc/sys/net/${key}`, value);
    });
  }

  readSysctl(key: string): string {
    return this.run(() => readFileSync(`/proc/sys/net/${key}`, "utf8").trim());
  }

  /** Deletes links off this thread (each waits 10-20 ms in the kernel); fine if one is gone. */
  async deleteLinks(names: readonly string[]): Promise<void> {
    if (names.length === 0) return;
    const socket = this.openSocket(NETLINK_ROUTE);
    try {
      for (const name of names) await socket.sendElsewhere([deleteLink(name)], { tolerate: [ENODEV] });
    } finally {
      socket.close();
    }
  }

  /** Lets go of the descriptors; the namespace lives on as long as something else holds it. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#route?.close();
    this.#netfilter?.close();
    void this.#nft?.close();
    closeFile(this.fd);
  }
}

/** Inode of a process's network namespace, which tells namespaces apart; undefined if the process is gone. */
export function namespaceIdentity(pid: number): number | undefined {
  try {
    return statSync(`/proc/${pid}/ns/net`).ino;
  } catch (caught) {
    const { code } = ClusterError.from(caught);
    if (code === "not_found" || code === "permission_denied" || code === "internal") return undefined;
    throw caught;
  }
}

/** True if a namespace is mounted on the file: the file's device then differs from its folder's. */
function isNamespaceFile(file: string): boolean {
  try {
    return statSync(file).dev !== statSync(path.dirname(file)).dev;
  } catch (caught) {
    if (ClusterError.from(caught).code === "not_found") return false;
    throw caught;
  }
}
