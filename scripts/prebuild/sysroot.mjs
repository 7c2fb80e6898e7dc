// Makes the headers and libraries of an older Debian, so that a binary made here runs on older machines, too.
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
} from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { work } from './folders.mjs';
import { run } from './run.mjs';

/** glibc 2.31 and musl 1.2.2, whose symbols hold for GLIBC 2.28 as long as nothing newer is used: inspect.mjs looks. */
const release = 'bullseye';
const packages = ['libc6-dev', 'libstdc++-10-dev', 'musl-dev'];

/** Path of the sysroot of a Debian architecture (amd64, arm64), made when it is not there. */
export function sysroot(architecture) {
  const path = join(work, 'sysroots', architecture);
  if (existsSync(path)) return path;
  const part = `${path}.part`;
  rmSync(part, { recursive: true, force: true });
  mkdirSync(dirname(part), { recursive: true });
  run('mmdebstrap', [
    '--variant=extract',
    `--architectures=${architecture}`,
    `--include=${packages.join(',')}`,
    release,
    part,
    `deb http://deb.debian.org/debian ${release} main`,
  ]);
  makeLinksRelative(part);
  renameSync(part, path);
  return path;
}

/** Absolute links would lead out of the sysroot. */
function makeLinksRelative(folder) {
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isSymbolicLink()) continue;
    const link = join(entry.parentPath, entry.name);
    const target = readlinkSync(link);
    if (!target.startsWith('/')) continue;
    unlinkSync(link);
    symlinkSync(relative(dirname(link), join(folder, target)), link);
  }
}
