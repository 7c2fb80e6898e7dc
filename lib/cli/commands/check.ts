/** `check`: looks for damage in an image, and repairs it when told to. */
import { checkCacheMode } from '../cache-mode.js';
import type { Context } from '../context.js';
import { explained } from '../error-text.js';
import { Failure, UsageFailure } from '../failure.js';
import { CommandLine } from '../getopt.js';
import { ImageArguments } from '../image-arguments.js';
import type { ImageName } from '../image-name.js';
import type { Qcow2 } from '../../index.js';
import { interruptible } from '../interrupt.js';
import { isQcow2 } from '../is-qcow2.js';
import { toJson } from '../json.js';
import type { CheckReport } from '../../operations/check/report.js';
import { spec } from '../specs/check.js';
import { withProgress } from '../progress.js';
import { outputFormat } from '../output-format.js';
import type { OutputFormat } from '../output-format.js';
import { checkExitCode, checkJson, checkText, findingText, repairText } from '../print-check.js';

/** More findings than anybody reads; the counts are complete all the same. */
const maxFindings = 100_000;

const cannotCheckExitCode = 63;

export async function run(words: readonly string[], context: Context): Promise<number> {
  const request = parse(words);
  const { name, images, repair } = request;
  const opening = { mode: repair === null ? 'r' : 'r+', backing: 'none', forRepair: true } as const;
  if (repair !== null) images.demandWritable(name);
  if (repair !== null && images.forceShare) {
    throw new Failure(
      `Could not open '${name.given}': force-share=on can only be used with read-only images`,
    );
  }
  const { disk } = await images.openDisk(name, opening);
  try {
    if (!isQcow2(disk)) {
      throw new Failure('This image format does not support checks', { exitCode: cannotCheckExitCode });
    }
    return await checkImage(disk, request, context);
  } finally {
    await disk.close();
  }
}

interface Request {
  name: ImageName;
  images: ImageArguments;
  repair: 'leaks' | 'all' | null;
  output: OutputFormat;
  quiet: boolean;
}

function parse(words: readonly string[]): Request {
  const line = new CommandLine(spec.options, words);
  const images = new ImageArguments();
  let output = 'human';
  let cache = 'writeback';
  let quiet = false;
  let repair: Request['repair'] = null;
  for (const { name, value } of line) {
    if (images.take(name, value)) continue;
    if (name === 'output') output = value;
    if (name === 'cache') cache = value;
    if (name === 'quiet') quiet = true;
    if (name === 'repair') repair = repairMode(value);
  }
  const [file, ...more] = line.positionals;
  if (file === undefined || more.length > 0) throw new UsageFailure('Expecting one image file name');
  const format = outputFormat(output);
  checkCacheMode('source cache', cache);
  return { output: format, images, repair, quiet, name: images.name(file) };
}

function repairMode(value: string): 'leaks' | 'all' {
  if (value === 'leaks' || value === 'all') return value;
  throw new UsageFailure(`Unknown option value for -r (expecting 'leaks' or 'all'): ${value}`);
}

async function checkImage(disk: Qcow2, request: Request, context: Context): Promise<number> {
  const { out, complain } = context;
  const { name, repair, output, quiet } = request;
  const printing = output === 'human' && !quiet;
  let report = await examine(disk, request, context);
  if (repair !== null && report.leaksFixed + report.corruptionsFixed > 0) {
    if (printing) out.write(repairText(report));
    report = { ...(await examine(disk, { ...request, repair: null }, context)), ...fixes(report) };
  }
  if (printing) out.write(checkText(report));
  if (output === 'json' && !quiet) out.write(`${toJson(checkJson(report, name.given))}\n`);
  if (report.checkErrors > 0) {
    out.flush();
    complain('Check failed');
  }
  return checkExitCode(report);
}

function fixes({ leaksFixed, corruptionsFixed }: CheckReport): Partial<CheckReport> {
  return { leaksFixed, corruptionsFixed };
}

async function examine(
  disk: Qcow2,
  { name, repair, quiet }: Request,
  context: Context,
): Promise<CheckReport> {
  const report = await withProgress({ quiet }, context, (display) =>
    interruptible((signal) =>
      disk.check({
        ...(repair === null ? {} : { repair }),
        maxFindings,
        signal,
        ...(display === null ? {} : { onProgress: (state) => display.update(state) }),
      }),
    ),
  ).catch((error: unknown) => {
    throw explained('Check failed: ', error, { name: name.given });
  });
  const { clusterSize } = await disk.info();
  for (const line of findingLines(report, clusterSize)) context.say(line);
  return report;
}

/** The findings, and when something was repaired once more, with what became of each. */
function findingLines({ findings }: CheckReport, clusterSize: number): string[] {
  const found = findings.map((finding) => findingText(finding, clusterSize));
  if (!findings.some(({ fixed }) => fixed === true)) return found;
  const repaired = findings.map((finding, index) => {
    const text = found[index] ?? '';
    return finding.fixed === true ? text.replace(/^(ERROR|Leaked)/, 'Repairing') : text;
  });
  return [...found, ...repaired];
}
