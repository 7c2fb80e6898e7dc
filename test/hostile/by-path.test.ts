/**
 * The corpus opened by path, and given to jobs on whole images, under strace: nothing but the images themselves is opened, no socket is made, no file
 * changes, and memory stays within its bound. Needs the built package (dist).
 */
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { run } from '../support/oracle.js';
import { useTempDir } from '../support/temp-dir.js';
import { corpus } from './corpus.js';

const inDirectory = useTempDir();
const script = fileURLToPath(new URL('open-all.mjs', import.meta.url));
/** For caches of 32 MiB, buffers of 4 MiB and what the garbage collector leaves lying about. */
const mostGrowthKiB = 256 * 1024;

it('opens nothing but the image, and needs little memory', { timeout: 120_000 }, async () => {
  await mkdir(inDirectory('images'));
  for (const [index, { bytes }] of corpus().entries())
    await writeFile(inDirectory(`images/${index}.qcow2`), bytes);
  const before = await digest(inDirectory('images'));
  const calls = 'open,openat,openat2,creat,socket,connect,execve,rename,unlink,mkdir';
  const log = inDirectory('strace.log');
  const node = [process.execPath, script, inDirectory('images')];
  const { stdout } = await run('strace', ['-f', '-qq', '-e', `trace=${calls}`, '-o', log, ...node]);
  const { images, denied, grownKiB } = JSON.parse(stdout) as Record<'images' | 'denied' | 'grownKiB', number>;
  console.log(
    `${images} images opened by path, ${denied} of them naming another file and given to whole jobs, too: memory grew by ${Math.round(grownKiB / 1024)} MiB`,
  );

  expect(denied).toBeGreaterThan(2);
  const lines = (await readFile(log, 'utf8')).split('\n');
  const begin = lines.findIndex((line) => line.includes('/images/begin"'));
  const end = lines.findIndex((line) => line.includes('/images/end"'));
  expect(begin).toBeGreaterThan(0);
  expect(end - begin).toBeGreaterThanOrEqual(images);
  const others = lines.slice(begin + 1, end).filter((line) => !isImageRead(line) && !isRest(line));
  expect(others).toEqual([]);
  expect(grownKiB).toBeLessThan(mostGrowthKiB);
  expect(await digest(inDirectory('images'))).toBe(before);
});

const isImageRead = (line: string): boolean => /open(at)?\(.*\/images\/\d+\.qcow2", O_RDONLY/.test(line);
/** Where parts of the package are that are loaded when they are needed first. */
const ownCode = fileURLToPath(new URL('../../dist/', import.meta.url));
/** The second half of a call that another thread interrupted, signals, the package's own code, and Node's look at its limits and itself, as its threads take. */
const isRest = (line: string): boolean =>
  line.includes(`"${ownCode}`) ||
  / (<\.\.\. |---|\+\+\+)/.test(line) ||
  line.includes('"/sys/fs/cgroup') ||
  line.includes('"/proc/meminfo"') ||
  line.includes('"/sys/devices/system/cpu') ||
  line.includes(`"${process.execPath}"`) ||
  line.includes('"/proc/self/');

async function digest(directory: string): Promise<string> {
  const hash = createHash('sha256');
  for (const name of (await readdir(directory)).sort())
    hash.update(name).update(await readFile(`${directory}/${name}`));
  return hash.digest('hex');
}
