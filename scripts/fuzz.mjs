// Fuzzes for as long as it is told: whole images, then each libFuzzer target of the native core (needs clang).
// npm run fuzz -- --time SECONDS [--target images|core|NAME_fuzz] [--seed N] [--cases N]; the time is that of each target.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = fileURLToPath(new URL('..', import.meta.url));
const { values } = parseArgs({
  options: {
    time: { type: 'string', default: '60' },
    target: { type: 'string', default: 'all' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000_000) },
    cases: { type: 'string', default: '1000000000' },
  },
});
const coreTargets = readdirSync(join(root, 'native/fuzz'))
  .filter((name) => name.endsWith('_fuzz.cc'))
  .map((name) => name.slice(0, -'.cc'.length));
const { target } = values;
const known = ['all', 'images', 'core', ...coreTargets];
if (!known.includes(target)) {
  console.error(`There is no target ${target}; there are ${known.join(', ')}`);
  process.exit(2);
}

let failed = false;
if (target === 'all' || target === 'images') failed = !fuzzImages();
const chosen = coreTargets.filter((name) => ['all', 'core', name].includes(target));
if (chosen.length > 0) failed = !fuzzCore(chosen) || failed;
process.exit(failed ? 1 : 0);

function fuzzImages() {
  console.log(`fuzzing whole images for ${values.time} s from seed ${values.seed}`);
  return run('npx', ['vitest', 'run', 'test/fuzz/fuzz.test.ts'], {
    QCOW2_FUZZ_SECONDS: values.time,
    QCOW2_FUZZ_SEED: values.seed,
    QCOW2_FUZZ_CASES: values.cases,
  });
}

/** Each target in turn, under ASan and UBSan; inputs that fail are left in the directory `build/fuzz`. */
function fuzzCore(targets) {
  const build = join(root, 'build/fuzz');
  const [c, cxx] = clang();
  const options = ['-DQCOW2_FUZZ=ON', '-DQCOW2_SANITIZE=ON', '-DCMAKE_BUILD_TYPE=Debug'];
  const compilers = [`-DCMAKE_C_COMPILER=${c}`, `-DCMAKE_CXX_COMPILER=${cxx}`];
  if (!run('cmake', ['-S', root, '-B', build, ...compilers, ...options])) return false;
  if (!run('cmake', ['--build', build, '--target', ...targets])) return false;
  const results = targets.map((name) => {
    console.log(`fuzzing ${name} for ${values.time} s`);
    const limits = [`-max_total_time=${values.time}`, '-print_final_stats=1', '-verbosity=0'];
    return run(join(build, name), [...limits, `-artifact_prefix=${build}/${name}-`]);
  });
  return results.every(Boolean);
}

/** The newest clang there is, with or without a number in its name. */
function clang() {
  const suffixes = ['', ...Array.from({ length: 20 }, (_, i) => `-${30 - i}`)];
  const suffix = suffixes.find((one) => spawnSync(`clang++${one}`, ['--version']).status === 0);
  if (suffix === undefined) {
    console.error('The targets of the native core need clang with its libFuzzer');
    process.exit(2);
  }
  return [`clang${suffix}`, `clang++${suffix}`];
}

function run(command, args, env = {}) {
  return (
    spawnSync(command, args, { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } }).status === 0
  );
}
