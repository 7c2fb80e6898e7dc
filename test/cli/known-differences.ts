/** In what this package's command line differs from qemu-img 7.2 on purpose, and whatever else differs. */
import { isDeepStrictEqual } from 'node:util';
import type { Comparison, Differences } from './beside.js';

interface KnownDifference {
  /** Why it is so. */
  why: string;
  /** Whether a command line and what came of it are a case of it. */
  covers: (args: readonly string[], comparison: Comparison) => boolean;
}

const bothFail = ({ theirs, ours }: Comparison): boolean =>
  theirs.code !== 0 && theirs.code === ours.code && theirs.stdout === ours.stdout;
const names = (args: readonly string[], word: RegExp): boolean => args.some((arg) => word.test(arg));

const knownDifferences: readonly KnownDifference[] = [
  {
    why: 'qemu-img gives up on an assertion there',
    covers: (_, { theirs, ours }) => theirs.code === null && ours.code !== null,
  },
  {
    why: 'a hint behind an error says what to do next',
    covers: (_, comparison) =>
      bothFail(comparison) && comparison.ours.stderr.startsWith(comparison.theirs.stderr),
  },
  {
    why: 'formats and protocols that a command does not have are unknown to it whatever else is wrong',
    covers: (args, { theirs, ours }) =>
      ours.code !== 0 &&
      (names(args, /vmdk/) || (theirs.code !== 0 && names(args, /qcow3|driver=(nbd)?$|^of=nbd:/))),
  },
  {
    why: 'with -U an image is not opened for writing; what else is wrong with its name may be told first',
    covers: (_, comparison) =>
      bothFail(comparison) && comparison.theirs.stderr.includes('force-share=on can only be used with'),
  },
  {
    why: 'qemu-img says that it makes bitmaps of an empty disk, and loses them',
    covers: (args, { ours, files }) =>
      args[0] === 'bitmap' &&
      ours.code === 1 &&
      /0 bytes cannot have/.test(ours.stderr) &&
      files.length === 0,
  },
  {
    why: 'qemu-img writes over its own source, or over a file below it, and loses both',
    covers: (args, { ours, files }) =>
      ['convert', 'dd'].includes(args[0] ?? '') &&
      ours.code === 1 &&
      files.length === 0 &&
      /Failed to get "write" lock|is (also )?the source/.test(ours.stderr),
  },
  {
    why: 'what is wrong with a damaged image is told in words of our own, which say where',
    covers: (args, comparison) =>
      bothFail(comparison) &&
      names(args, /cut\.qcow2|nothing\.qcow2|text\.raw|shared\.qcow2|corrupt\.qcow2|sparse\.raw/) &&
      beginning(comparison.ours.stderr) === beginning(comparison.theirs.stderr),
  },
  {
    why: 'that a way to write an option is deprecated in QEMU is not told',
    covers: (_, { theirs, ours, files }) =>
      theirs.code === ours.code &&
      theirs.stdout === ours.stdout &&
      files.length === 0 &&
      withoutDeprecation(theirs.stderr) === ours.stderr,
  },
  {
    why: 'what does not go together is found before a file is made or opened',
    covers: (_, comparison) =>
      bothFail(comparison) &&
      /Backing format cannot be used without|too large for file format 'raw'|do not go together|does not support bitmaps/.test(
        comparison.ours.stderr,
      ),
  },
  {
    why: 'an encrypted image can be resized and checked, and one be repaired whose backing file is missing',
    covers: (args, { theirs, ours }) =>
      (args[0] === 'resize' && names(args, /luks/) && theirs.code === 1 && ours.code === 0) ||
      (args[0] === 'check' && names(args, /orphan|luks|missing$/) && theirs.code === 1 && ours.code === 0),
  },
  {
    why: 'qemu-img ends with 0 where it refuses to take a target with a backing file for zeros',
    covers: (_, { theirs, ours }) =>
      ours.code === 1 && ours.stderr === theirs.stderr && /--target-is-zero when/.test(ours.stderr),
  },
  {
    why: 'qemu-img -r counts only what it has read of the snapshots, and loses them',
    covers: (args, { theirs, ours }) =>
      args[0] === 'check' &&
      names(args, /states\.qcow2/) &&
      ours.code === 0 &&
      /inconsistencies were found/.test(theirs.stdout),
  },
  {
    why: 'amend finds contradictions before it begins, so that no progress is shown',
    covers: (args, { theirs, ours }) =>
      args[0] === 'amend' &&
      theirs.code === 1 &&
      ours.code === 1 &&
      ours.stderr === theirs.stderr &&
      ours.stdout === '\n',
  },
  {
    why: 'QEMU 10 takes -SIZE right behind the name of the file, not only as the last word',
    covers: (args) => args[0] === 'resize' && names(args.slice(0, -1), /^-\d/),
  },
  {
    why: 'of a backing chain with a locked file the one that was asked for is named',
    covers: (args, comparison) =>
      args[0] === 'rebase' && bothFail(comparison) && /Failed to get .* lock/.test(comparison.ours.stderr),
  },
  {
    why: 'the numbers that QEMU gives its nodes mean nothing',
    covers: (_, comparison) => bothFail(comparison) && comparison.theirs.stderr.includes('to #block'),
  },
  {
    why: 'qemu-img compare -s takes it for a difference that a run ends where the disk does',
    covers: (args, { theirs, ours }) =>
      args[0] === 'compare' &&
      theirs.code === ours.code &&
      theirs.stdout.includes('block status mismatch!') &&
      ours.stdout ===
        theirs.stdout.replace(
          /Strict mode: Offset (\d+) block status mismatch!/,
          'Content mismatch at offset $1!',
        ),
  },
  {
    why: 'a data file that is not raw keeps its length, as data of the disk may be anywhere in it',
    covers: (args, { theirs, ours, files }) =>
      ['resize', 'amend'].includes(args[0] ?? '') &&
      isDeepStrictEqual(ours, theirs) &&
      files.every((file) =>
        /^(reserved|external)\.data: info says \{"virtual-size":\d+,[^,]+,"format":"raw"/.test(file),
      ),
  },
  {
    why: 'qemu-img prints "(null)" where no backing file was named',
    covers: (_, comparison) => bothFail(comparison) && comparison.theirs.stderr.includes("'(null)'"),
  },
];

/** All up to the reason why a file could not be opened. */
const beginning = (text: string): string | undefined => /^PROGRAM: Could not open '[^']*'/m.exec(text)?.[0];

const withoutDeprecation = (text: string): string =>
  text.replaceAll(
    /^PROGRAM: warning: (short-form boolean option '.*' deprecated\nPlease use .*|Use of "backing": "" is .*)\n/gm,
    '',
  );

/** What differs and is not known to. */
export function differences(args: readonly string[], comparison: Comparison): Differences {
  const { theirs, ours, files } = comparison;
  const found: string[] = [];
  if (ours.code !== theirs.code) found.push(`exit code ${String(ours.code)}, not ${String(theirs.code)}`);
  if (!isDeepStrictEqual(json(ours.stdout), json(theirs.stdout))) {
    found.push(`stdout ${ours.stdout}\nnot ${theirs.stdout}`);
  }
  if (ours.stderr !== theirs.stderr) found.push(`stderr ${ours.stderr}\nnot ${theirs.stderr}`);
  found.push(...files);
  if (found.length === 0 || knownDifferences.some(({ covers }) => covers(args, comparison))) return [];
  return found;
}

function json(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
