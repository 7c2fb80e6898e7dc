/**
 * The long options that the qemu-img of QEMU 10.x has, and the letters that stand for the same: this package is held against
 * 7.2 elsewhere, which has few of them.
 */
import { describe, expect, it } from 'vitest';
import { CommandLine } from '../../lib/cli/getopt.js';
import { registry } from '../../lib/cli/registry.js';

/** By command: `name`, `name/letters`, with a colon behind those that take an argument. */
const documented: Readonly<Record<string, string>> = {
  create: 'format/f: options/o: backing/b: backing-format/BF: backing-unsafe/u quiet/q object:',
  info: 'format/f: image-opts backing-chain force-share/U output: object:',
  check: 'format/f: image-opts cache/T: repair/r: force-share/U output: quiet/q object:',
  commit: 'format/f: image-opts cache/t: drop/d base/b: rate-limit/r: progress/p quiet/q object:',
  compare: 'a-format/f: b-format/F: image-opts strict/s cache/T: force-share/U progress/p quiet/q object:',
  convert:
    'source-format/f: image-opts source-cache/T: snapshot/l: bitmaps skip-broken-bitmaps salvage target-format/O: ' +
    'target-image-opts target-format-options/o: target-cache/t: backing/bB: backing-format/F: sparse-size/S: no-create/n ' +
    'target-is-zero force-share/U rate-limit/r: parallel/m: oob-writes/W copy-range-offloading/C progress/p quiet/q object:',
  map: 'format/f: image-opts start-offset/s: max-length/l: force-share/U output: object:',
  snapshot: 'format/f: image-opts list/l apply/a: create/c: delete/d: force-share/U quiet/q object:',
  rebase:
    'format/f: image-opts cache/t: compress/c backing/b: backing-format/BF: backing-cache/T: backing-unsafe/u ' +
    'force-share/U progress/p quiet/q object:',
  resize: 'format/f: image-opts preallocation: shrink quiet/q object:',
  amend: 'options/o: format/f: image-opts cache/t: force progress/p quiet/q object:',
  bench:
    'format/f: image-opts cache/t: count/c: depth/d: offset/o: buffer-size/s: step-size/S: write/w pattern: ' +
    'flush-interval: no-drain aio/i: native/n force-share/U quiet/q object:',
  bitmap:
    'format/f: image-opts add granularity/g: remove clear enable disable merge: source-file/b: source-format/F: object:',
  dd: 'format/f: image-opts output-format/O: force-share/U object:',
  measure:
    'format/f: source-format/f: image-opts source-image-opts snapshot/l: target-format/O: target-format-options/o: ' +
    'options/o: force-share/U output: object: size/s:',
};

describe.each(Object.entries(documented))('%s', (command, list) => {
  it.each(list.split(' '))('takes %s', async (entry) => {
    const takesArgument = entry.endsWith(':');
    const [name = '', letters = ''] = entry.replace(':', '').split('/');
    const byName = await meaning(command, takesArgument ? [`--${name}=x`] : [`--${name}`]);
    expect(byName.value).toBe(takesArgument ? 'x' : '');
    if (takesArgument) expect(await meaning(command, [`--${name}`, 'x'])).toEqual(byName);
    for (const letter of letters) {
      expect(await meaning(command, takesArgument ? [`-${letter}`, 'x'] : [`-${letter}`])).toEqual(byName);
    }
  });
});

/** What a single option is to a command. */
async function meaning(command: string, words: readonly string[]): Promise<{ name: string; value: string }> {
  const spec = (await registry[command]?.spec())?.spec;
  const [found] = [...new CommandLine(spec?.options ?? [], words)];
  if (found === undefined) throw new Error(`${words.join(' ')} is no option`);
  return found;
}
