// Bundles lib/ into dist/, as loading a hundred small modules takes longer than most commands run, and prints the manual page.
import { execFileSync } from 'node:child_process';
import { chmodSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { rolldown } from 'rolldown';

const root = fileURLToPath(new URL('..', import.meta.url));
const dist = fileURLToPath(new URL('../dist', import.meta.url));

/** What package.json exports, and the addon's functions for the benchmarks. */
const library = {
  index: 'lib/index.ts',
  native: 'lib/native.ts',
  'nbd/index': 'lib/nbd/index.ts',
  'storage/http': 'lib/storage/http.ts',
  'storage/s3': 'lib/storage/s3.ts',
  'xen-orchestra': 'lib/xen-orchestra.ts',
};

async function bundle(input, output, define = {}) {
  const build = await rolldown(options(input, define));
  // Names stay as they are, so that stack traces can be read without source maps.
  const written = await build.write({ dir: dist, minify: false, comments: false, ...output });
  await build.close();
  return written.output;
}

/** Makes the code ASCII, as main.ts reads it: that takes a fraction of the time. Only texts have other characters. */
const ascii = {
  name: 'ascii',
  renderChunk: (code) =>
    code.replace(/[^\x00-\x7f]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`),
};

/** Makes a function of the code, as `require` does. Were it done while loading, each text would be copied once more. */
const wrapped = {
  name: 'wrapped',
  renderChunk: (code) => `(function (exports, require, module, __filename, __dirname) { ${code}\n})`,
};

/** The modules that one needs at once. */
async function neededBy(input) {
  const build = await rolldown(options(input, {}));
  const { output } = await build.generate({ format: 'cjs' });
  await build.close();
  const needed = new Set();
  const [entry] = output;
  const files = new Set([entry.fileName]);
  for (const name of files) {
    const file = output.find(({ fileName }) => fileName === name);
    if (file === undefined) continue;
    for (const module of file.moduleIds) needed.add(module);
    for (const other of file.imports) files.add(other);
  }
  return needed;
}

function options(input, define) {
  return {
    cwd: root,
    input,
    platform: 'node',
    external: /^[^./]/,
    resolve: { extensionAlias: { '.js': ['.ts'] } },
    transform: { target: 'node20.19', define },
    // Modules only define things, so what is asked for nowhere is left out.
    treeshake: { moduleSideEffects: false },
    // Some commands need more of the library at once than others.
    checks: { ineffectiveDynamicImport: false },
  };
}

await bundle(library, {
  format: 'esm',
  entryFileNames: '[name].js',
  chunkFileNames: 'chunks/[name]-[hash].js',
});

// The program, in CommonJS, which Node starts faster. What many commands need is in six files, all else in a file of its own
// that is loaded when a command asks for it.
const commands = 10;
const [forInfo, forCompare, forConvert] = await Promise.all(
  ['info', 'compare', 'convert'].map((name) => neededBy(`lib/cli/commands/${name}.ts`)),
);
const program = {
  format: 'cjs',
  dir: `${dist}/cli`,
  // `require` takes less time, and is all there is in files loaded as main.ts does it.
  dynamicImportInCjs: false,
  plugins: [ascii],
};
const [first] = await bundle(
  { program: 'lib/cli/process.ts' },
  {
    ...program,
    plugins: [ascii, wrapped],
    entryFileNames: '[name]-[hash].cjs',
    chunkFileNames: '[name]-[hash].cjs',
    codeSplitting: {
      groups: [
        // What --help, --version and man need: they work without the addon, too. The specs are those that the groups below would take.
        {
          name: 'words',
          test: /lib.cli.(process|program|registry|getopt|failure|output|suggest|terminal|version|specs.(shared|info|compare|convert))\b/,
          priority: 1,
        },
        // What telling about an image takes, which all others need, too.
        { name: 'info', test: (id) => forInfo.has(id), minShareCount: 2 },
        { name: 'library', test: /lib.(?!cli)/, minShareCount: 2 * commands },
        { name: 'commands', test: /lib.cli/, minShareCount: commands },
        // The commands that need most: finding and reading one more small file takes longer than running what is in it.
        { name: 'jobs', test: (id) => forCompare.has(id), minShareCount: 2 },
        { name: 'conversions', test: (id) => forConvert.has(id), minShareCount: 2 },
      ],
    },
  },
);

await bundle(
  { main: 'lib/cli/main.ts' },
  { ...program, entryFileNames: '[name].cjs' },
  { PROGRAM: JSON.stringify(`./${first.fileName}`) },
);

// npm does it for an installed package; this is for a link to a clone.
chmodSync(`${dist}/cli/main.cjs`, 0o755);
writeFileSync(`${dist}/qcow2.1`, execFileSync(process.execPath, [`${dist}/cli/main.cjs`, 'man']));
