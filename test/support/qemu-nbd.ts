/** qemu-nbd, serving an image for as long as a test wants. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
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
  // The socket is there a moment before it can be connected to.
  while (!(await accepts(socket))) {
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

function accepts(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
    socket.once('connect', () => socket.destroy());
  });
}
