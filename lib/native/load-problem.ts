/** Why the addon could not be loaded, and what to do about it, for the person who reads it. */

/** The machine on which it was to be loaded. */
export interface Host {
  /** `process.platform` and `process.arch`, such as `linux-x64`. */
  readonly platform: string;
  /** `process.version`. */
  readonly node: string;
}

const rebuild =
  '`npm rebuild qcow2 --build-from-source` compiles it here; that needs cmake 3.19 or newer and a C++17 compiler.';

interface Case {
  /** What the message of the failed load has in it. */
  readonly sign: RegExp;
  /** `$1` is what the sign's group found. */
  readonly meaning: string;
}

/** The first that fits is taken. Messages of node-gyp-build, then of the loaders of glibc, musl, macOS and Windows. */
const cases: readonly Case[] = [
  {
    sign: /No native build was found/,
    meaning:
      'There is no prebuilt binary for this platform, and none was compiled: the install script was not run ' +
      '(--ignore-scripts; npm 12 asks for approval: `npm approve-scripts qcow2`; pnpm: `pnpm approve-builds`), or it failed. ' +
      'Where node_modules was copied from a machine of another kind, run `npm ci` on this one. Else ' +
      rebuild,
  },
  {
    sign: /version [`']?(GLIBC\w*_[\d.]+)'? not found/,
    meaning: `The C library of this system is too old for it ($1 is missing; the prebuilt binaries need GLIBC_2.28). ${rebuild}`,
  },
  {
    sign: /(ld-linux[\w.-]*|libc\.musl[\w.-]*|__\w+_chk): (?:cannot open|No such file|symbol not found)/,
    meaning:
      'It was made for the other C library (glibc, musl) than this system has ($1 is missing). ' +
      'Where node_modules was copied from another machine or image, run `npm ci` on this one; on a system with musl other ' +
      `than Alpine set LIBC=musl. Else ${rebuild}`,
  },
  {
    sign: /(lib[\w.+-]+): cannot open shared object file|Error loading shared library (lib[\w.+-]+)/,
    meaning:
      'It was compiled on a machine that had the library $1, which this one has not. Install that library, or: ' +
      rebuild,
  },
  {
    sign: /invalid ELF header|wrong ELF class|not a valid Win32 application|incompatible architecture|not a mach-o file|Exec format error/,
    meaning:
      'It was made for another platform: node_modules seems to come from there. Run `npm ci` on this machine.',
  },
];

/** One message for a failed load: where it failed, what that means, and the way out. */
export function describeLoadProblem(problem: unknown, host: Host): string {
  const message = problem instanceof Error ? problem.message : String(problem);
  for (const { sign, meaning } of cases) {
    const found = sign.exec(message);
    if (found !== null) return describe(host, meaning.replace('$1', found[1] ?? found[2] ?? ''));
  }
  return describe(host, `${message.trim()}. ${rebuild}`);
}

function describe({ platform, node }: Host, meaning: string): string {
  return `The native addon of qcow2 could not be loaded on ${platform}, Node ${node}. ${meaning}`;
}
