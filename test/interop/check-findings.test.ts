/** Findings as they are told: all of them, one by one, each with what a repair does about it. */
import { describe, expect, it } from 'vitest';
import { open, type CheckOptions, type CheckReport, type Finding } from '../../lib/index.js';
import { qemuImg, qemuIo } from '../support/oracle.js';
import { damages, PlantedImage } from '../support/planted-damage.js';
import { useTempDir } from '../support/temp-dir.js';

const temp = useTempDir('memory');

async function makeImage(plant: (image: PlantedImage) => void): Promise<string> {
  const path = temp('image');
  await qemuImg(['create', '-q', '-f', 'qcow2', path, '4M']);
  await qemuIo(
    path,
    Array.from({ length: 6 }, (_, i) => `write -P ${i + 1} ${i * 64}k 64k`),
  );
  const image = await PlantedImage.open(path);
  plant(image);
  await image.save();
  return path;
}

async function check(path: string, options: CheckOptions): Promise<CheckReport> {
  const disk = await open(path, { forRepair: true, mode: options.repair === undefined ? 'r' : 'r+' });
  try {
    return await disk.check(options);
  } finally {
    await disk.close();
  }
}

describe.each(damages)('$name', ({ plant }) => {
  it('every finding says whether it is repaired, and is', async () => {
    const path = await makeImage(plant);
    const told: Finding[] = [];
    const { leaks, corruptions, checkErrors } = await check(path, {
      onFinding: (finding) => told.push(finding),
    });
    expect(told.length > 0).toBe(leaks + corruptions + checkErrors > 0);
    const report = await check(path, { repair: 'all' });
    for (const { kind, where, repair } of told) {
      const after = report.findings.find((finding) => finding.kind === kind && finding.where === where);
      expect(after?.fixed === true, `${kind} ${where} (${repair})`).toBe(repair !== 'none');
    }
  });

  it('a repair of leaks puts right nothing but what is safe', async () => {
    const path = await makeImage(plant);
    const told: Finding[] = [];
    const report = await check(path, { repair: 'leaks', onFinding: (finding) => told.push(finding) });
    const fixed = report.findings.filter((finding) => finding.fixed === true);
    expect(fixed.filter(({ repair }) => repair !== 'safe')).toEqual([]);
    expect(told.filter(({ severity }) => severity === 'leak').every(({ repair }) => repair === 'safe')).toBe(
      true,
    );
  });
});

describe('onFinding', () => {
  it('is told of all, however few are kept', async () => {
    const path = await makeImage((image) => {
      for (let i = 0; i < 6; i++) image.setL2Entry(i, 0n);
    });
    const told: Finding[] = [];
    const report = await check(path, { maxFindings: 2, onFinding: (finding) => told.push(finding) });
    expect(report.findings).toHaveLength(2);
    expect(report.leaks).toBe(6);
    expect(told).toHaveLength(6);
    expect(told.slice(0, 2)).toEqual(report.findings);
  });
});
