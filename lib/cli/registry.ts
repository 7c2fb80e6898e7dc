/** All commands. Each is loaded only when it is asked for; its options alone when help, completion or a man page is made. */
import type { Command } from './context.js';
import type { CommandSpec } from './specs/shared.js';

interface Entry {
  readonly command: () => Promise<{ run: Command }>;
  readonly spec: () => Promise<{ spec: CommandSpec }>;
}

/** In the order of the help. */
export const registry: Readonly<Record<string, Entry>> = {
  create: { command: () => import('./commands/create.js'), spec: () => import('./specs/create.js') },
  info: { command: () => import('./commands/info.js'), spec: () => import('./specs/info.js') },
  check: { command: () => import('./commands/check.js'), spec: () => import('./specs/check.js') },
  map: { command: () => import('./commands/map.js'), spec: () => import('./specs/map.js') },
  convert: { command: () => import('./commands/convert.js'), spec: () => import('./specs/convert.js') },
  resize: { command: () => import('./commands/resize.js'), spec: () => import('./specs/resize.js') },
  snapshot: { command: () => import('./commands/snapshot.js'), spec: () => import('./specs/snapshot.js') },
  commit: { command: () => import('./commands/commit.js'), spec: () => import('./specs/commit.js') },
  rebase: { command: () => import('./commands/rebase.js'), spec: () => import('./specs/rebase.js') },
  bitmap: { command: () => import('./commands/bitmap.js'), spec: () => import('./specs/bitmap.js') },
  compare: { command: () => import('./commands/compare.js'), spec: () => import('./specs/compare.js') },
  measure: { command: () => import('./commands/measure.js'), spec: () => import('./specs/measure.js') },
  amend: { command: () => import('./commands/amend.js'), spec: () => import('./specs/amend.js') },
  dd: { command: () => import('./commands/dd.js'), spec: () => import('./specs/dd.js') },
  serve: { command: () => import('./commands/serve.js'), spec: () => import('./specs/serve.js') },
  compact: { command: () => import('./commands/compact.js'), spec: () => import('./specs/compact.js') },
  dehydrate: { command: () => import('./commands/dehydrate.js'), spec: () => import('./specs/dehydrate.js') },
  rehydrate: { command: () => import('./commands/rehydrate.js'), spec: () => import('./specs/rehydrate.js') },
  bench: { command: () => import('./commands/bench.js'), spec: () => import('./specs/bench.js') },
  repair: { command: () => import('./commands/repair.js'), spec: () => import('./specs/repair.js') },
  discard: { command: () => import('./commands/discard.js'), spec: () => import('./specs/discard.js') },
  mapped: { command: () => import('./commands/mapped.js'), spec: () => import('./specs/mapped.js') },
  sha: { command: () => import('./commands/sha.js'), spec: () => import('./specs/sha.js') },
  hash: { command: () => import('./commands/hash.js'), spec: () => import('./specs/hash.js') },
  encode: { command: () => import('./commands/encode.js'), spec: () => import('./specs/encode.js') },
  decode: { command: () => import('./commands/decode.js'), spec: () => import('./specs/decode.js') },
  'stream-encode': {
    command: () => import('./commands/stream-encode.js'),
    spec: () => import('./specs/stream-encode.js'),
  },
  'stream-decode': {
    command: () => import('./commands/stream-decode.js'),
    spec: () => import('./specs/stream-decode.js'),
  },
  read: { command: () => import('./commands/read.js'), spec: () => import('./specs/read.js') },
  write: { command: () => import('./commands/write.js'), spec: () => import('./specs/write.js') },
  tree: { command: () => import('./commands/tree.js'), spec: () => import('./specs/tree.js') },
  inspect: { command: () => import('./commands/inspect.js'), spec: () => import('./specs/inspect.js') },
  completion: {
    command: () => import('./commands/completion.js'),
    spec: () => import('./specs/completion.js'),
  },
  man: { command: () => import('./commands/man.js'), spec: () => import('./specs/man.js') },
};

/** The entry of that name, or undefined. Underscores are taken for dashes: qcow-tool has `stream_decode`. */
export function commandEntry(name: string): Entry | undefined {
  const dashed = name.replaceAll('_', '-');
  return Object.hasOwn(registry, dashed) ? registry[dashed] : undefined;
}

/** The options and texts of all commands. */
export async function allSpecs(): Promise<CommandSpec[]> {
  const modules = await Promise.all(Object.values(registry).map(({ spec }) => spec()));
  return modules.map(({ spec }) => spec);
}
