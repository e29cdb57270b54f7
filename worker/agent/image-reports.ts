/** What a node says of its images: all of them once in a session, then what came and went. Pure. */
import type { shoal } from "../../proto/messages.ts";
import { IMAGE_REPORT_COUNT_MAX } from "../limits.ts";

type ImageReport = shoal.v1.ImageReport.$Properties;

/** Messages that bring a manager that knows `told` to `images`; `told` is undefined at the start of a session. */
export function imageReports(
  told: ReadonlySet<string> | undefined,
  images: ReadonlySet<string>,
): readonly ImageReport[] {
  const added = [...images].filter((image) => told?.has(image) !== true);
  const removed = [...(told ?? [])].filter((image) => !images.has(image));
  const isFirst = told === undefined;
  if (!isFirst && added.length === 0 && removed.length === 0) return [];
  const reports: ImageReport[] = [];
  for (let start = 0; start === 0 || start < added.length; start += IMAGE_REPORT_COUNT_MAX) {
    const piece = added.slice(start, start + IMAGE_REPORT_COUNT_MAX);
    // What went is said first, so that the bound on a node's images holds at every moment.
    reports.push(start === 0 ? { full: isFirst, added: piece, removed } : { full: false, added: piece });
  }
  return reports;
}
