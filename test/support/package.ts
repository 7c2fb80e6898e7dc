/** Packs the package as npm would publish it, and installs the tarball in an empty directory as a user would. */
import { execFile } from 'node:child_process';
import { cp, mkdir, readdir, symlink, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const execute = promisify(execFile);
const require = createRequire(import.meta.url);
export const root = fileURLToPath(new URL('../..', import.meta.url));

/** A tarball, and what npm says of it. */
export interface Packed {
  readonly tarball: string;
  /** Paths in it. */
  readonly files: readonly string[];
  /** Bytes, packed and unpacked. */
  readonly size: number;
  readonly unpackedSize: number;
}

interface PackReport {
  readonly filename: string;
  readonly size: number;
  readonly unpackedSize: number;
  readonly files: readonly { readonly path: string }[];
}

/** `npm pack` of the package in `directory`. */
export async function pack(directory: string, into: string): Promise<Packed> {
  const { stdout } = await execute(
    'npm',
    ['pack', '--json', '--ignore-scripts', '--pack-destination', into],
    { cwd: directory },
  );
  const [report] = JSON.parse(stdout) as PackReport[];
  if (report === undefined) throw new Error('npm pack packed nothing');
  const { filename, files, size, unpackedSize } = report;
  return { tarball: join(into, filename), files: files.map(({ path }) => path), size, unpackedSize };
}

/** A copy of what this package publishes, in `directory`, to be packed with other binaries than those in prebuilds/. */
export async function stage(directory: string): Promise<void> {
  const { stdout } = await execute('npm', ['pack', '--json', '--dry-run', '--ignore-scripts'], { cwd: root });
  const [report] = JSON.parse(stdout) as PackReport[];
  for (const { path } of report?.files ?? []) {
    if (path.startsWith('prebuilds/')) continue;
    await mkdir(dirname(join(directory, path)), { recursive: true });
    await cp(join(root, path), join(directory, path));
  }
}

/** Tarballs of all packages that an installation brings along, from node_modules, so that installing needs no registry. */
export async function packDependencies(into: string): Promise<string[]> {
  const folder = join(into, 'dependencies');
  await mkdir(folder, { recursive: true });
  const specs = installedAlong().map((path) => `./${path}`);
  await execute('npm', ['pack', '--ignore-scripts', '--pack-destination', folder, ...specs], { cwd: root });
  return (await readdir(folder)).map((name) => join(folder, name));
}

/** Folders, from the package's root, of everything it depends on at last, by the lock file. */
export function installedAlong(): string[] {
  const { packages } = require('../../package-lock.json') as { packages: Record<string, LockedPackage> };
  const isForUsers = ({ dev, devOptional, optional, peer }: LockedPackage): boolean =>
    !(dev ?? devOptional ?? optional ?? peer ?? false);
  return Object.entries(packages)
    .filter(([path, locked]) => path !== '' && isForUsers(locked))
    .map(([path]) => path);
}

type LockedPackage = Partial<Record<'dev' | 'devOptional' | 'optional' | 'peer', boolean>>;

/**
 * Installs tarballs in a new project. No install script runs, no compiler and no cmake can be found, nothing comes from
 * a registry.
 */
export async function install(project: string, tarballs: readonly string[]): Promise<void> {
  await mkdir(project, { recursive: true });
  await writeFile(
    join(project, 'package.json'),
    JSON.stringify({ name: 'project', private: true, type: 'module' }),
  );
  await execute('npm', ['install', '--ignore-scripts', '--offline', '--no-audit', ...tarballs], {
    cwd: project,
    env: { ...process.env, PATH: await emptyPath(join(project, '..', 'path')) },
  });
}

/** A directory for PATH in which there are only node and npm. */
export async function emptyPath(directory: string): Promise<string> {
  await mkdir(directory, { recursive: true });
  if ((await readdir(directory)).length === 0) {
    const { stdout } = await execute('which', ['npm']);
    await symlink(process.execPath, join(directory, 'node'));
    await symlink(stdout.trim(), join(directory, 'npm'));
    // npm starts everything through a shell.
    await symlink('/bin/sh', join(directory, 'sh'));
  }
  return directory;
}
