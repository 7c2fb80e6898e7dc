/**
 * Who may open an image that somebody else has open: all pairs of a process that holds it and one that wants it, of this
 * package's and of QEMU's, reading, writing, or without regard to locks. Needs the built package (dist).
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { open, Qcow2Error } from '../../lib/index.js';
import { qemuImg, run } from '../support/oracle.js';
import { withTempDir } from '../support/temp-dir.js';

type Tool = 'this package' | 'qemu-io';
type Mode = 'reading' | 'writing' | 'sharing';

const script = fileURLToPath(new URL('hold-image.mjs', import.meta.url));
const tools: readonly Tool[] = ['this package', 'qemu-io'];
const modes: readonly Mode[] = ['reading', 'writing', 'sharing'];

/** Readers share; who writes is alone; who shares all (`-U`, `lock: false`) minds nobody and is minded by none. */
const mayOpen: Record<Mode, Record<Mode, boolean>> = {
  reading: { reading: true, writing: false, sharing: true },
  writing: { reading: false, writing: false, sharing: true },
  sharing: { reading: true, writing: true, sharing: true },
};

const qemuFlags: Record<Mode, readonly string[]> = { reading: ['-r'], writing: [], sharing: ['-r', '-U'] };

describe.each(tools)('while %s holds an image', (holder) => {
  it.each(modes)('%s it', async (held) => {
    await withTempDir(async (path) => {
      const image = path('image.qcow2');
      await qemuImg(['create', '-q', '-f', 'qcow2', image, '1M']);
      const process = await hold(holder, held, image);
      try {
        for (const tool of tools) {
          for (const mode of modes) {
            const got = await isOpened(tool, mode, image);
            expect(got, `${tool}, ${mode}`).toBe(mayOpen[held][mode]);
          }
        }
      } finally {
        // However a holder ends, its locks end with it.
        process.kill('SIGKILL');
        await once(process, 'exit');
      }
      for (const tool of tools) expect(await isOpened(tool, 'writing', image)).toBe(true);
    });
  });
});

async function hold(tool: Tool, mode: Mode, image: string): Promise<ChildProcess> {
  const ours = [script, image, mode === 'writing' ? 'r+' : 'r', mode === 'sharing' ? 'free' : 'lock'];
  const child =
    tool === 'qemu-io'
      ? spawn('qemu-io', ['-f', 'qcow2', ...qemuFlags[mode], image], { stdio: ['pipe', 'pipe', 'inherit'] })
      : spawn(process.execPath, ours, { stdio: ['pipe', 'pipe', 'inherit'] });
  // Both say something as soon as the image is open.
  await Promise.race([
    once(child.stdout, 'data'),
    once(child, 'exit').then(() => expect.fail(`${tool} did not open the image`)),
  ]);
  return child;
}

async function isOpened(tool: Tool, mode: Mode, image: string): Promise<boolean> {
  if (tool === 'qemu-io') {
    const command = mode === 'writing' ? 'write -P 1 0 512' : 'read 0 512';
    const args = ['-f', 'qcow2', ...qemuFlags[mode], '-c', command, image];
    const { exit, stderr } = await run('qemu-io', args, { expectExit: null });
    if (exit !== 0) expect(stderr).toContain('Is another process using the image');
    return exit === 0;
  }
  try {
    const disk = await open(image, { mode: mode === 'writing' ? 'r+' : 'r', lock: mode !== 'sharing' });
    await disk.read(Buffer.alloc(512), 0);
    await disk.close();
    return true;
  } catch (error) {
    expect(error).toBeInstanceOf(Qcow2Error);
    expect(error).toMatchObject({ code: 'ERR_QCOW2_LOCKED' });
    return false;
  }
}
