// Programs as whole processes: how long one took, and how much memory it had at most.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';

const lookEvery = 5;

/** What programs are run with. Certificates that Node.js is told to read at its start cost more than the start itself. */
const { NODE_EXTRA_CA_CERTS, NODE_OPTIONS, ...environment } = process.env;

/**
 * Runs a program to its end.
 * @param {readonly string[]} command
 * @param {readonly number[]} [wanted] exit codes that are right
 * @returns {Promise<{ seconds: number, mebibytes: number | null }>} peak memory is what Linux told last before it ended
 */
export async function timed([program, ...args], wanted = [0]) {
  const start = process.hrtime.bigint();
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'], env: environment });
  let mebibytes = null;
  const look = () => {
    try {
      const status = readFileSync(`/proc/${child.pid}/status`, 'utf8');
      const kilobytes = Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0);
      if (kilobytes > 0) mebibytes = Math.max(mebibytes ?? 0, kilobytes / 1024);
    } catch {
      // It has ended, or this is not Linux.
    }
  };
  const timer = setInterval(look, lookEvery);
  let said = '';
  child.stderr.on('data', (chunk) => (said += chunk));
  const [code] = await once(child, 'close');
  const seconds = Number(process.hrtime.bigint() - start) / 1e9;
  clearInterval(timer);
  if (!wanted.includes(code)) throw new Error(`${program} ${args.join(' ')} ended with ${code}: ${said}`);
  return { seconds, mebibytes };
}

/** Runs a program that has to succeed, not for its time. Returns what it said. */
export function run(program, ...args) {
  const { status, stdout, stderr, error } = spawnSync(program, args, {
    encoding: 'utf8',
    maxBuffer: 2 ** 30,
  });
  if (error !== undefined) throw error;
  if (status !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${status}: ${stderr}${stdout}`);
  return stdout;
}

/** Whether a program is there. */
export const has = (program) => spawnSync('sh', ['-c', `command -v ${program}`]).status === 0;
