/** What two programs printed, and what they left in a file, without what differs from run to run. */
import { qemuImg } from './run.js';
import type { Outcome } from './run.js';

/** Without what differs from run to run: progress, times, the names that QEMU gives its nodes. */
export function comparable({ code, stdout, stderr }: Outcome): Outcome {
  return {
    code,
    stdout: stdout
      .replaceAll(/( {4}\([\d.]+\/100%\)\r)+/g, '    (PROGRESS)\r')
      .replaceAll(/\d+\.\d{3} seconds/g, 'TIME seconds'),
    stderr: stderr.replaceAll(/'(qemu-img|qcow2) rebase'/g, "'PROGRAM rebase'"),
  };
}

export interface Info {
  format: string;
  encrypted?: boolean;
}

/** What the real qemu-img says of a file, without what depends on the medium, the time or chance. */
export async function examine(directory: string, file: string): Promise<Info> {
  const volatile = ['actual-size', 'date-sec', 'date-nsec', 'uuid', 'iters', 'master-key-iters', 'icount'];
  const { stdout } = await qemuImg(['info', '-U', '--output=json', file], directory);
  return JSON.parse(stdout, (name, value: unknown) => (volatile.includes(name) ? undefined : value)) as Info;
}
