/** Watching how much memory is asked for at once. */

const watched = ['Uint8Array', 'Float64Array', 'ArrayBuffer', 'Uint32Array'] as const;

/** Runs `work` and resolves to the largest array that was made meanwhile, bytes. Only one at a time. */
export async function allocationsDuring(work: () => Promise<void>): Promise<number> {
  let largest = 0;
  const originals = watched.map((name) => [name, globalThis[name]] as const);
  const watch = (target: (typeof globalThis)[(typeof watched)[number]]): unknown =>
    new Proxy(target, {
      construct(constructor, args: unknown[], newTarget: NewableFunction): object {
        const made = Reflect.construct(constructor, args, newTarget) as ArrayBuffer | Uint8Array;
        if (typeof args[0] === 'number') largest = Math.max(largest, made.byteLength);
        return made;
      },
    });
  try {
    for (const [name, original] of originals) Object.assign(globalThis, { [name]: watch(original) });
    await work();
  } finally {
    for (const [name, original] of originals) Object.assign(globalThis, { [name]: original });
  }
  return largest;
}
