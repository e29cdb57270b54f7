/**
 * Majorities: which index a quorum holds, and how an election stands. Pure functions of the voters and what each said.
 */

export function quorumOf(voterCount: number): number {
  return Math.floor(voterCount / 2) + 1;
}

/**
 * Highest index that a majority of `voters` has reached. With no voters nothing is ever reached (0), so that an empty
 * configuration can't commit.
 */
export function quorumIndex(voters: readonly number[], reached: (voter: number) => number): number {
  if (voters.length === 0) return 0;
  // Sorted by insertion, greatest first: of so few nothing is faster, and it is asked for with each acknowledgement.
  const sorted: number[] = [];
  for (const voter of voters) {
    const index = reached(voter);
    let at = sorted.length;
    for (; at > 0 && (sorted[at - 1] ?? 0) < index; at -= 1) sorted[at] = sorted[at - 1] ?? 0;
    sorted[at] = index;
  }
  return sorted[quorumOf(voters.length) - 1] ?? 0;
}

export type VoteOutcome = "won" | "lost" | "pending";

/** Votes of one election. The first answer of a voter counts, so that a duplicated message can't be counted twice. */
export class VoteTally {
  readonly #answers = new Map<number, boolean>();

  record(voter: number, granted: boolean): void {
    if (!this.#answers.has(voter)) this.#answers.set(voter, granted);
  }

  /** Answers of members that are not voters don't count. */
  outcome(voters: readonly number[]): VoteOutcome {
    const quorum = quorumOf(voters.length);
    let granted = 0;
    let refused = 0;
    for (const voter of voters) {
      const answer = this.#answers.get(voter);
      if (answer === true) granted += 1;
      else if (answer === false) refused += 1;
    }
    if (granted >= quorum) return "won";
    return voters.length - refused < quorum ? "lost" : "pending";
  }
}
