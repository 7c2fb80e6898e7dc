/** Events for `node:diagnostics_channel`, which costs next to nothing while nobody listens. */
import { channel, tracingChannel } from 'node:diagnostics_channel';
import type { RequestKind } from './statistics.js';

/** What the channels `qcow2:open` and `qcow2:close` publish. */
export interface ImageEvent {
  /** The image's path, or the name of its storage. */
  readonly image: string;
  /** Whether it is open for writing. */
  readonly writable: boolean;
}

/**
 * The context that the tracing channel `qcow2:request` (`tracing:qcow2:request:start`, `:end`, `:asyncStart`, `:asyncEnd`, `:error`)
 * publishes for every request; Node adds `result` and `error`.
 */
export interface RequestEvent {
  /** The image's path, or the name of its storage. */
  readonly image: string;
  /** What is asked. */
  readonly kind: RequestKind;
  /** First byte of the disk; 0 for a flush. */
  readonly position: number | bigint;
  /** Bytes; 0 for a flush. */
  readonly length: number | bigint;
}

export const openChannel = channel('qcow2:open');
export const closeChannel = channel('qcow2:close');
const requestChannel = tracingChannel<'qcow2:request', RequestEvent>('qcow2:request');

/** Whether somebody listens to requests. */
export const isTraced = (): boolean => requestChannel.hasSubscribers;

/** Runs a request, told to whoever listens. */
export function traced(work: () => Promise<void>, event: () => RequestEvent): Promise<void> {
  return requestChannel.hasSubscribers ? requestChannel.tracePromise(work, event()) : work();
}
