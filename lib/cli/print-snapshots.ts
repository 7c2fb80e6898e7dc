/** The table of snapshots that `info` and `snapshot -l` print. */
import type { SnapshotInfo } from '../operations/info-report.js';
import { humanSize } from './sizes.js';

/** @param foreign makes text from the image fit to be shown */
export function snapshotTable(snapshots: readonly SnapshotInfo[], foreign: (text: string) => string): string {
  const rows = snapshots.map((snapshot) =>
    snapshotRow(
      foreign(snapshot.id),
      foreign(snapshot.name),
      humanSize(snapshot.vmStateSize),
      localTime(snapshot.dateSeconds),
      vmClock(snapshot.vmClockNanoseconds),
      snapshot.icount === null ? '' : String(snapshot.icount),
    ),
  );
  return `Snapshot list:\n${snapshotRow('ID', 'TAG', 'VM SIZE', 'DATE', 'VM CLOCK', 'ICOUNT')}${rows.join('')}`;
}

function snapshotRow(
  id: string,
  tag: string,
  size: string,
  date: string,
  clock: string,
  icount: string,
): string {
  return (
    `${id.padEnd(9)} ${tag.padEnd(16)} ${size.padStart(8)}${date.padStart(20)}` +
    `${clock.padStart(13)}${icount.padStart(11)}\n`
  );
}

function localTime(seconds: number): string {
  const date = new Date(seconds * 1000);
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join('-');
  return `${day} ${[date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(':')}`;
}

function vmClock(nanoseconds: bigint): string {
  const seconds = nanoseconds / 1_000_000_000n;
  const parts = [seconds / 3600n, (seconds / 60n) % 60n, seconds % 60n].map((part) => two(Number(part)));
  const milliseconds = (nanoseconds / 1_000_000n) % 1000n;
  return `${parts.join(':')}.${String(milliseconds).padStart(3, '0')}`;
}

const two = (value: number): string => String(value).padStart(2, '0');
