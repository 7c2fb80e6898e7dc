/** The smallest byte range that holds all changes made to a table since it was last taken. */
export class DirtyRange {
  #start = Infinity;
  #end = 0;

  add(start: number, end: number): void {
    this.#start = Math.min(this.#start, start);
    this.#end = Math.max(this.#end, end);
  }

  get any(): boolean {
    return this.#end > this.#start;
  }

  /** The range, which is then clean; undefined when nothing changed. */
  take(): { start: number; end: number } | undefined {
    if (!this.any) return undefined;
    const range = { start: this.#start, end: this.#end };
    this.#start = Infinity;
    this.#end = 0;
    return range;
  }
}
