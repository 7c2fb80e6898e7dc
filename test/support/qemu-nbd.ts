/** qemu-nbd, serving an image for as long as a test wants. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

/** Starts it on a Unix socket; `await using` ends it. */
export async function qemuNbd(
  socket: string,
  args: readonly string[],
): Promise<AsyncDisposable & { uri: string; kill: () => void }> {
  const child = spawn('qemu-nbd', ['-t', '-e', '8', '-k', socket, ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const exited = once(child, 'exit');
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()));
  while (!existsSync(socket)) {
    if (child.exitCode !== null) throw new Error(`qemu-nbd ${args.join(' ')}: ${said}`);
    await sleep(10);
  }
  return {
    uri: `nbd+unix:///?socket=${socket}`,
    kill: () => child.kill('SIGKILL'),
    [Symbol.asyncDispose]: async () => {
      child.kill('SIGTERM');
      await exited;
    },
  };
}
