// Runs the image fuzzer for as long as it is told: npm run fuzz -- --time SECONDS [--seed N] [--cases N]
import { spawnSync } from 'node:child_process';
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: {
    time: { type: 'string', default: '60' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000_000) },
    cases: { type: 'string', default: '1000000000' },
  },
});
console.log(`fuzzing for ${values.time} s from seed ${values.seed}`);
const { status } = spawnSync('npx', ['vitest', 'run', 'test/fuzz/fuzz.test.ts'], {
  stdio: 'inherit',
  env: {
    ...process.env,
    QCOW2_FUZZ_SECONDS: values.time,
    QCOW2_FUZZ_SEED: values.seed,
    QCOW2_FUZZ_CASES: values.cases,
  },
});
process.exit(status ?? 1);
