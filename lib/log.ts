/** What `NODE_DEBUG=qcow2` prints on standard error: the few things that happen between requests and that explain them. */
import { debuglog } from 'node:util';

/** Costs a look at a flag while nobody listens. Takes a format string and its values, as `util.format`. */
export const log = debuglog('qcow2');
