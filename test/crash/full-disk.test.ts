/**
 * A file system that really is full, and a limit on the size of files, under a writer in a process of its own: the error says
 * so, nothing flushed is lost, and what is left is sound. Needs the built package (dist).
 */
import { createHash } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { MemoryStorage, open } from '../../lib/index.js';
import { inspectImage } from '../support/image-invariants.js';
import { qemuImg, run } from '../support/oracle.js';
import { withTempDir } from '../support/temp-dir.js';

const script = fileURLToPath(new URL('fill-writer.mjs', import.meta.url));
const chunk = 64 * 1024;

interface Report {
  /** Digests of the chunks that were flushed. */
  readonly flushed: readonly string[];
  readonly errors: readonly { what: string; code: string; message: string }[];
}

/** Runs a command line with the writer's in `"$@"`, in a directory, and leaves the image there as `kept`. */
const places: Record<string, { readonly code: string; readonly shell: string; readonly launcher: string[] }> =
  {
    'a full file system': {
      code: 'ENOSPC',
      launcher: ['unshare', '-rm'],
      shell:
        'mkdir full && mount -t tmpfs -o size=2m none full && "$@" && cp --sparse=always full/image kept',
    },
    'a limit on the size of files': {
      code: 'EFBIG',
      launcher: [],
      shell: 'mkdir full && (trap "" XFSZ; ulimit -f 2048; "$@") && cp --sparse=always full/image kept',
    },
  };

const cases = Object.keys(places).flatMap((place) =>
  ['plain', 'lazy', 'compressed', 'snapshots'].map((kind) => [place, kind] as const),
);

it.each(cases)('%s, %s: is told, and nothing flushed is lost', async (place, kind) => {
  const { code, launcher, shell } = places[place] ?? expect.fail('there is no such place');
  await withTempDir(async (path) => {
    await writeFile(path('fill.sh'), `set -e; cd "$1"; shift; ${shell}`);
    const writer = [process.execPath, script, 'full/image', kind];
    const [command = 'bash', ...args] = [...launcher, 'bash', path('fill.sh'), path('.'), ...writer];
    const { stdout } = await run(command, args);
    const { flushed, errors } = JSON.parse(stdout) as Report;
    expect(flushed.length).toBeGreaterThan(4);
    expect(errors[0]).toMatchObject({ code, message: expect.stringContaining(code) as string });
    for (const error of errors) expect([code, 'ERR_QCOW2_FAILED']).toContain(error.code);

    const bytes = await readFile(path('kept'));
    const { problems, dirty } = inspectImage(bytes);
    expect(problems).toEqual([]);
    const storage = new MemoryStorage(bytes);
    const disk = await open(storage, { mode: 'r+' });
    const got = Buffer.alloc(chunk);
    for (const [index, digest] of flushed.entries()) {
      await disk.read(got, index * chunk);
      expect(createHash('sha256').update(got).digest('hex'), `chunk ${index}`).toBe(digest);
    }
    // There is room here: writing goes on.
    await disk.write(got, 48 * 2 ** 20);
    await disk.close();
    expect(inspectImage(storage.toBuffer()).problems).toEqual([]);
    // QEMU takes leaks for no damage; a dirty image it repairs first.
    if (!dirty) {
      const { exit } = await qemuImg(['check', '-q', '-f', 'qcow2', path('kept')], { expectExit: null });
      expect([0, 3]).toContain(exit);
    }
  });
});
