/** The ways a command ends early: what to tell the user, and with which exit code. */
import type { Context } from './context.js';

/** One line or several; a line end within a line is none, but part of a name. */
export type Lines = string | readonly string[];

/** A message for the user; each of its lines is printed behind the program's name, those of the hint as they are. */
export class Failure extends Error {
  override readonly name: string = 'Failure';
  readonly lines: readonly string[];
  readonly hint: Lines | null;
  readonly exitCode: number;

  constructor(message: Lines, details: { hint?: Lines; exitCode?: number; cause?: unknown } = {}) {
    const lines = [message].flat();
    super(lines.join('\n'), details.cause === undefined ? undefined : { cause: details.cause });
    this.lines = lines;
    this.hint = details.hint ?? null;
    this.exitCode = details.exitCode ?? 1;
  }
}

/** A command line that makes no sense; the user is pointed to the help. */
export class UsageFailure extends Failure {
  override readonly name = 'UsageFailure';
}

/** The user asked for help instead of work. */
export class HelpWanted extends Error {
  override readonly name = 'HelpWanted';
}

/** Whoever read our output has gone away: there is nobody left to tell. */
export class BrokenPipe extends Error {
  override readonly name = 'BrokenPipe';
}

/** Prints the lines of a failure and of its hint. */
export function tell({ lines, hint }: Failure, { say, complain }: Pick<Context, 'say' | 'complain'>): void {
  lines.forEach(complain);
  if (hint !== null) [hint].flat().forEach(say);
}

/** Whether an error says all there is to say as it is. */
export function isTold(error: unknown): boolean {
  return (
    error instanceof Failure || (error instanceof Error && ['Interrupted', 'BrokenPipe'].includes(error.name))
  );
}

/** What a shell reports for a program that SIGPIPE ended. */
export const brokenPipeExitCode = 141;
