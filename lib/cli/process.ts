/** The program as a process: its name, its words and its descriptors. */
import { basename } from 'node:path';
import { Descriptor } from './output.js';
import { runProgram } from './program.js';

export { runProgram } from './program.js';

/** Runs the command line of this process; its exit code is set at the end. */
export async function runProcess(): Promise<void> {
  const name = basename(process.argv[1] ?? '').replace(/\.(c?js|exe)$/, '');
  process.exitCode = await runProgram(process.argv.slice(2), {
    program: name === 'qemu-img' ? 'qemu-img' : 'qcow2',
    stdout: new Descriptor(1),
    stderr: new Descriptor(2),
  });
}
