/**
 * The code in the documentation works: every block is type-checked against the built package, and run. In front of a block
 * an HTML comment may say `before: CODE`, to be run first, `with: CODE`, what the block takes for granted, or
 * `types only: REASON` for what needs somebody else's server.
 */
import { execFile } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import ts from 'typescript';
import { afterAll, describe, expect, it } from 'vitest';

const execute = promisify(execFile);
const root = fileURLToPath(new URL('../..', import.meta.url));
const directory = mkdtempSync(join(tmpdir(), 'qcow2-docs-'));
mkdirSync(join(directory, 'node_modules/@types'), { recursive: true });
symlinkSync(root, join(directory, 'node_modules/qcow2'));
symlinkSync(join(root, 'node_modules/@types/node'), join(directory, 'node_modules/@types/node'));
// An optional peer dependency, for S3.
symlinkSync(join(root, 'node_modules/@aws-sdk'), join(directory, 'node_modules/@aws-sdk'));

afterAll(() => {
  rmSync(directory, { recursive: true });
});

interface Block {
  readonly line: number;
  readonly code: string;
  readonly before: string | undefined;
  readonly typesOnly: boolean;
}

const pages = [
  ...['README.md', 'SECURITY.md', 'CONTRIBUTING.md', 'bench/README.md'],
  ...readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.md'))
    .map((path) => `docs/${path}`),
].filter((page) => blocksOf(page).length > 0);

function blocksOf(page: string): Block[] {
  const text = readFileSync(join(root, page), 'utf8');
  // The comments in front of a block, then the block.
  const pattern = /((?:<!-- (?:before|with|types only): [\s\S]*?-->\s*)*)^```(?:js|ts)\n([\s\S]*?)^```/gm;
  return Array.from(text.matchAll(pattern), ({ index, 0: whole, 1: comments = '', 2: code = '' }) => {
    const note = (name: string): string | undefined =>
      new RegExp(`<!-- ${name}: ([\\s\\S]*?)-->`).exec(comments)?.[1];
    const line = text.slice(0, index + whole.indexOf('```')).split('\n').length;
    return {
      line,
      code: `${note('with') ?? ''}\n${code}`,
      before: note('before'),
      typesOnly: note('types only') !== undefined,
    };
  });
}

/** Runs a module in the page's directory; new syntax is put into what this Node knows. */
async function run(folder: string, name: string, code: string): Promise<void> {
  const { outputText } = ts.transpileModule(code, {
    compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext },
  });
  writeFileSync(join(folder, `${name}.mjs`), outputText);
  await execute(process.execPath, [`${name}.mjs`], { cwd: folder });
}

describe.each(pages)('%s', (page) => {
  const folder = join(directory, page.replaceAll('/', '-'));
  mkdirSync(folder);
  it.each(blocksOf(page))('the code in line $line works', async ({ line, code, before, typesOnly }) => {
    if (before !== undefined) await run(folder, `before-${line}`, before);
    if (!typesOnly) await run(folder, `line-${line}`, code);
  });
});

it('all of it type-checks', () => {
  const names = pages.flatMap((page) =>
    blocksOf(page).map(({ line, code }) => {
      const name = join(directory, `${page.replaceAll('/', '-')}-${line}.mts`);
      writeFileSync(name, `${code}\nexport {};\n`);
      return name;
    }),
  );
  expect(names.length).toBeGreaterThan(15);
  const program = ts.createProgram(names, {
    noEmit: true,
    target: ts.ScriptTarget.ES2022,
    lib: ['lib.es2023.d.ts', 'lib.esnext.disposable.d.ts'],
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    types: ['node'],
    skipLibCheck: true,
    strictNullChecks: true,
    // A reader's JavaScript has no types of its own.
    noImplicitAny: false,
  });
  const problems = ts
    .getPreEmitDiagnostics(program)
    .map(
      ({ file, messageText }) =>
        `${file?.fileName ?? ''}: ${ts.flattenDiagnosticMessageText(messageText, '\n')}`,
    );
  expect(problems).toEqual([]);
}, 120_000);
