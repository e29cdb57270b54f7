/** Types for building specs step by step: the same shape with writable fields. Lists are replaced as a whole. */
export type Draft<T> = T extends readonly unknown[]
  ? T
  : T extends object
    ? { -readonly [Key in keyof T]: Draft<T[Key]> }
    : T;
