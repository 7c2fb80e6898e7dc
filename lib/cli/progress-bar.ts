/** A bar that shows a person how far long work has come, and how long it will take. */
import type { Progress } from '../disk.js';
import type { ProgressDisplay } from './progress.js';
import type { Terminal } from './terminal.js';

/** Work shorter than this shows no bar, milliseconds. */
const patience = 400;
/** Between two drawings, milliseconds. */
const pause = 100;
const width = 30;

export class ProgressBar implements ProgressDisplay {
  readonly #terminal: Terminal;
  readonly #clock: () => number;
  readonly #started: number;
  #next: number;

  /** @param clock milliseconds since some moment */
  constructor(terminal: Terminal, clock: () => number = () => performance.now()) {
    this.#terminal = terminal;
    this.#clock = clock;
    this.#started = clock();
    this.#next = this.#started + patience;
  }

  /** Nothing yet: most work is over before anyone wonders. */
  begin(): void {
    return;
  }

  update({ done, total }: Progress): void {
    const now = this.#clock();
    if (now < this.#next || total === 0) return;
    this.#next = now + pause;
    this.#terminal.draw(barLine(Math.min(done / total, 1), now - this.#started));
  }

  end(): void {
    this.#terminal.clear();
  }
}

/** @param share of the work that is done, 0 to 1; @param elapsed milliseconds */
function barLine(share: number, elapsed: number): string {
  const full = Math.floor(share * width);
  const percent = String(Math.floor(share * 100)).padStart(3);
  const left = share > 0 ? `, ${duration((elapsed / share) * (1 - share))} left` : '';
  return `${percent} % [${'#'.repeat(full)}${'.'.repeat(width - full)}]${left}`;
}

function duration(milliseconds: number): string {
  const seconds = Math.ceil(milliseconds / 1000);
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  if (hours > 0) return `${hours} h ${minutes} min`;
  return minutes > 0 ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
}
