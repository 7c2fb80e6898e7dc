// npm run prebuildify [-- TARGET...]: makes the prebuilt binaries that this machine can build, in prebuilds/.
import { copyFileSync, rmSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { fetchCodecSources } from './codec-sources.mjs';
import { compile } from './compile.mjs';
import { root } from './folders.mjs';
import { inspect } from './inspect.mjs';
import { writeNotices } from './notices.mjs';
import { prebuildPath, targets } from './targets.mjs';

const prebuildify = promisify(createRequire(import.meta.url)('prebuildify'));

function wanted(names) {
  if (names.length === 0) return targets.filter(({ host }) => host === process.platform);
  return names.map((name) => {
    const target = targets.find((each) => each.name === name);
    if (target === undefined)
      throw new Error(`no target ${name}; there are ${targets.map((each) => each.name).join(', ')}`);
    if (target.host !== process.platform) throw new Error(`${name} is built on ${target.host}`);
    return target;
  });
}

async function prebuild(target) {
  const started = performance.now();
  const folder = compile(target);
  copyFileSync(join(root, 'package.json'), join(folder, 'package.json'));
  rmSync(join(root, prebuildPath(target)), { force: true });
  await prebuildify({
    cwd: folder,
    out: root,
    platform: target.platform,
    arch: target.arch,
    libc: target.libc,
    tagLibc: target.libc !== undefined,
    targets: [{ runtime: 'node', target: process.versions.node }],
    napi: true,
    strip: true,
    stripBin: target.strip,
    // It is compiled already.
    nodeGyp: 'true',
  });
  const problems = inspect(target);
  const { size } = statSync(join(root, prebuildPath(target)));
  const seconds = ((performance.now() - started) / 1000).toFixed(0);
  console.log(`${prebuildPath(target)}  ${(size / 1024).toFixed(0)} KiB, ${seconds} s`);
  for (const problem of problems) console.error(`  ${problem}`);
  return problems.length === 0;
}

fetchCodecSources();
writeNotices();
for (const target of wanted(process.argv.slice(2))) {
  if (!(await prebuild(target))) process.exitCode = 1;
}
