/** The ways a command ends early: what to tell the user, and with which exit code. */

/** A message for the user; each of its lines is printed behind the program's name, the hint as it is. */
export class Failure extends Error {
  override readonly name: string = 'Failure';
  readonly hint: string | null;
  readonly exitCode: number;

  constructor(message: string, details: { hint?: string; exitCode?: number; cause?: unknown } = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
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

/** Whether an error says all there is to say as it is. */
export function isTold(error: unknown): boolean {
  return (
    error instanceof Failure || (error instanceof Error && ['Interrupted', 'BrokenPipe'].includes(error.name))
  );
}

/** What a shell reports for a program that SIGPIPE ended. */
export const brokenPipeExitCode = 141;
