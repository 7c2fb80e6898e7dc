#!/usr/bin/env node
/**
 * Loads the program and runs it. Where the package was installed or built with its scripts, what V8 compiled of the program's files
 * then is in `build/` (`scripts/compile-program.mjs`); compiling them anew would take longer than most commands run.
 * Only the bundle of this file works, which is CommonJS.
 */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type * as nodeV8 from 'node:v8';
import { Script } from 'node:vm';
import type * as program from './process.js';

/** The first of the program's files to load. Put in by `scripts/bundle.mjs`: names change with what is in the files. */
declare const PROGRAM: string;

/** Of one build of Node.js: others cannot use it. */
export const compiledFolder = join(
  import.meta.dirname,
  '../../build/compiled',
  `${process.version}-${process.platform}-${process.arch}-${statSync(process.execPath).size}`,
);
const isCompiled = existsSync(compiledFolder);

/** What V8 compiled of a file, or undefined when it did not. */
function compiledCode(name: string): Buffer | undefined {
  if (!isCompiled) return undefined;
  try {
    return readFileSync(join(compiledFolder, name));
  } catch {
    // Of files that only rare commands need.
    return undefined;
  }
}

/**
 * V8 optimizes a function that has run for some milliseconds, in threads that take the processors from those of the job: a third of
 * the time of a command that takes half a second. After ten times as long is soon enough for what runs for minutes. By the version of
 * Node.js the flag that says when, and its default.
 */
const flags: Record<string, readonly [name: string, usual: number] | undefined> = {
  20: ['interrupt-budget', 67_584],
  22: ['invocation-count-for-turbofan', 3000],
  24: ['invocation-count-for-turbofan', 3000],
};
const flag = flags[process.versions.node.split('.', 1).join()];
/** Milliseconds until the flag is set: what sets it takes a tenth of the start to load, and short commands end without it. */
const flagAfter = 50;
let v8: typeof nodeV8 | undefined;

function optimizeAfter(times: number): void {
  if (flag !== undefined) v8?.setFlagsFromString(`--${flag[0]}=${flag[1] * times}`);
}

function optimizeLater(): void {
  v8 = module.require('node:v8') as typeof nodeV8;
  optimizeAfter(10);
}

/** What each of the program's files but this one is: the function that `require` would make of it (`scripts/bundle.mjs`). */
type Wrapper = (
  exports: unknown,
  require: (name: string) => unknown,
  module: object,
  path: string,
  folder: string,
) => void;

/**
 * Loads the program's files as `require` does, with the code that was compiled of them. V8 compiles what has none, or has
 * some of another version of V8.
 * @param onScript is told of each file
 */
export function loadProgram(onScript?: (name: string, script: Script) => void): typeof program {
  const folder = import.meta.dirname;
  const outside = module;
  const loaded = new Map<string, { exports: unknown }>();
  const load = (name: string): unknown => {
    if (!name.startsWith('./')) return outside.require(name);
    const known = loaded.get(name);
    if (known !== undefined) return known.exports;
    const module = { exports: {} };
    loaded.set(name, module);
    const filename = join(folder, name);
    const source = readFileSync(filename, 'latin1');
    const cachedData = compiledCode(name);
    // V8 takes no code that was compiled under other flags.
    optimizeAfter(1);
    const script = new Script(source, { filename, ...(cachedData === undefined ? {} : { cachedData }) });
    optimizeAfter(10);
    onScript?.(name, script);
    const wrapper = script.runInThisContext() as Wrapper;
    wrapper(module.exports, load, module, filename, folder);
    return module.exports;
  };
  return load(PROGRAM) as typeof program;
}

if (require.main === module) {
  void loadProgram().runProcess();
  if (flag !== undefined) setTimeout(optimizeLater, flagAfter).unref();
}
