// Looks at finished binaries: node scripts/prebuild/inspect.mjs [TARGET...]. What they need of the system they will run
// on, what they show it, how they are hardened, and what they must not hold.
import { existsSync, readFileSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { root, work } from './folders.mjs';
import { run } from './run.mjs';
import { prebuildPath, targets } from './targets.mjs';

const sizeLimit = 3 * 2 ** 20;
/** Node 20's own binaries need these; see "Platform list" in Node's BUILDING.md. */
const newest = { GLIBC: [2, 28], GLIBCXX: [3, 4, 25] };
const exported = new Set(['napi_register_module_v1', 'node_api_module_get_api_version_v1']);
const libraries = {
  glibc: /^(libc\.so\.6|libm\.so\.6|libpthread\.so\.0|libdl\.so\.2|ld-linux-(x86-64|aarch64)\.so\.[12])$/,
  musl: /^libc(\.musl-x86_64)?\.so(\.1)?$/,
};
/** Parts of Windows itself, of 7 and later, and the program that loads the addon. */
const windowsLibraries = /^(node\.exe|kernel32\.dll|msvcrt\.dll|advapi32\.dll|user32\.dll)$/i;

/** What is wrong with the binary of a target, in words; empty when all is well. */
export function inspect(target) {
  const path = join(root, prebuildPath(target));
  const problems = [];
  const size = statSync(path).size;
  if (size >= sizeLimit) problems.push(`${size} bytes are more than ${sizeLimit}`);
  problems.push(...buildPaths(readFileSync(path)));
  if (target.platform === 'linux') problems.push(...inspectElf(path, target.libc));
  else if (target.platform === 'win32') problems.push(...inspectPe(path));
  else problems.push(...inspectMachO(path));
  return problems;
}

/** A path of the machine that built it would make builds differ, and tell where they were made. */
function buildPaths(bytes) {
  return [root, work, homedir() === '/' ? root : `${homedir()}/`, '/sysroots/', '/codec-sources/']
    .filter((path) => bytes.includes(path))
    .map((path) => `it holds the path ${path}`);
}

function inspectElf(path, libc) {
  const imported = symbolsOf(path).filter(({ defined, binding }) => !defined && binding === 'GLOBAL');
  const dynamic = run('readelf', ['--wide', '--dynamic', path]);
  return [
    ...Array.from(dynamic.matchAll(/\(NEEDED\).*\[(.*)\]/g), ([, library]) => library)
      .filter((library) => !libraries[libc].test(library))
      .map((library) => `it needs ${library}`),
    ...(libc === 'musl' ? missingInMusl(imported) : tooNew(path)),
    ...hardeningProblems(path),
  ];
}

/** What makes an addon for Linux easier to attack than it has to be; it may have been compiled anywhere. */
export function hardeningProblems(path) {
  const problems = [];
  const dynamic = run('readelf', ['--wide', '--dynamic', path]);
  if (!/BIND_NOW/.test(dynamic)) problems.push('functions are bound late (no BIND_NOW)');
  if (/\((RPATH|RUNPATH)\)/.test(dynamic)) problems.push('it has a path to search libraries in');
  if (/TEXTREL/.test(dynamic)) problems.push('its code is written to when it is loaded');
  const segments = run('readelf', ['--wide', '--program-headers', path]);
  if (!/GNU_RELRO/.test(segments)) problems.push('its tables stay writable (no RELRO)');
  if (!/GNU_STACK.* RW /.test(segments)) problems.push('its stack may be executable');
  if (/LOAD.* RWE /.test(segments)) problems.push('a segment is writable and executable');
  const symbols = symbolsOf(path);
  if (!symbols.some(({ name }) => name.startsWith('__stack_chk_fail')))
    problems.push('it was compiled without stack protector');
  return [...problems, ...wrongExports(symbols.filter(({ defined }) => defined).map(({ name }) => name))];
}

function symbolsOf(path) {
  return run('readelf', ['--wide', '--dyn-syms', path])
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter((columns) => columns.length >= 8 && columns[0] !== 'Num:')
    .map(([, , , , binding, , section, name]) => ({ binding, defined: section !== 'UND', name }));
}

function tooNew(path) {
  const problems = [];
  for (const [version, name, digits] of run('readelf', ['--wide', '--version-info', path]).matchAll(
    /\b(GLIBC|GLIBCXX|CXXABI)_([0-9.]+)/g,
  )) {
    const limit = newest[name];
    if (limit === undefined || isNewer(digits.split('.').map(Number), limit))
      problems.push(`it needs ${version}`);
  }
  return [...new Set(problems)];
}

function isNewer(version, limit) {
  for (let i = 0; i < version.length; i += 1) {
    const difference = version[i] - (limit[i] ?? 0);
    if (difference !== 0) return difference > 0;
  }
  return false;
}

function missingInMusl(imported) {
  const library = join(work, 'sysroots/amd64/lib/x86_64-linux-musl/libc.so');
  if (!existsSync(library)) return [];
  const known = new Set(
    Array.from(run('readelf', ['--wide', '--dyn-syms', library]).matchAll(/(\S+)$/gm), ([, name]) => name),
  );
  return imported
    .map(({ name }) => name)
    .filter((name) => !name.startsWith('napi_') && !known.has(name))
    .map((name) => `musl has no ${name}`);
}

function inspectPe(path) {
  const problems = [];
  const headers = run('objdump', ['--private-headers', path]);
  for (const flag of ['HIGH_ENTROPY_VA', 'DYNAMIC_BASE', 'NX_COMPAT']) {
    if (!headers.includes(flag)) problems.push(`it lacks the flag ${flag}`);
  }
  for (const [, library] of headers.matchAll(/DLL Name: (.*)/g)) {
    if (!windowsLibraries.test(library.trim())) problems.push(`it needs ${library}`);
  }
  const names = headers.slice(headers.indexOf('[Ordinal/Name Pointer] Table')).split('\n\n')[0];
  problems.push(
    ...wrongExports(
      Array.from(
        names.matchAll(/^\s+\[ *\d+\] (?:\+base\[ *\d+\] +[0-9a-f]+ )?(\S+)$/gm),
        ([, name]) => name,
      ),
    ),
  );
  return problems;
}

function inspectMachO(path) {
  const problems = [];
  const names = run('nm', ['-gU', path]).matchAll(/ _(\S+)$/gm);
  problems.push(...wrongExports(Array.from(names, ([, name]) => name)));
  for (const [, library] of run('otool', ['-L', path]).matchAll(/^\t(\S+) \(/gm)) {
    if (!library.startsWith('/usr/lib/') && !library.startsWith('@rpath/qcow2'))
      problems.push(`it needs ${library}`);
  }
  return problems;
}

function wrongExports(names) {
  const problems = names.filter((name) => !exported.has(name)).map((name) => `it exports ${name}`);
  for (const name of exported) {
    if (!names.includes(name)) problems.push(`it does not export ${name}`);
  }
  return problems;
}

function main(names) {
  const chosen = targets.filter(({ name }) => names.length === 0 || names.includes(name));
  for (const target of chosen.filter((each) => existsSync(join(root, prebuildPath(each))))) {
    const problems = inspect(target);
    console.log(`${prebuildPath(target)}: ${problems.length === 0 ? 'sound' : problems.join('; ')}`);
    if (problems.length > 0) process.exitCode = 1;
  }
}

if (process.argv[1] === import.meta.filename) main(process.argv.slice(2));
