/** What `NODE_DEBUG=qcow2` prints on standard error: the few things that happen between requests and that explain them. */
import { debuglog } from 'node:util';
import { visible } from './format/text.js';

const debug = debuglog('qcow2');

/** Whether somebody listens, for what takes more to say than its values. */
export const isLogging = (): boolean => debug.enabled;

/** Costs a look at a flag while nobody listens. Takes a format string and its values, as `util.format`; shows text as one line. */
export function log(format: string, ...values: readonly unknown[]): void {
  if (debug.enabled)
    debug(format, ...values.map((value) => (typeof value === 'string' ? visible(value) : value)));
}
