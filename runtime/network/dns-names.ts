/**
 * What a name means to one asker, as DNS answers: the rules shared by user bridges and overlays. Pure.
 * A known name without the asked type is an empty answer, never "no such name": resolvers ask AAAA and A side by side, and
 * a "no such name" to one of them hides the other.
 */
import type { Random } from "../../common/env.ts";
import type { NameDirectory, NameMatch } from "../../model/engine.ts";
import { addressBytes } from "./addresses.ts";
import { addressBytes6 } from "./addresses6.ts";
import type { Resolution } from "./dns-server.ts";
import { DnsCode, DnsType, encodeName, reverseAddress } from "./dns-wire.ts";
import type { DnsQuestion, DnsRecord } from "./dns-wire.ts";

const PTR_TTL_SECONDS = 30;

/** Answers from `directory`; else "no such name" for single labels, and on to `upstreams` for the rest. */
export function resolveName(
  question: DnsQuestion,
  directory: NameDirectory,
  upstreams: readonly string[],
  random: Pick<Random, "below">,
): Resolution {
  const match = directory.lookup(question.name);
  if (match !== undefined)
    return { kind: "answer", answer: { code: DnsCode.ok, records: addressRecords(question, match, random) } };
  const service = serviceRecords(question, directory);
  if (service !== undefined) return { kind: "answer", answer: { code: DnsCode.ok, records: service } };
  const reversed = reverseRecords(question, directory);
  if (reversed !== undefined) return { kind: "answer", answer: { code: DnsCode.ok, records: reversed } };
  if (question.name !== "" && !question.name.includes("."))
    return { kind: "answer", answer: { code: DnsCode.noSuchName, records: [] } };
  return { kind: "forward", upstreams };
}

/** Shuffled, so that clients that take the first spread over all. */
function addressRecords(
  question: DnsQuestion,
  match: NameMatch,
  random: Pick<Random, "below">,
): readonly DnsRecord[] {
  const isAsked = ({ type }: DnsRecord): boolean => question.type === type || question.type === DnsType.any;
  const { ttlSeconds } = match;
  return shuffled(match.addresses, random)
    .map((address) =>
      address.includes(":")
        ? { type: DnsType.aaaa, ttlSeconds, data: addressBytes6(address) }
        : { type: DnsType.a, ttlSeconds, data: addressBytes(address) },
    )
    .filter(isAsked);
}

/** `_8080._tcp.web`: the addresses of "web", with that port. */
function serviceRecords(question: DnsQuestion, directory: NameDirectory): readonly DnsRecord[] | undefined {
  const parts = /^_(\d{1,5})\._(?:tcp|udp)\.(.+)$/.exec(question.name);
  const target = parts?.[2];
  const port = Number(parts?.[1]);
  if (target === undefined || port > 65_535) return undefined;
  const match = directory.lookup(target);
  if (match === undefined) return undefined;
  if (question.type !== DnsType.srv) return [];
  const fixed = Buffer.alloc(6);
  fixed.writeUInt16BE(port, 4);
  return [
    { type: DnsType.srv, ttlSeconds: match.ttlSeconds, data: Buffer.concat([fixed, encodeName(target)]) },
  ];
}

function reverseRecords(question: DnsQuestion, directory: NameDirectory): readonly DnsRecord[] | undefined {
  const address = reverseAddress(question.name);
  const name = address === undefined ? undefined : directory.reverse(address);
  if (name === undefined) return undefined;
  if (question.type !== DnsType.ptr) return [];
  return [{ type: DnsType.ptr, ttlSeconds: PTR_TTL_SECONDS, data: encodeName(name) }];
}

function shuffled<T>(items: readonly T[], random: Pick<Random, "below">): T[] {
  const result = [...items];
  for (let index = result.length - 1; index > 0; index -= 1) {
    const other = random.below(index + 1);
    const [one, two] = [result[index], result[other]];
    if (one === undefined || two === undefined) continue;
    result[index] = two;
    result[other] = one;
  }
  return result;
}
