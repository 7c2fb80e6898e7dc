/** What `check` prints about its findings, for people and as JSON. */
import type { CheckReport, Finding } from '../operations/check/report.js';
import type { JsonObject } from './json.js';
import { twoDecimals } from './rounding.js';

/** A finding as a line for standard error. */
export function findingText(finding: Finding, clusterSize: number): string {
  const { kind, offset, expected, found, severity, message } = finding;
  const isCount = kind === 'refcount-too-high' || kind === 'refcount-too-low';
  if (isCount && offset !== undefined && expected !== undefined && found !== undefined) {
    const what = kind === 'refcount-too-high' ? 'Leaked' : 'ERROR';
    return `${what} cluster ${Math.floor(offset / clusterSize)} refcount=${found} reference=${expected}`;
  }
  return severity === 'leak' ? message : `ERROR ${message}`;
}

/** The members in the order in which qemu-img prints them; counts of nothing are left out. */
export function checkJson(report: CheckReport, name: string): JsonObject {
  const some = (count: number): number | undefined => (count === 0 ? undefined : count);
  return {
    'image-end-offset': some(report.imageEndOffset),
    'compressed-clusters': some(report.compressedClusters),
    'total-clusters': some(report.totalClusters),
    'corruptions-fixed': some(report.corruptionsFixed),
    corruptions: some(report.corruptions),
    'check-errors': report.checkErrors,
    'leaks-fixed': some(report.leaksFixed),
    leaks: some(report.leaks),
    'allocated-clusters': some(report.allocatedClusters),
    filename: name,
    format: 'qcow2',
    'fragmented-clusters': some(report.fragmentedClusters),
  };
}

export function repairText(report: CheckReport): string {
  return (
    'The following inconsistencies were found and repaired:\n\n' +
    `    ${report.leaksFixed} leaked clusters\n    ${report.corruptionsFixed} corruptions\n\n` +
    'Double checking the fixed image now...\n'
  );
}

export function checkText(report: CheckReport): string {
  return verdict(report) + allocation(report) + end(report);
}

function verdict({ corruptions, leaks, checkErrors }: CheckReport): string {
  if (corruptions + leaks + checkErrors === 0) return 'No errors were found on the image.\n';
  let text = '';
  if (corruptions > 0) {
    text +=
      `\n${corruptions} errors were found on the image.\n` +
      'Data may be corrupted, or further writes to the image may corrupt it.\n';
  }
  if (leaks > 0) {
    text +=
      `\n${leaks} leaked clusters were found on the image.\n` +
      'This means waste of disk space, but no harm to data.\n';
  }
  if (checkErrors > 0) text += `\n${checkErrors} internal errors have occurred during the check.\n`;
  return text;
}

function allocation(report: CheckReport): string {
  const { totalClusters, allocatedClusters, fragmentedClusters, compressedClusters } = report;
  if (totalClusters === 0 || allocatedClusters === 0) return '';
  const share = (part: number, whole: number): string => `${twoDecimals((part * 100) / whole)}%`;
  return (
    `${allocatedClusters}/${totalClusters} = ${share(allocatedClusters, totalClusters)} allocated, ` +
    `${share(fragmentedClusters, allocatedClusters)} fragmented, ` +
    `${share(compressedClusters, allocatedClusters)} compressed clusters\n`
  );
}

function end({ imageEndOffset }: CheckReport): string {
  return imageEndOffset === 0 ? '' : `Image end offset: ${imageEndOffset}\n`;
}

/** 1: could not be checked; 2: damaged; 3: only space is lost; 0: sound. */
export function checkExitCode({ corruptions, leaks, checkErrors }: CheckReport): number {
  if (checkErrors > 0) return 1;
  if (corruptions > 0) return 2;
  return leaks > 0 ? 3 : 0;
}
