/** The common parts of two lists of byte ranges, one of which is asked for piece by piece. */
interface ByteRun {
  start: number;
  /** Bytes. */
  length: number;
}

/** The parts of `runs` that `within` gives for their ranges, both in order. */
export async function* runsWithin(
  runs: AsyncIterable<ByteRun>,
  within: (start: number, end: number) => AsyncIterable<ByteRun>,
): AsyncGenerator<ByteRun> {
  for await (const { start, length } of runs) {
    let last: ByteRun | undefined;
    for await (const part of within(start, start + length)) {
      if (last !== undefined && last.start + last.length === part.start) last.length += part.length;
      else {
        if (last !== undefined) yield last;
        last = { ...part };
      }
    }
    if (last !== undefined) yield last;
  }
}
