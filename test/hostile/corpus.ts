/** All hostile images, and the sound but odd ones beside them. */
import { compressedCases } from './cases/compressed.js';
import { entryCases } from './cases/entries.js';
import { extendedCases } from './cases/extended.js';
import { firstClusterCases } from './cases/first-cluster.js';
import { headerCases } from './cases/header.js';
import { sideTableCases } from './cases/side-tables.js';
import type { HostileCase } from './outcome.js';

export const corpus = (): HostileCase[] => [
  ...headerCases(),
  ...firstClusterCases(),
  ...entryCases(),
  ...compressedCases(),
  ...extendedCases(),
  ...sideTableCases(),
];
